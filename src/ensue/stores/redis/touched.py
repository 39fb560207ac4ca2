"""The rows of one table inside a step: what was found, what becomes of it, and what that does to the lookups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from ensue.errors import UsageError
from ensue.ports import Table
from ensue.stores.redis.keys import Keys, member, row_key

Row = Sequence[Any]
_PLAIN = frozenset({int, str, float, bytes, bool, type(None)})
_encode = msgspec.msgpack.Encoder().encode
decode_row = msgspec.msgpack.Decoder(list[Any]).decode


def encode_row(table: Table, row: Row) -> bytes:
    if not _PLAIN.issuperset(map(type, row)):
        kinds = ", ".join(sorted({type(each).__name__ for each in row if type(each) not in _PLAIN}))
        raise UsageError(
            f"table {table.name}: a row holds {kinds}; this store keeps text, bytes, numbers and None: "
            "give the TableRepository columns={...: Column(to_row, from_row)}"
        )
    return _encode(list(row))


class Touched:
    """found: by field, as the server has it (None: no such row). changed: by field, the new row (None: it goes)."""

    def __init__(self, table: Table, keys: Keys) -> None:
        self.table = table
        self.key = keys.table(table)
        self.found: dict[bytes, bytes | None] = {}
        self.changed: dict[bytes, Row | None] = {}
        self._keys = keys
        self._id_at = table.columns.index(table.id_column)

    def field(self, row: Row) -> bytes:
        return row_key(row[self._id_at])

    def row(self, row_id: Any) -> Row | None:
        field = row_key(row_id)
        if field in self.changed:
            return self.changed[field]
        raw = self.found[field]
        return None if raw is None else decode_row(raw)

    def change(self, row_id: Any, row: Row | None) -> None:
        self.changed[row_key(row_id)] = row

    def checks(self) -> Iterator[tuple[str, bytes, bytes, bytes | bool]]:
        for field, raw in self.found.items():
            yield "HGET", self.key, field, False if raw is None else raw

    def writes(self) -> Iterator[list[bytes | str]]:
        """Commands for the commit."""
        entries: dict[bytes, list[bytes | str]] = {}
        gone: dict[bytes, list[bytes | str]] = {}
        pairs: list[bytes | str] = []
        removed: list[bytes | str] = []
        for field, row in self.changed.items():
            raw = self.found[field]
            before = dict(self._entries(decode_row(raw))) if raw is not None else {}
            after = {} if row is None else dict(self._entries(row))
            if row is not None:
                pairs += [field, encode_row(self.table, row)]
            elif raw is not None:
                removed.append(field)
            for key, entry in before.items():
                if after.get(key) != entry:
                    gone.setdefault(key, []).append(entry)
            for key, entry in after.items():
                if before.get(key) != entry:
                    entries.setdefault(key, []).extend(("0", entry))
        yield from _commands("HSET", {self.key: pairs} if pairs else {})
        yield from _commands("HDEL", {self.key: removed} if removed else {})
        yield from _commands("ZREM", gone)
        yield from _commands("ZADD", entries)

    def _entries(self, row: Row) -> Iterator[tuple[bytes, bytes]]:
        """Where this row stands: (sorted set, member) of each lookup."""
        values = dict(zip(self.table.columns, row, strict=True))
        for lookup in self.table.lookups:
            key = self._keys.lookup(self.table, lookup, [values[name] for name in lookup.equal])
            yield key, member(self.table, lookup, [values[name] for name in lookup.order])


def _commands(name: str, words: dict[bytes, list[bytes | str]]) -> Iterator[list[bytes | str]]:
    for key, each in words.items():
        for begin in range(0, len(each), 1000):  # Lua hands over a few thousand words at most
            yield [name, key, *each[begin : begin + 1000]]
