"""What every place of a version has: its name, and the name of the store in it. See `ensue.ports.Place`."""

from __future__ import annotations

import re

from ensue.errors import UsageError

_SUFFIX = re.compile(r"[a-z0-9_]{1,40}")
_VERSION = re.compile(r"v(\d+)")


def place_name(base: str, suffix: str, longest: int, what: str) -> str:
    """The name of a place beside `base`. Raises UsageError for one that the database would cut.

    >>> place_name("history", "v2", 63, "schema")
    'history_v2'
    """
    if not _SUFFIX.fullmatch(suffix):
        raise UsageError(f"place {suffix!r}: expected small letters, digits and _, at most 40")
    name = f"{base}_{suffix}"
    if len(name.encode()) > longest:
        raise UsageError(
            f"{what} {name!r} would have {len(name.encode())} bytes, expected at most {longest}: give the view, or its "
            "database, a shorter name"
        )
    return name


def store_name(service: str, suffix: str) -> str:
    """The name of the store in a place, which no other one has.

    >>> store_name("history", "v2"), store_name("history", "check_1")
    ('history@2', 'history@check_1')
    """
    version = _VERSION.fullmatch(suffix)
    return f"{service}@{version[1] if version else suffix}"
