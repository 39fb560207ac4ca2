"""The rows of one table inside a step: what was found, what becomes of it, and what that does to the lookups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import msgspec

from ensue.errors import UsageError
from ensue.ports import Lookup, Table
from ensue.stores.redis.keys import Keys, member, row_key

Row = Sequence[Any]
#: Words of one command in a script: Lua hands over a few thousand at most.
WORDS_MAX = 1000
#: Begins no value of MessagePack.
_NOTHING = b"\xc1"
_PLAIN = frozenset({int, str, float, bytes, bool, type(None)})
_encode = msgspec.msgpack.Encoder().encode
#: To tuples: a row that was handed out is compared with what becomes of it, so nobody may change it in place.
decode_row = msgspec.msgpack.Decoder(tuple[Any, ...]).decode


class Check(NamedTuple):
    """What a commit relies on: these fields of a hash hold what was found there, see `scripts.COMMIT`."""

    key: bytes
    fields: Sequence[bytes]
    found: bytes


def encode_row(table: Table, row: Row) -> bytes:
    if not _PLAIN.issuperset(map(type, row)):
        kinds = ", ".join(sorted({type(each).__name__ for each in row if type(each) not in _PLAIN}))
        raise UsageError(
            f"table {table.name}: a row holds {kinds}; this store keeps text, bytes, numbers and None: "
            "give the TableRepository columns={...: Column(to_row, from_row)}"
        )
    return _encode(row)


class Touched:
    """found: by field, as the server has it (None: no such row). changed: by field, the new row (None: it goes)."""

    def __init__(self, table: Table, keys: Keys) -> None:
        self.table = table
        self.key = keys.table(table)
        self.found: dict[bytes, bytes | None] = {}
        self.changed: dict[bytes, Row | None] = {}
        self._keys = keys
        self._fields: dict[Any, bytes] = {}  # by id, of the rows that were asked for
        self._rows: dict[bytes, Row] = {}  # those of `found` that were looked at
        at = {name: number for number, name in enumerate(table.columns)}
        self._lookups = [
            (each, itemgetter(*[at[name] for name in (*each.equal, *each.order)]), len(each.equal))
            for each in table.lookups
        ]

    def unknown(self, ids: Sequence[Any]) -> dict[Any, bytes]:
        """Those of these rows that were not asked for before, each with its field in the hash."""
        return {each: row_key(each) for each in ids if each not in self._fields}

    def knows(self, fields: Mapping[Any, bytes], found: Sequence[bytes | None]) -> None:
        """What the server has of rows that were unknown."""
        self.found.update(zip(fields.values(), found, strict=True))
        self._fields.update(fields)

    def has(self, row_id: Any) -> bool:
        field = self._fields[row_id]
        return (self.changed if field in self.changed else self.found)[field] is not None

    def row(self, row_id: Any) -> Row | None:
        field = self._fields[row_id]
        return self.changed[field] if field in self.changed else self._found(field)

    def _found(self, field: bytes) -> Row | None:
        row = self._rows.get(field)
        if row is None and (raw := self.found[field]) is not None:
            row = self._rows[field] = decode_row(raw)
        return row

    def change(self, row_id: Any, row: Row | None) -> None:
        self.changed[self._fields[row_id]] = row

    def checks(self) -> Iterator[Check]:
        fields = list(self.found)
        values = [_NOTHING if raw is None else raw for raw in self.found.values()]
        for begin in range(0, len(fields), WORDS_MAX):
            yield Check(self.key, fields[begin : begin + WORDS_MAX], b"".join(values[begin : begin + WORDS_MAX]))

    def writes(self) -> Iterator[list[bytes]]:
        """Commands for the commit."""
        entries: dict[bytes, list[bytes]] = {}
        gone: dict[bytes, list[bytes]] = {}
        pairs: list[bytes] = []
        removed: list[bytes] = []
        for field, row in self.changed.items():
            before = self._found(field)
            if row is not None:
                pairs += (field, encode_row(self.table, row))
            elif before is not None:
                removed.append(field)
            for lookup, values, equal in self._lookups:
                was = None if before is None else values(before)
                becomes = None if row is None else values(row)
                if was == becomes:
                    continue  # equal values have one place
                if before is not None:
                    key, entry = self._entry(lookup, was, equal)
                    gone.setdefault(key, []).append(entry)
                if row is not None:
                    key, entry = self._entry(lookup, becomes, equal)
                    entries.setdefault(key, []).extend((b"0", entry))
        yield from _commands(b"HSET", {self.key: pairs} if pairs else {})
        yield from _commands(b"HDEL", {self.key: removed} if removed else {})
        yield from _commands(b"ZREM", gone)
        yield from _commands(b"ZADD", entries)

    def _entry(self, lookup: Lookup, values: Any, equal: int) -> tuple[bytes, bytes]:
        """Where a row stands in a lookup: the sorted set, and the member of it. values: of its columns, one or more."""
        places = values if equal + len(lookup.order) > 1 else (values,)
        return self._keys.lookup(self.table, lookup, places[:equal]), member(self.table, lookup, places[equal:])


def _commands(name: bytes, words: dict[bytes, list[bytes]]) -> Iterator[list[bytes]]:
    for key, each in words.items():
        for begin in range(0, len(each), WORDS_MAX):
            yield [name, key, *each[begin : begin + WORDS_MAX]]
