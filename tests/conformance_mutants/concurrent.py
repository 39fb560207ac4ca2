"""Stores that read the outbox of a concurrent database in one of the obvious, wrong orders. The suite rejects each.

They wrap a healthy store with concurrent writers. Records are told apart by their data.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from tests.conformance_mutants.stores import WrappedStore, WrappedTransaction

from ensue.message import OutboxRecord
from ensue.ports import Row, StepTransaction, Store, Table


class _Numbering(WrappedTransaction):
    """Takes a number when it first writes, as a transaction its id, and one for each record, as from a sequence."""

    def __init__(self, healthy: StepTransaction, store: _Numbered) -> None:
        super().__init__(healthy)
        self._store = store
        self.number = 0

    def writes(self) -> None:
        if not self.number:
            self.number = next(self._store.transactions)
            self._store.begun.add(self.number)

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        self.writes()
        await self.healthy.update_rows(table, rows, expect=expect)

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        self.writes()
        await self.healthy.insert_rows(table, rows)

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self.writes()
        for each in records:
            self._store.numbers[each.data] = (self.number, next(self._store.records))
        await self.healthy.outbox_add(records)


class _Numbered(WrappedStore):
    """Reads in an order of its own: `visible` says which records, in which order. Positions are what it makes of it."""

    def __init__(self, healthy: Store) -> None:
        super().__init__(healthy)
        self.transactions, self.records = count(1), count(1)
        self.begun: set[int] = set()
        self.numbers: dict[bytes, tuple[int, int]] = {}

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        numbering: _Numbering | None = None
        try:
            async with self.healthy.transaction(upkeep=upkeep) as healthy:
                numbering = _Numbering(healthy, self)
                yield numbering
        finally:
            if numbering is not None:
                self.begun.discard(numbering.number)

    def visible(self, found: Sequence[OutboxRecord]) -> list[tuple[int, OutboxRecord]]:
        """Return (position, record) of what is shown."""
        raise NotImplementedError

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        last: dict[tuple[str, int], int] = {}
        shown = []
        for number, each in self.visible(await self.healthy.outbox_after(0, 1_000_000)):
            place = (each.topic, each.partition)
            shown.append(OutboxRecord(*place, each.key, each.envelope, each.data, number, last.get(place, 0)))
            last[place] = number
        return [each for each in shown if each.position > position][:limit]


class ReadsBySequence(_Numbered):
    """`WHERE id > last`: the number was taken before the commit, so what commits late is never read."""

    def visible(self, found: Sequence[OutboxRecord]) -> list[tuple[int, OutboxRecord]]:
        return sorted(((self.numbers[each.data][1], each) for each in found), key=lambda pair: pair[0])


class WaitsForHoles(ReadsBySequence):
    """By sequence, and never past a number that is missing: it may still come. What was undone never does."""

    def visible(self, found: Sequence[OutboxRecord]) -> list[tuple[int, OutboxRecord]]:
        ordered = super().visible(found)
        return [pair for place, pair in enumerate(ordered, 1) if pair[0] == place]


class ReadsByTransaction(_Numbered):
    """(transaction id, id) below the oldest open transaction: loses nothing, and swaps two events of one entity."""

    def visible(self, found: Sequence[OutboxRecord]) -> list[tuple[int, OutboxRecord]]:
        horizon = min(self.begun, default=1 << 62)
        ordered = sorted(found, key=lambda each: self.numbers[each.data])
        return list(enumerate([each for each in ordered if self.numbers[each.data][0] < horizon], 1))


class WaitsForOpenTransactions(_Numbered):
    """In the right order, but only what is older than every open transaction: one held open stops everything."""

    def visible(self, found: Sequence[OutboxRecord]) -> list[tuple[int, OutboxRecord]]:
        horizon = min(self.begun, default=1 << 62)
        shown = []
        for each in found:
            if self.numbers[each.data][0] >= horizon:
                break
            shown.append((each.position, each))
        return shown
