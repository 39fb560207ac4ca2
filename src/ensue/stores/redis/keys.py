"""The names of everything that a service keeps on a server: one hash tag, so that one script may touch it all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ensue.message import Partition
from ensue.ports import Lookup, Table
from ensue.stores.places import place


class Keys:
    def __init__(self, service: str) -> None:
        self.prefix = f"{{ensue:{service}}}:".encode()
        self.meta = self.prefix + b"meta"
        self.changed = self.prefix + b"changed"
        self.tables = self.prefix + b"tables"
        self.checkpoints = self.prefix + b"checkpoints"
        self.letter_id = self.prefix + b"letter-id"
        self.letters = self.prefix + b"letters"
        self.inbox = self.prefix + b"inbox"
        self.responses = self.prefix + b"responses"
        self.responses_at = self.prefix + b"responses-at"
        self.workers = self.prefix + b"workers"
        self.leases = self.prefix + b"leases"

    def checkpoint(self, partition: Partition) -> bytes:
        return self.prefix + b"checkpoint:" + str(partition).encode()

    def letters_of(self, partition: Partition) -> bytes:
        return self.prefix + b"letters:" + str(partition).encode()

    def table(self, table: Table) -> bytes:
        return self.prefix + b"table:" + table.name.encode()

    def lookup(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> bytes:
        """The sorted set of the rows with these values of `lookup.equal`."""
        names = f"lookup:{table.name}:{','.join(lookup.equal)}:{','.join(lookup.order)}:"
        return self.prefix + names.encode() + place(equal)


def row_key(row_id: Any) -> bytes:
    """A row's field in the hash of its table."""
    return place((row_id,))


def member(order: Sequence[Any]) -> bytes:
    """A row's entry in a lookup: its place, which ends with its field in the hash; the last 2 bytes say how long."""
    whole = place(order)
    return whole + len(row_key(order[-1])).to_bytes(2, "big")
