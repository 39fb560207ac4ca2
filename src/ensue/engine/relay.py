"""The relay: moves outbox records to the log in position order, from its own checkpoint, as often as it takes.

Each record carries the position of the one before it in its partition, so a relay that restarts, or two that run at
once, send the very same chain and every duplicate is known as one. Source: polling publisher, Richardson,
Microservices Patterns, ch. 3; the chain is ours (docs/adr/0002-chain-and-watermark.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from ensue.codec import decode_envelope
from ensue.engine.context import Context
from ensue.engine.held import Held
from ensue.engine.loop import Loop
from ensue.engine.pace import Pace
from ensue.engine.portion import Portion
from ensue.engine.resend import Resender
from ensue.engine.restored import Looked, Sent, following, record_at, refuse_restored_store
from ensue.engine.sending import Sending, Where
from ensue.engine.ticks import Ticks
from ensue.engine.withdrawn import to_send
from ensue.engine.witness import ask_subscribers, refuse_witnessed
from ensue.errors import BrokerUnavailable, RetryableError, StoreConflict
from ensue.message import WITHDRAWN, HeldPartition, OutboxRecord
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
        self._held = Held()
        self._unknown: set[Where] = set()  # held until it is known what the log has there, see `refuse_restored_store`
        self._asks = False  # whether a partition must be asked about of which the log holds nothing
        self.resender = Resender(context, self._appending, self._sent, self._held.answers, self._compare)
        self._sending = Sending(context)
        self._ticks = Ticks(context, self._sending)
        self._source = ""
        self._examined = ""  # the source that was compared with what subscribers have applied
        #: The last record that was read; everything through it is sent but for what is held.
        self._last = Sent()
        self._written = 0  # through which position there were records when this began: some may be withdrawn
        self._retries: dict[Where, asyncio.Task[None]] = {}
        self._told: list[HeldPartition] | None = None  # what the database says of what is held; None: not known
        self._saved = 0
        self._saved_at = 0.0
        self._pace = Pace(context.clock.monotonic())
        self._portion = Portion(context.config.batch_records_max)
        # A backlog: the next batch is read while the last one is on its way to the broker.
        self._ahead: asyncio.Task[Sequence[OutboxRecord]] | None = None

    @property
    def position(self) -> int:
        """Everything at or below it is in the log."""
        return self._held.through(self._last.position)

    @property
    def held(self) -> list[HeldPartition]:
        """Partitions that wait behind a record which the broker does not take."""
        return self._held.shown

    @property
    def read_through(self) -> int:
        """Everything at or below it is in the log, or held."""
        return self._last.position

    def _sent(self, where: Where) -> int:
        """Through which position a partition is sent."""
        return self._held.sent(where, self._last.position)

    async def _begin(self) -> None:
        await self._let_go()
        store = self._context.store
        self._sending.forget()
        self._told = None
        heads = await store.outbox_heads()
        if self._source == store.source:  # begun before: what was sent then is known here, whatever the log has lost
            await self._compare()
        else:
            self._held.clear()
            self._unknown.clear()
        self._source = store.source  # its stored position is before all that is held
        self._saved = position = await self._context.books.relay_position()
        last = await record_at(store, position) if position else None
        self._last = Sent(position) if last is None else Sent.of(last)
        looked = Looked()
        # After the look at the last record: what goes back later is seen by that.
        await refuse_restored_store(self._context, looked)
        if self._examined != self._source:  # else it is known from what was sent since, and subscribers are listened to
            await self.resender.listen()  # before the look at what was said: nothing falls between the two
            # Where an epoch begins, nothing was sent of it.
            begins = last is None and all(head > position for head in heads.values())
            self._asks = bool(position) and not begins
            if looked.silent and self._asks:
                await self._context.books.note_waiting(position, max(heads.values(), default=0))
                await refuse_witnessed(self._context)
                unasked = await self._stop.cuts(self._ask(looked.silent))
                if unasked is not None:
                    looked.unknown |= unasked
                    await self._context.books.note_sending()
            else:
                await refuse_witnessed(self._context)
            self._hold_unknown(looked, self._last)
            self._examined = self._source
        # From here on it tells what it holds. What a relay before it told may go out, and is not to be withdrawn then.
        shown = self._held.shown
        await self._context.books.tell_held(shown)
        self._told = shown
        self._written = max(heads.values(), default=0)
        self._ticks.start(heads)

    async def _ask(self, silent: Sequence[Where]) -> Mapping[Where, BrokerUnavailable]:
        """The log does not know what was sent: whoever has applied any of it may say so before anything new is sent.

        Returns when nobody did within the limit; where nobody could be asked, and why, is what it returns. Raises
        StoreRestored, BrokerUnavailable. Those who do not run now say it when they begin.
        """
        limit_s = _ANSWERS * self._context.config.resend_interval_s
        log.warning(
            "relay of %s: the log holds nothing of %s in %d partition(s) to which it was sent: asking what subscribers "
            "have applied, for %g s",
            self._context.service, self._source, len(silent), limit_s,
        )  # fmt: skip
        unasked = await ask_subscribers(self._context, silent, limit_s)
        if len(unasked) < len(silent):
            log.info("relay of %s: nobody who was asked has applied what it did not write", self._context.service)
        return unasked

    def _hold_unknown(self, looked: Looked, sent: Sent) -> None:
        """Hold what could not be compared with the log: nothing behind `sent` goes there before it is."""
        for where, error in looked.unknown.items():
            self._held.hold_unknown(where, sent.position + 1, error, self._context.clock.monotonic())
            self._unknown.add(where)

    async def _know(self, where: Where) -> bool:
        """Compare a partition that was not answered for; return whether that could be done. Raises StoreRestored."""
        looked = Looked()
        await refuse_restored_store(self._context, looked, where)
        if looked.silent and self._asks:
            looked.unknown |= await self._ask(looked.silent)
        if looked.unknown:
            self._hold_unknown(looked, self._last)
            return False
        self._unknown.discard(where)
        return True

    async def _turn(self) -> None:
        """Send one batch, or wait for one."""
        context = self._context
        records = await self._next()
        if records:
            context.faults.point("relay.read")
            async with self._appending:
                more = self._portion.full
                if more and not self._stop.asked:
                    self._ahead = asyncio.create_task(self._read(Sent.of(records[-1])))
                going = records
                if self._held:
                    going = [each for each in records if (each.topic, each.partition) not in self._held]
                await self._append(going, more)
                self._last = Sent.of(records[-1])
            context.faults.point("relay.appended")
            context.progress()
            await context.clock.sleep(0)  # an embedded store never suspends: let the other loops in
        await self._try_held()
        await self._save_when_due()
        if self._ticks.next_due_s() == 0:
            async with self._appending:
                await self._ticks.send_due(self._sent, self._held.answers, self._source)
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
        """Return up to `limit` records after `sent`, a portion unless told.

        Raises StoreRestored when the store has gone back, StoreConflict when another process began an epoch.
        """
        store = self._context.store
        portion = self._portion.limit if limit is None else limit
        # From its own position on: the store that has it is still the one it was read from. See `restored`.
        found = await store.outbox_after(max(sent.position - 1, 0), portion + min(sent.position, 1))
        if store.source != self._source:
            raise StoreConflict(f"{self._source} has ended, this store is {store.source} now: beginning anew")
        looked = Looked()
        records = await following(self._context, sent, found, looked)
        self._hold_unknown(looked, sent)
        if limit is None:
            self._portion.took(records)
        return records

    async def _compare(self) -> None:
        """Raise as `_read` does."""
        if self._last.position:
            await self._read(self._last, 0)

    async def _let_go(self) -> None:
        """After a failure or at a stop: what was read ahead is read again from the position that is sent."""
        beside: list[asyncio.Task[Any]] = [*self._retries.values(), *([self._ahead] if self._ahead else [])]
        self._retries, self._ahead = {}, None
        for task in beside:
            task.cancel()
        if beside:
            await asyncio.wait(beside)
        for task in beside:
            if not task.cancelled() and (error := task.exception()) is not None:
                log.debug("relay of %s: what was done beside failed: %s", self._context.service, error)

    async def _try_held(self) -> None:
        """Try those whose time it is, beside the turns: a partition that is not answered for may take long each time.

        Raises what ended such a try, and keeps the list of what is held where operators find it.
        """
        for where in [where for where, task in self._retries.items() if task.done()]:
            self._retries.pop(where).result()
        for where in self._held.due(self._context.clock.monotonic()):
            if where not in self._retries:
                self._retries[where] = asyncio.create_task(self._try(where))
        if (shown := self._held.shown) != self._told:
            await self._context.books.tell_held(shown)
            self._told = shown  # not what is held by now: a try may have ended meanwhile
            self._context.progress()

    async def _try(self, where: Where) -> None:
        """Send what is held of a partition, up to where the relay is; it stays held while the broker does not take it.

        Not under the lock while it is far behind, and not before the broker has taken something: others go on.
        """
        if where in self._unknown and not await self._know(where):
            return
        taken = await self._send_held(where)
        while taken and self._last.position - self._sent(where) > self._context.config.batch_records_max:
            taken = await self._send_held(where)
        if taken is not None:
            async with (
                self._appending
            ):  # no turn in which it counts as held comes between the last look and its release
                while taken := await self._send_held(where):
                    pass
                if taken is not None:
                    self._held.release(where)

    async def _send_held(self, where: Where) -> int | None:
        """Send a batch of a held partition; return how many records, or None when the broker does not take all."""
        context = self._context
        last = self._last.position
        records = await context.store.outbox_of(*where, self._sent(where), last, self._portion.limit)
        await self._compare()  # between the read and its append: these must be of the life that was sent
        if not records:
            return 0
        going = await to_send(context.books, records)
        left = await self._sending.append_alone(self._source, where, going)
        if left is not None:
            self._held.hold(left, context.clock.monotonic())
            return None
        refused = self._held.holds_refused(records[0])
        self._held.advance(where, records[-1].position + 1)  # first: nobody is told any more that it is refused
        if refused:
            await self._went_out(where, going)
        self._ticks.sent({where: records[-1].position})
        context.progress()
        return len(records)

    async def _went_out(self, where: Where, records: Sequence[OutboxRecord]) -> None:
        """The broker has taken what it had refused: nobody can withdraw it any more, and who has just now was late."""
        envelopes = [decode_envelope(each.envelope) for each in records]
        ids = [each.id for each in envelopes if each.type != WITHDRAWN]
        came_late = await self._context.books.went_out(*where, ids)
        self._told = None
        for late in came_late:
            log.warning(
                "relay of %s: message %s in %s/%d was withdrawn while the broker took it: it is out",
                self._context.service, late, *where,
            )  # fmt: skip

    async def _append(self, records: Sequence[OutboxRecord], more: bool) -> None:
        """Append all records but those that the broker does not take and what is behind them, which are held then.
        more: there are records behind these."""
        batches: dict[Where, list[OutboxRecord]] = {}
        if records and records[0].position <= self._written:
            records = await to_send(self._context.books, records)
        for record in records:
            where = (record.topic, record.partition)
            batch = batches.get(where)
            if batch is None:
                batches[where] = [record]
            else:
                batch.append(record)
        left = await self._sending.append(self._source, batches, more=more)
        for each in left.values():
            self._held.hold(each, self._context.clock.monotonic())
        sent = {where: batch[-1].position for where, batch in batches.items() if where not in left}
        self._ticks.sent(sent)

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
        try:
            if self._held.shown != self._told:
                await self._context.books.tell_held(self._held.shown)  # what went out is not to be withdrawn
            if self.position > self._saved:
                await self._compare()  # to an older copy the position would say that what it writes next was sent
                await self._save()
        except RetryableError as error:
            log.info("relay: the last position is not saved (%s); the batch will be sent again", error)
