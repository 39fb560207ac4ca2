"""The bare side: one consumer and its relay by hand, in one process, batch by batch, over a database and a log.

What a skilled engineer would write for this job alone, with the fastest calls of each driver. No partitions, leases,
gap check, retries, dead letters, nor a second process: one consumer, one writer.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from benchmarks.engines.wire import Read, Sent

#: How often the relay stores how far it is; Ensue's does it as often.
SAVE_S = 0.5

#: Applies a batch in one transaction, or each record in one of its own.
Apply = Callable[[Sequence[Read]], Awaitable[None]]


class Database(Protocol):
    """The service's database, with all accounts in it, and connections of its own for steps and for the relay."""

    async def outbox(self, after: int, limit: int) -> Sequence[tuple[int, str, bytes]]:
        """Return id, key and body of up to `limit` rows with a greater id."""

    async def save_relay(self, position: int) -> None: ...

    async def close(self) -> None: ...


class Log(Protocol):
    """One topic to read, from its start, and one to write."""

    async def fill(self, records: Sequence[Sent]) -> None:
        """Put the backlog into the topic that is read, once for all rounds."""

    async def begin(self) -> None:
        """Be ready to read from the start."""

    async def read(self, limit: int) -> Sequence[Read]:
        """Return the next records, at most `limit`; it may be called when at least one is there."""

    async def append(self, records: Sequence[Sent]) -> None:
        """Return when all are acknowledged. Raises when one is not."""

    async def close(self) -> None: ...


async def drain(database: Database, log: Log, apply: Apply, events: int, batch: int) -> None:
    """Return when `events` events have taken effect and those that they published are acknowledged."""
    committed = asyncio.Event()

    async def consume() -> None:
        left = events
        while left:
            records = await log.read(min(batch, left))
            await apply(records)
            left -= len(records)
            committed.set()

    async def relay() -> None:
        left, position, saved_at = events, 0, time.monotonic()
        while left:
            committed.clear()
            rows = await database.outbox(position, batch)
            if not rows:
                await committed.wait()
                continue
            await log.append([(key, body) for _, key, body in rows])
            position = rows[-1][0]
            left -= len(rows)
            if time.monotonic() - saved_at > SAVE_S:
                await database.save_relay(position)
                saved_at = time.monotonic()
        await database.save_relay(position)

    async with asyncio.TaskGroup() as group:
        group.create_task(consume())
        group.create_task(relay())
