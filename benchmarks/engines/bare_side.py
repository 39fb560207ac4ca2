"""The bare side in rounds: the backlog once in its log, a fresh database for each round."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.engines.bare_loop import Apply, drain
from benchmarks.engines.ensue_side import check
from benchmarks.engines.pairs import Servers
from benchmarks.engines.wire import incoming
from benchmarks.rounds import Sample, Stopwatch
from benchmarks.workload import TransferMade


class BareSide:
    def __init__(self, servers: Servers, events: Sequence[TransferMade]) -> None:
        self._servers = servers
        self._events = events
        asyncio.run(self._fill())

    async def _fill(self) -> None:
        log = await self._servers.pair.open_log(self._servers.log_url)
        try:
            await log.fill(list(incoming(self._events)))
        finally:
            await log.close()

    def run(
        self, batch: int, apply: Callable[[Any], Apply] = lambda database: database.apply, *, few: int = 0
    ) -> Sample:
        """Time one round. apply: how the database applies records, in one transaction or in several.

        few: only so many of the backlog's events, for a way that is slow.
        """
        events = self._events[:few] if few else self._events
        with self._servers.database() as url:
            sample = asyncio.run(self._drain(url, batch, apply, len(events)))
            check(self._servers, url, events, "outbox")
        return sample

    async def _drain(self, url: str, batch: int, apply: Callable[[Any], Apply], count: int) -> Sample:
        pair = self._servers.pair
        database = await pair.open_database(url)
        log = await pair.open_log(self._servers.log_url)
        try:
            await log.begin()
            await asyncio.to_thread(self._servers.settle)
            watch = Stopwatch()
            await drain(database, log, apply(database), count, batch)
            return watch.stop(count)
        finally:
            await log.close()
            await database.close()
