"""Data that a person wrote: a field that its class does not have is a slip of the pen there, not a newer version's."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

import msgspec

from ensue.event import EventType
from ensue.roundtrip import fields_of


def unknown_fields(spec: EventType[Any], event: Any, data: bytes, known: Container[str] = ()) -> list[str]:
    """Return the names of fields in JSON data, which was read as `event`, that its class does not have. known: others
    that are in order all the same."""
    given = msgspec.json.decode(data)
    if not isinstance(given, dict):
        return []
    return sorted(name for name in given.keys() - _names(spec, event) if name not in known)


def _names(spec: EventType[Any], event: Any) -> set[str]:
    """What its fields may be called in JSON."""
    written = msgspec.json.decode(spec.write(event))
    names = set(fields_of(spec.cls)) | (written.keys() if isinstance(written, dict) else set())
    if isinstance(spec.cls, msgspec.StructMeta):
        names |= {each.encode_name for each in msgspec.structs.fields(spec.cls)}
        tag = spec.cls.__struct_config__.tag_field
        names |= {tag} if tag else set()
    return names
