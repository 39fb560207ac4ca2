"""Ensue's own state as rows: checkpoints, dead letters, claims, answers, leases, the relay's position.

Ensue is the first user of its own store port: what it remembers lies in tables (`ensue.tables`) that are read and
written like a user's entities, in the transaction of the step that it belongs to. So each of these is written once and
holds on every store. See docs/adr/0028.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

from ensue.engine.books.letters import BY_STATE, REFUSED_MAX, Letters
from ensue.engine.books.once import Once
from ensue.engine.books.relays import HALLMARK, SEEDED, Relays, pruned, waits
from ensue.engine.books.workers import NUMBERS, Workers, numbers_of
from ensue.message import DeadLetterState
from ensue.ports import Row, Table
from ensue.saga.instance import Status
from ensue.tables import ANSWERS, CHECKPOINTS, CLAIMS, DECISIONS, LETTERS, RECURRING, RELAY, REPLIES, SAGAS, TIMERS

__all__ = ["HALLMARK", "NUMBERS", "REFUSED_MAX", "Books", "numbers_of"]


class Books(Letters, Once, Workers, Relays):
    """All of it. What takes a transaction is written with the step; everything else opens its own."""

    async def kept(self, dropped_before: float) -> AsyncIterator[tuple[Table, Row]]:
        """All rows but those that say who works on what: for another database that goes on as this one.

        dropped_before: the records that do not go along were written before that time, seconds since the epoch.
        """
        for table in (CHECKPOINTS, CLAIMS, ANSWERS, TIMERS, RECURRING, REPLIES, DECISIONS):
            [lookup] = table.lookups
            async for row in self._all(table, lookup):
                yield table, row
        for status in Status:
            async for row in self._all(SAGAS, SAGAS.lookups[0], [status.value]):
                yield SAGAS, row
        for state in DeadLetterState:
            async for row in self._all(LETTERS, BY_STATE, [state.value]):
                yield LETTERS, row
        source = self._store.source
        for name, value in await self._store.rows().get(
            RELAY, [source, pruned(source), waits(source), SEEDED, *HALLMARK]
        ):
            yield RELAY, (name, max(value, math.ceil(dropped_before * 1e6)) if name == pruned(source) else value)
