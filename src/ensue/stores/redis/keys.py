"""The names of everything that a service keeps on a server: one hash tag, so that one script may touch it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensue.ports import Lookup, Table
from ensue.stores.sort_keys import place, sort_key


class Keys:
    def __init__(self, service: str) -> None:
        self.prefix = f"{{ensue:{service}}}:".encode()
        self.meta = self.prefix + b"meta"
        self.tables = self.prefix + b"tables"

    def table(self, table: Table) -> bytes:
        return self.prefix + b"table:" + table.name.encode()

    def lookup(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> bytes:
        """The sorted set of the rows with these values of `lookup.equal`."""
        names = f"lookup:{table.name}:{','.join(lookup.equal)}:{','.join(lookup.order)}:"
        return self.prefix + names.encode() + place(table, lookup.equal, equal)


def row_key(row_id: Any) -> bytes:
    """A row's field in the hash of its table."""
    return sort_key((row_id,))


def member(table: Table, lookup: Lookup, order: Sequence[Any]) -> bytes:
    """A row's entry in a lookup: its place, which ends with its field in the hash; the last 2 bytes say how long."""
    whole = place(table, lookup.order, order)
    return whole + len(row_key(order[-1])).to_bytes(2, "big")
