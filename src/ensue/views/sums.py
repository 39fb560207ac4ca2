"""Whether two big tables hold the same rows, by a sum for each of some buckets. Pure rules over values.

A bucket has those rows whose key has one hash, and is told by how many they are and by the sum of a keyed hash of each.
A sum, not an exclusive or: a row that is there twice would take itself out of that. The key is made anew for each
comparison, so that nobody can make rows that come to one sum. What differs is compared row by row.
"""

from __future__ import annotations

import datetime
import decimal
import enum
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ensue.errors import UsageError

BUCKETS: Final = 1024
_MODULUS: Final = 1 << 128


def canonical(value: Any) -> bytes:
    """The bytes of one value, the same for equal values. Raises UsageError for a value that has none.

    >>> canonical(decimal.Decimal("1.50")) == canonical(decimal.Decimal("1.5"))
    True
    >>> canonical("1") == canonical(1)
    False
    """
    return b"%d:" % len(written := _written(value)) + written


def _written(value: Any) -> bytes:
    if isinstance(value, enum.Enum):
        value = value.value
    match value:
        case None:
            return b"-"
        case bool() | int():
            return b"i%d" % value
        case float():
            return b"f" + repr(value + 0.0).encode()  # -0.0 is 0.0
        case decimal.Decimal():
            return b"d" + str(value.normalize() + 0).encode() if value.is_finite() else b"d" + str(value).encode()
        case str():
            return b"s" + value.encode("utf-8", "surrogatepass")
        case bytes() | bytearray() | memoryview():
            return b"b" + bytes(value)
        case uuid.UUID():
            return b"u" + value.bytes
        case datetime.datetime():
            moment = value if value.tzinfo is None else value.astimezone(datetime.UTC)
            return b"t" + moment.isoformat().encode()
        case datetime.date() | datetime.time():
            return b"t" + value.isoformat().encode()
        case datetime.timedelta():
            return b"t" + repr(value).encode()
        case list() | tuple():
            return b"l" + b"".join(map(canonical, value))
        case set() | frozenset():
            return b"l" + b"".join(sorted(map(canonical, value)))
        case Mapping():
            pairs = sorted((canonical(name), canonical(each)) for name, each in value.items())
            return b"m" + b"".join(name + each for name, each in pairs)
    raise UsageError(f"a {type(value).__name__} cannot be compared: leave its column out (--ignore TABLE.COLUMN)")


class Summary(msgspec.Struct, frozen=True):
    """Of one bucket: how many rows, and the sum of their hashes."""

    count: int = 0
    total: int = 0


class Sums:
    """The buckets of one table. secret: the same for the two that are compared, else of chance."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._counts = [0] * BUCKETS
        self._totals = [0] * BUCKETS

    def bucket(self, key: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(key, digest_size=2).digest()) % BUCKETS

    def add(self, key: bytes, row: bytes) -> None:
        """key, row: canonical. Rows of one key fall into one bucket."""
        at = self.bucket(key)
        found = hashlib.blake2b(row, digest_size=16, key=self._secret).digest()
        self._counts[at] += 1
        self._totals[at] = (self._totals[at] + int.from_bytes(found)) % _MODULUS

    @property
    def count(self) -> int:
        return sum(self._counts)

    def __getitem__(self, bucket: int) -> Summary:
        return Summary(self._counts[bucket], self._totals[bucket])

    def differing(self, other: Sums) -> frozenset[int]:
        """The buckets that hold other rows."""
        return frozenset(each for each in range(BUCKETS) if self[each] != other[each])


class Difference(msgspec.Struct, frozen=True):
    """One row that is not the same. key: its values. live, fold: the row there, by column; None: there is none.
    columns: those that differ, where both have the row. times: how often it is there and in the fold."""

    table: str
    key: tuple[Any, ...]
    live: Mapping[str, Any] | None
    fold: Mapping[str, Any] | None
    columns: tuple[str, ...] = ()
    times: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        named = ", ".join(map(str, self.key))
        if self.live is None:
            return f"{self.table} {named}: is missing"
        if self.fold is None:
            return f"{self.table} {named}: follows from no event"
        if not self.columns:
            return f"{self.table} {named}: is there {self.times[0]} times, expected {self.times[1]}"
        said = ", ".join(f"{each} is {self.live[each]!r}, expected {self.fold[each]!r}" for each in self.columns)
        return f"{self.table} {named}: {said}"


Rows = Mapping[bytes, Sequence[tuple[tuple[Any, ...], Mapping[str, Any]]]]
"""Of some buckets: by canonical key, the key's values and each row that has it."""


def differences(table: str, live: Rows, fold: Rows) -> list[Difference]:
    """Return the rows that are not the same, in the order of their canonical keys."""
    found: list[Difference] = []
    for key in sorted({*live, *fold}):
        ours, theirs = live.get(key, ()), fold.get(key, ())
        if sorted(map(_row, ours)) == sorted(map(_row, theirs)):
            continue
        times = (len(ours), len(theirs))
        values = (*ours, *theirs)[0][0]
        one = ours[0][1] if ours else None
        other = theirs[0][1] if theirs else None
        columns: tuple[str, ...] = ()
        if one is not None and other is not None:
            columns = tuple(name for name in one if canonical(one[name]) != canonical(other[name]))
        found.append(Difference(table, values, one, other, columns, times))
    return found


def _row(found: tuple[tuple[Any, ...], Mapping[str, Any]]) -> bytes:
    return row_bytes(found[1])


def row_bytes(row: Mapping[str, Any]) -> bytes:
    """The canonical bytes of a row, whatever the order of its columns."""
    return b"".join(canonical(name) + canonical(row[name]) for name in sorted(row))
