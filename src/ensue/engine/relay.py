"""The relay: moves outbox records to the log in position order, from its own checkpoint, as often as it takes.

Each record carries the position of the one before it in its partition, so a relay that restarts, or two that run at
once, send the very same chain and every duplicate is known as one. Source: polling publisher, Richardson,
Microservices Patterns, ch. 3; the chain is ours (docs/adr/0002-chain-and-watermark.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ensue.engine.context import Context
from ensue.engine.held import Held
from ensue.engine.loop import Loop
from ensue.engine.pace import Pace
from ensue.engine.resend import Resender
from ensue.engine.restored import Sent, following, record_at, refuse_restored_store
from ensue.engine.ticks import Ticks
from ensue.engine.witness import ask_subscribers, refuse_witnessed
from ensue.errors import RecordRefused, RetryableError, StoreConflict
from ensue.message import OutboxRecord
from ensue.texts import logger

log = logger("ensue.relay")

#: So many times the pause between two questions of a subscriber are its answers waited for.
_ANSWERS = 2


class Relay(Loop):
    """Publishes one store's outbox."""

    log = log

    def __init__(self, context: Context) -> None:
        super().__init__(f"relay of {context.service}", context)
        # One append at a time: a batch sent again must not fall between two halves of a live one.
        self._appending = asyncio.Lock()
        self.resender = Resender(context, self._appending, self._sent, self._compare)
        self._ticks = Ticks(context)
        self._source = ""
        self._examined = ""  # the source that was compared with what subscribers have applied
        #: The last record that was read; everything through it is sent but for what is held.
        self._last = Sent()
        self._held = Held()
        self._saved = 0
        self._saved_at = 0.0
        self._known_topics: set[str] = set()
        self._pace = Pace(context.clock.monotonic())
        # A backlog: the next batch is read while the last one is on its way to the broker.
        self._ahead: asyncio.Task[Sequence[OutboxRecord]] | None = None

    @property
    def position(self) -> int:
        """Everything at or below it is in the log."""
        return self._held.through(self._last.position)

    @property
    def held(self) -> list[str]:
        """What the broker refuses, a line for each partition that waits behind it; empty: nothing."""
        return self._held.reasons

    def _sent(self, where: tuple[str, int]) -> int:
        """Through which position a partition is sent."""
        return self._held.sent(where, self._last.position)

    async def _begin(self) -> None:
        await self._let_go()
        store = self._context.store
        self._known_topics.clear()  # the broker may have lost them
        heads = await store.outbox_heads()
        if self._source == store.source:  # begun before: what was sent then is known here, whatever the log has lost
            await self._compare()
        self._source = store.source
        self._held.clear()  # the stored position is before all that is held
        self._saved = position = await self._context.books.relay_position()
        last = await record_at(store, position) if position else None
        self._last = Sent(position) if last is None else Sent.of(last)
        silent = await refuse_restored_store(self._context)  # after that look: what goes back later is seen by it
        if self._examined != self._source:  # else it is known from what was sent since, and subscribers are listened to
            await self.resender.listen()  # before the look at what was said: nothing falls between the two
            # Where an epoch begins, nothing was sent of it.
            begins = last is None and all(head > position for head in heads.values())
            if silent and position and not begins:
                await self._ask(silent, position, max(heads.values(), default=0))
            else:
                await refuse_witnessed(self._context)
            self._examined = self._source
        self._ticks.start(heads)

    async def _ask(self, silent: Sequence[tuple[str, int]], position: int, head: int) -> None:
        """The log does not know what was sent: whoever has applied any of it may say so before anything new is sent.

        Raises StoreRestored. Those who do not run now say it when they begin.
        """
        books = self._context.books
        await books.note_waiting(position, head)
        await refuse_witnessed(self._context)
        limit_s = _ANSWERS * self._context.config.resend_interval_s
        log.warning(
            "relay of %s: the log holds nothing of %s in %d partition(s) to which it was sent: asking what subscribers "
            "have applied, for %g s",
            self._context.service, self._source, len(silent), limit_s,
        )  # fmt: skip
        try:
            async with asyncio.timeout(limit_s):
                await self._stop.cuts(ask_subscribers(self._context, silent))
        except TimeoutError:
            log.info("relay of %s: nobody has applied what this store did not write", self._context.service)
            await books.note_sending()

    async def _turn(self) -> None:
        """Send one batch, or wait for one."""
        context = self._context
        records = await self._next()
        if records:
            context.faults.point("relay.read")
            async with self._appending:
                if len(records) >= context.config.batch_records_max and not self._stop.asked:
                    self._ahead = asyncio.create_task(self._read(Sent.of(records[-1])))
                await self._append([each for each in records if (each.topic, each.partition) not in self._held])
                self._last = Sent.of(records[-1])
            context.faults.point("relay.appended")
            context.progress()
            await context.clock.sleep(0)  # an embedded store never suspends: let the other loops in
        for where in self._held.due(context.clock.monotonic()):
            async with self._appending:
                await self._try_held(where)
        await self._save_when_due()
        if self._ticks.next_due_s() == 0:
            async with self._appending:
                await self._ticks.send_due(self._sent, self._source)
        if records:
            if (pause := self._pace.turn(context.clock.monotonic())) and self._ahead is None:
                await self._pause(pause)
        else:
            # Woken by a commit, by `stop`, or by time.
            await self._stop.cuts(context.store.outbox_wait(self._pause_s()))

    async def _next(self) -> Sequence[OutboxRecord]:
        ahead, self._ahead = self._ahead, None
        if ahead is None:
            return await self._read(self._last)
        try:
            return await ahead
        except asyncio.CancelledError:  # which has cancelled the reading too: `_let_go` waits for its end
            self._ahead = ahead
            raise

    async def _read(self, sent: Sent, limit: int | None = None) -> Sequence[OutboxRecord]:
        """Return up to `limit` records after `sent`, as many as a batch holds unless told.

        Raises StoreRestored when the store has gone back, StoreConflict when another process began an epoch.
        """
        store = self._context.store
        limit = self._context.config.batch_records_max if limit is None else limit
        # From its own position on: the store that has it is still the one it was read from. See `restored`.
        found = await store.outbox_after(max(sent.position - 1, 0), limit + min(sent.position, 1))
        if store.source != self._source:
            raise StoreConflict(f"{self._source} has ended, this store is {store.source} now: beginning anew")
        return await following(self._context, sent, found)

    async def _compare(self) -> None:
        """Raise as `_read` does."""
        if self._last.position:
            await self._read(self._last, 0)

    async def _let_go(self) -> None:
        """After a failure or at a stop: what was read ahead is read again from the position that is sent."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.wait((ahead,))
            if not ahead.cancelled() and (error := ahead.exception()) is not None:
                log.debug("relay of %s: what was read ahead failed: %s", self._context.service, error)

    async def _try_held(self, where: tuple[str, int]) -> None:
        """Send what is held of a partition, up to where the relay is; it stays held while the broker refuses it."""
        store = self._context.store
        while True:
            after = self._sent(where)
            records = await store.outbox_of(*where, after, self._last.position, self._context.config.batch_records_max)
            await self._compare()  # between the read and its append: these must be of the life that was sent
            if not records:
                self._held.release(where)
                return
            if where in await self._append(records):
                return
            self._held.advance(where, records[-1].position + 1)

    async def _append(self, records: Sequence[OutboxRecord]) -> set[tuple[str, int]]:
        """Append all records but those that the broker refuses and what is behind them; return their partitions."""
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
        refused: set[tuple[str, int]] = set()
        while True:
            try:
                await broker.append_many(self._source, batches)
                break
            except RecordRefused as error:
                first = self._held.hold(error, records, self._context.clock.monotonic())
                where = first.topic, first.partition
                refused.add(where)
                batches[where] = [each for each in batches[where] if each.position < first.position]
                if not batches[where]:
                    del batches[where]
        self._ticks.sent({where: batch[-1].position for where, batch in batches.items()})
        return refused

    def _pause_s(self) -> float:
        config = self._context.config
        pause = min(config.poll_interval_s, self._ticks.next_due_s())
        return min(pause, config.relay_save_interval_s) if self.position > self._saved else pause

    async def _save_when_due(self) -> None:
        now = self._context.clock.monotonic()
        if self.position > self._saved and now - self._saved_at >= self._context.config.relay_save_interval_s:
            await self._save()
            self._saved_at = now

    async def _save(self) -> None:
        position = self.position
        await self._context.books.save_relay_position(self._source, position)
        self._saved = position
        self._context.faults.point("relay.saved")

    async def _end(self) -> None:
        if self.position > self._saved:
            try:
                await self._compare()  # to an older copy the position would say that what it writes next was sent
                await self._save()
            except RetryableError as error:
                log.info("relay: the last position is not saved (%s); the batch will be sent again", error)
