"""A committed schema: the name of its file, its bytes, and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from ensue.contracts.described import Described, Kind
from ensue.contracts.plain import check_references
from ensue.errors import UsageError

DIALECT = "https://json-schema.org/draft/2020-12/schema"


class Committed(msgspec.Struct, frozen=True):
    """What a file says. schema: as `Described.schema`. services: as `write` has them; none: it does not say."""

    name: str
    kind: Kind
    topic: str
    key: str
    version: int
    schema: dict[str, Any]
    services: Sequence[str] = ()


class _Marks(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is no JSON Schema in a file, at `x-ensue`. No services are left out."""

    name: str
    kind: Kind
    topic: str
    key: str
    version: int
    services: list[str] = []


def file_name(name: str) -> str:
    """
    >>> file_name("orders.OrderCreated.v1")
    'orders.OrderCreated.v1.json'
    """
    return f"{quote(name, safe='')}.json"


def write(described: Described, services: Iterable[str] = ()) -> bytes:
    """The same bytes for the same declaration, whoever writes them: names in order, two spaces, one new line.

    services: as `writers` names them, so that `changes` can tell what they do not write any more from what others do.
    """
    marks = _Marks(
        described.name, described.kind, described.topic, described.key, described.version, sorted(set(services))
    )
    document = {"$schema": DIALECT, **described.schema, "x-ensue": msgspec.to_builtins(marks)}
    return pretty(document, sort=True)


def pretty(document: Any, *, sort: bool = False) -> bytes:
    return json.dumps(document, indent=2, sort_keys=sort, ensure_ascii=False).encode() + b"\n"


def read(data: bytes, where: str) -> Committed:
    """Raises UsageError, with `where` it is, for what `write` has not made."""
    try:
        document = json.loads(data)
        marks = msgspec.convert(document.pop("x-ensue"), _Marks)
        document.pop("$schema")
        check_references(document)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{where} is no schema that Ensue has written ({type(error).__name__}: {error}): restore it, or write it "
            "anew with `ensue schemas export`"
        ) from error
    return Committed(marks.name, marks.kind, marks.topic, marks.key, marks.version, document, marks.services)
