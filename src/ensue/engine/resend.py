"""Answers subscribers that have a gap: sends a partition's records again from the outbox, the very same chain.

What retention has removed is answered with a LOST notice, so that the subscriber stands in a clear state instead of
asking for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from ensue.codec import encode_envelope
from ensue.engine.ask import REQUEST, SEEN, ResendRequest, read_request
from ensue.engine.clock import rfc3339
from ensue.engine.context import Context
from ensue.engine.loop import Loop
from ensue.engine.portion import Portion
from ensue.engine.repeats import Repeats
from ensue.engine.withdrawn import to_send
from ensue.engine.witness import Hearing
from ensue.errors import StoreRestored, UsageError
from ensue.message import CONTROL_TOPIC, LOST, Envelope, Garbage, Message, OutboxRecord
from ensue.plan import LostNotice
from ensue.ports import Reader
from ensue.texts import logger

log = logger("ensue.relay")

#: So many notices of ended epochs are remembered, and written within half a `resend_interval_s`.
_TOLD_MAX = 1000


class Resender(Loop):
    """Reads the control topic from its end and sends again what is asked of this source.

    appending: held for each append, shared with the live relay. position: what the live relay has sent so far of a
    partition. answers: whether the broker does, for that partition. compare: raises StoreRestored when the store has
    gone back. It is called between what is read and its append, or another life's records would be sent as what the
    subscriber misses.
    """

    log = log

    def __init__(
        self,
        context: Context,
        appending: asyncio.Lock,
        position: Callable[[tuple[str, int]], int],
        answers: Callable[[tuple[str, int]], bool],
        compare: Callable[[], Awaitable[None]],
    ) -> None:
        super().__init__(f"relay of {context.service}, requests", context)
        self._appending = appending
        self._position = position
        self._answers = answers
        self._compare = compare
        self._hearing = Hearing(context)
        self._reader: Reader | None = None
        self._heeded: int | None = None  # through which offset of the control topic
        self._repeats: dict[tuple[str, int], Repeats] = {}
        self._told: dict[tuple[str, str, int], float] = {}  # of an ended source, in which partition it was told, when

    async def listen(self) -> int:
        """From here on what is said is heard, also what comes before it is read; return after which offset.

        Requests are repeated until they are answered, so those from before the start need not be read; the relay
        compares what else was said. After an error it goes on where it was.
        """
        broker = self._context.broker
        await broker.ensure_topic(CONTROL_TOPIC, 1)
        last = (await broker.bounds(CONTROL_TOPIC, 0)).last
        self._heeded = last if self._heeded is None else min(self._heeded, last)
        return self._heeded

    async def _begin(self) -> None:
        await self._let_go()
        self._reader = self._context.broker.reader(CONTROL_TOPIC, 0, await self.listen())

    async def _turn(self) -> None:
        reader = self._reader
        assert reader is not None
        batch = await self._stop.cuts(reader.read(100, self._context.config.poll_interval_s))
        for record in batch or ():
            await self._heed(record)
        await self._hearing.look()
        if not batch and (await self._context.broker.bounds(CONTROL_TOPIC, 0)).last < reader.after:
            await self._begin()  # the broker was emptied

    async def _let_go(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _heed(self, record: Message | Garbage) -> None:
        request = None if isinstance(record, Garbage) else read_request(record, REQUEST, SEEN)
        if request is not None:
            await self._hearing.refuse_disproved(request)
        # Whatever comes of the answer, this record is done with: who asks will ask again, and one strange request must
        # not stop what is sent to all others.
        self._heeded = record.offset
        if request is not None and isinstance(record, Message) and record.type == REQUEST:
            try:
                await self.answer(request)
            except StoreRestored:
                raise
            except UsageError as error:
                log.warning("%s asked for what cannot be sent: %s", request.subscriber, error)

    async def answer(self, request: ResendRequest) -> None:
        """Send again, or say that it is gone. Passes over requests of others, for what was never sent, and for what was
        sent again just now, whoever asks for it."""
        context = self._context
        source = context.store.source
        if request.source != source:
            if request.source.rpartition("/")[0] == context.service:  # an epoch of ours
                await self._answer_of_old(request)
            return
        where = (request.topic, request.partition)
        if not self._answers(where):
            return  # it is asked for again, and until then nobody waits for it
        lately = self._repeats.get(where)
        began = context.clock.monotonic()
        through = 0 if lately is None else lately.allowed(request.after, began)
        if through is None:
            return
        if lately is None:
            if where not in await context.store.outbox_heads():
                return  # nothing was ever sent there
            config = context.config
            longest_s = max(config.tick_max_s, config.resend_interval_s)
            lately = self._repeats[where] = Repeats(config.resend_interval_s / 2, longest_s)
        sent = await self._send(request, source, through)
        if sent > request.after:
            lately.sent(request.after, sent, began, context.clock.monotonic())

    async def _answer_of_old(self, request: ResendRequest) -> None:
        """An ended epoch is sent no more. Said once in a while, in the topics that there are."""
        context, where = self._context, (request.source, request.topic, request.partition)
        now = context.clock.monotonic()
        since = now - context.config.resend_interval_s / 2
        if request.needed <= request.after or self._told.get(where, since) > since or request.topic == CONTROL_TOPIC:
            return
        if len(self._told) >= _TOLD_MAX:
            self._told = {each: when for each, when in self._told.items() if when > since}
            if len(self._told) >= _TOLD_MAX:
                return  # whoever asks will ask again
        if request.partition >= (await context.broker.topics()).get(request.topic, 0):
            return
        await self._compare()
        await self._gone(request, request.source, request.after, request.needed)
        self._told[where] = now

    async def _send(self, request: ResendRequest, source: str, through: int) -> int:
        """Send what follows the request's position, through which position (0: to the end); return through which it
        was sent."""
        context = self._context
        topic, number, after = request.topic, request.partition, request.after
        first = True
        portion = Portion(context.config.batch_records_max)
        while True:
            # The live relay waits for one batch only; the last batch runs up to what it has sent by then.
            async with self._appending:
                end = self._position((topic, number))
                end = min(end, through) if through else end
                records = await context.store.outbox_of(topic, number, after, end, portion.limit)
                portion.took(records)
                missing = await self._missing_through(request, records, through) if first else 0
                records = await to_send(context.books, records)
                await self._compare()
                context.faults.point("relay.resend_read")
                if first and records:
                    log.warning(
                        "%s asked for %s/%d after position %d again: sending", request.subscriber, topic, number, after
                    )
                first = False
                if missing > request.after:
                    await self._gone(request, source, request.after, missing)
                if not records:
                    return max(after, missing)
                with context.tracing.send({(topic, number): records}, again=True):
                    await context.broker.append(topic, number, source, records)
            after = records[-1].position
            context.faults.point("relay.resent")

    async def _missing_through(self, request: ResendRequest, records: Sequence[OutboxRecord], through: int) -> int:
        """The last position after the request's that the outbox no longer has; 0: it has all. through: as asked for."""
        if records:
            return records[0].previous
        if through:
            return through
        heads = await self._context.store.outbox_heads()
        head = heads.get((request.topic, request.partition), 0)
        return head if head <= self._position((request.topic, request.partition)) else 0

    async def _gone(self, request: ResendRequest, source: str, after: int, through: int) -> None:
        context = self._context
        log.error(
            "%s asked for %s/%d after position %d: up to %d the outbox has nothing any more (retention)",
            request.subscriber, request.topic, request.partition, after, through,
        )  # fmt: skip
        # Retention alone takes records away; by nothing else can be told how old they were.
        before = await context.books.pruned_before()
        if before is None:
            before = await context.store.now()
        envelope = Envelope(context.ids.next(), LOST, rfc3339(context.clock.now()))
        record = OutboxRecord(
            request.topic, request.partition, "", encode_envelope(envelope),
            msgspec.json.encode(LostNotice(after, through, before)), through, through,
        )  # fmt: skip
        await context.broker.append(request.topic, request.partition, source, [record])
