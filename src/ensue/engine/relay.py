"""The relay: moves outbox records to the log in position order, from its own checkpoint, as often as it takes.

Each record carries the position of the one before it in its partition, so a relay that restarts, or two that run at
once, send the very same chain and every duplicate is known as one. Source: polling publisher, Richardson,
Microservices Patterns, ch. 3; the chain is ours (DESIGN, section 2).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from ensue.engine.context import Context
from ensue.engine.pace import Pace
from ensue.engine.resend import Resender
from ensue.engine.restored import refuse_restored_store
from ensue.engine.stop import Stop
from ensue.engine.ticks import Ticks
from ensue.errors import RetryableError
from ensue.message import OutboxRecord

log = logging.getLogger("ensue.relay")

#: Records in position order, and the source to which they belong.
Read = tuple[Sequence[OutboxRecord], str]


class Relay:
    """Publishes one store's outbox. `run` ends with `stop`, or with StoreRestored (an operator must act)."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._ticks = Ticks(context)
        self._position = 0
        self._saved = 0
        self._saved_at = 0.0
        self._known_topics: set[str] = set()
        self._stop = Stop()
        self._pace = Pace(context.clock.monotonic())
        # A backlog: the next batch is read while the last one is on its way to the broker.
        self._ahead: asyncio.Task[Read] | None = None
        # One append at a time: a batch sent again must not fall between two halves of a live one.
        self._appending = asyncio.Lock()

    @property
    def position(self) -> int:
        """Everything at or below it is in the log."""
        return self._position

    async def run(self) -> None:
        pause = 0.05
        while not self._stop.asked:
            try:
                await self._start()
                async with asyncio.TaskGroup() as group:
                    resender = Resender(self._context, self._appending, lambda: self._position)
                    asking = group.create_task(resender.run())
                    try:
                        while not self._stop.asked:
                            await self._turn()
                            pause = 0.05
                    finally:
                        asking.cancel()
                        await self._forget_ahead()
            except* RetryableError as errors:
                log.warning("relay of %s: %s; again in %.2f s", self._context.service, errors.exceptions[0], pause)
                # Not to be woken by commits: while the broker is away they would make this a busy loop.
                await self._stop.cuts(self._context.clock.sleep(pause))
                pause = min(pause * 2, 5.0)
        await self._save_at_stop()

    def stop(self) -> None:
        """Finish the batch at hand and return from `run`; safe to repeat."""
        self._stop.ask()

    async def _start(self) -> None:
        store = self._context.store
        self._known_topics.clear()  # the broker may have lost them
        self._position = self._saved = await store.relay_load()
        await refuse_restored_store(self._context)
        self._ticks.start(await store.outbox_heads())

    async def _turn(self) -> None:
        """Send one batch, or wait for one."""
        context = self._context
        records, source = await self._next()
        if records:
            context.faults.point("relay.read")
            async with self._appending:
                if len(records) >= context.config.batch_records_max and not self._stop.asked:
                    self._ahead = asyncio.create_task(self._read(records[-1].position))
                await self._append(records, source)
                self._position = records[-1].position
            context.faults.point("relay.appended")
            context.progress()
            await context.clock.sleep(0)  # an embedded store never suspends: let the other loops in
        await self._save_when_due()
        if self._ticks.next_due_s() == 0:
            async with self._appending:
                await self._ticks.send_due(self._position)
        if records:
            if (pause := self._pace.turn(context.clock.monotonic())) and self._ahead is None:
                await self._stop.cuts(context.clock.sleep(pause))
        else:
            # Woken by a commit, by `stop`, or by time.
            await self._stop.cuts(context.store.outbox_wait(self._pause_s()))

    async def _next(self) -> Read:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._read(self._position)
        try:
            return await ahead
        except asyncio.CancelledError:  # which has cancelled the reading too: `_forget_ahead` waits for its end
            self._ahead = ahead
            raise

    async def _read(self, after: int) -> Read:
        """Return the records after a position, and whose they are: it may change with any other read."""
        store = self._context.store
        return await store.outbox_after(after, self._context.config.batch_records_max), store.source

    async def _forget_ahead(self) -> None:
        """After a failure or at a stop: what was read ahead is read again from the position that is sent."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait((ahead,))
            if not ahead.cancelled() and (error := ahead.exception()) is not None:
                log.debug("relay of %s: what was read ahead failed: %s", self._context.service, error)

    async def _append(self, records: Sequence[OutboxRecord], source: str) -> None:
        broker = self._context.broker
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for record in records:
            where = (record.topic, record.partition)
            batch = batches.get(where)
            if batch is None:
                batches[where] = [record]
            else:
                batch.append(record)
        for topic, _ in batches:
            if topic not in self._known_topics:
                await broker.ensure_topic(topic, self._context.partitions)
                self._known_topics.add(topic)
        await broker.append_many(source, batches)
        self._ticks.sent({where: batch[-1].position for where, batch in batches.items()})

    def _pause_s(self) -> float:
        config = self._context.config
        pause = min(config.poll_interval_s, self._ticks.next_due_s())
        return min(pause, config.relay_save_interval_s) if self._position > self._saved else pause

    async def _save_when_due(self) -> None:
        now = self._context.clock.monotonic()
        if self._position > self._saved and now - self._saved_at >= self._context.config.relay_save_interval_s:
            await self._save()
            self._saved_at = now

    async def _save(self) -> None:
        position = self._position
        await self._context.store.relay_save(position)
        self._saved = position
        self._context.faults.point("relay.saved")

    async def _save_at_stop(self) -> None:
        if self._position > self._saved:
            try:
                await self._save()
            except RetryableError as error:
                log.info("relay: the last position is not saved (%s); the batch will be sent again", error)
