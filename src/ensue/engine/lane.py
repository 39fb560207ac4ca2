"""A lane: the transactions of a process's partitions, one after the other, each for all partitions that have something.

One transaction at a time means that the handlers of one process never race with each other, on any database, and that
a commit is paid once for all partitions. Whoever comes first while nobody is at work leads: its task runs the
transaction for itself and for all who wait (group commit; DeWitt et al., "Implementation techniques for main memory
database systems", 1984). A failure is narrowed down to its partition here, and to its message by the consumer.
See docs/adr/0029.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

from ensue.engine.at_hand import AtHand
from ensue.engine.blame import NOT_THE_MESSAGE, blamed, lost_a_race
from ensue.engine.budget import Budget
from ensue.engine.context import Context
from ensue.engine.failed import StepFailed
from ensue.engine.gate import Gate
from ensue.engine.lost import LOSSES_MAX, answers, lost_for
from ensue.engine.place import Place
from ensue.engine.suspicion import Suspicion
from ensue.engine.timers import put
from ensue.engine.traces import tracing
from ensue.errors import CheckpointConflict, HandlerKilled, RowConflict, StoreConflict, StoreUnavailable
from ensue.message import Checkpoint, DeadLetter, Garbage, Message, OutboxRecord, Partition
from ensue.plan import Plan
from ensue.ports import StepTransaction
from ensue.step import SessionAsked
from ensue.texts import logger
from ensue.tracing import Processing

log = logger("ensue.consumer")

#: So often a transaction that lost a race is done again at once, ever smaller, before its loop pauses for longer.
_RACES_MAX = 12
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.002, 0.25
#: More records than all partitions of a process bring at once. To share out less made the statements of each partition
#: small, and a backlog of eight partitions took a third longer than that of one.
_ROOM_MAX = 1 << 20


class Part:
    """The records of one partition that wait for a transaction, and what becomes of them.

    records, todo: may be fewer afterwards than they were: the first ones, the rest has to wait for another turn.
    following, letters: what is stored now; None when nothing had to be. after: what is to be called now. trace: is told
    of its messages.
    """

    __slots__ = (
        "after", "at_fault", "done", "error", "following", "left", "letters", "place", "records", "todo", "trace",
    )  # fmt: skip

    def __init__(
        self, place: Place, records: Sequence[Message | Garbage], todo: Plan, trace: Processing | None = None
    ) -> None:
        self.trace = trace
        self.place = place
        self.records = records
        self.todo = todo
        self.following: Checkpoint | None = None
        self.letters: list[DeadLetter] = []
        self.after: Sequence[Callable[[], None]] = ()
        self.error: BaseException | None = None
        self.done = False
        self.left = False  # nobody waits for it any more
        self.at_fault = False  # a handler of it failed in the attempt at hand

    def cut(self, count: int) -> None:
        """Take the first `count` records only."""
        if count < len(self.records):
            self.records = self.records[:count]
            self.todo = self.place.plan(self.records)

    @property
    def suspicion(self) -> Suspicion | None:
        """When handlers are to be called of whose process nobody knows whether they end it."""
        return self.place.suspicion if self.todo.apply else None

    @property
    def single(self) -> bool:
        return self.suspicion is not None and self.suspicion.single

    def cut_behind(self, message: Message) -> None:
        self.cut(next(number for number, each in enumerate(self.records, 1) if each.offset == message.offset))

    def fails(self, error: BaseException) -> None:
        self.error, self.done = error, True


class Lane:
    """Runs the transactions of some partitions of one process."""

    def __init__(self, context: Context, random: Random) -> None:
        self._context = context
        self._random = random
        self._lock = asyncio.Lock()
        self._waiting: list[Part] = []
        self._room = (
            _ROOM_MAX  # records in one transaction, beside what a partition reads at once; less after a lost race
        )
        self.at_hand = AtHand()

    async def apply(self, part: Part) -> None:
        """Apply the records of `part`, or the first of them, together with those of others, each partition in order.

        Raises StepFailed when a handler failed, which has then been tried without the other partitions, and what
        keeps the store from working. Nothing of `part` is stored then.
        """
        self._waiting.append(part)
        try:
            async with self._lock:
                if not part.done:
                    # Whoever got records at the same time is let in first.
                    await self._context.clock.sleep(0)
                while not part.done:
                    await self._round()
        finally:
            part.left = True
        if part.error is not None:
            raise part.error

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[AtHand]:
        """While this is held no transaction of the lane is open, and none begins. Gives what is told what runs."""
        async with self._lock:
            yield self.at_hand

    async def _round(self) -> None:
        parts, self._waiting = [each for each in self._waiting if not each.left], []
        if not self._context.store.capabilities.transactions and len(parts) > 1:
            # Documents are written one by one, and with them one checkpoint.
            parts, self._waiting = parts[:1], parts[1:]
        try:
            await self._together(parts)
        finally:
            self._waiting[:0] = [each for each in parts if not each.done]

    # ------------------------------------------------------------------------------------------------- what may fail

    async def _together(self, parts: list[Part]) -> None:
        """Do these parts, or the first of them, in one transaction; with each failure in smaller ones."""
        races = losses = 0
        once_more = True
        made: dict[Partition, int] = {}
        while True:
            parts = self._shares(_together(parts))
            self.at_hand.handled = False
            try:
                async with self._admitted(parts):
                    await self._transact(parts)
            except StepFailed as failure:
                if _others_made_one(failure, parts, made):
                    once_more = False
                    continue
                if len(parts) > 1:
                    await self._apart(parts)
                elif once_more and len(parts[0].records) == 1 and lost_a_race(failure.error):
                    once_more = False  # what it met was perhaps made by another process after it had looked
                    continue
                else:
                    parts[0].fails(failure)
            except SessionAsked:
                continue  # now it is known whose messages must be done one by one
            except (CheckpointConflict, RowConflict) as error:
                if len(parts) > 1:
                    await self._apart(parts)
                else:
                    parts[0].fails(error)
            except StoreConflict as error:
                races += 1
                if races <= _RACES_MAX:
                    await self._make_room(parts, races, error)
                    continue
                for each in parts:
                    each.fails(error)
            except NOT_THE_MESSAGE as error:
                if not (self.at_hand.handled and await answers(self._context, error)):
                    for each in parts:
                        each.fails(error)
                elif len(parts) > 1:
                    await self._apart(parts)
                elif len(parts[0].records) > 1:
                    parts[0].fails(StepFailed(self.at_hand.last, error))
                elif (losses := losses + 1) < LOSSES_MAX:
                    await self._pause(losses)
                    continue
                else:
                    handler = self._context.dispatcher.only_handler(parts[0].todo.apply[0].type)
                    parts[0].fails(StepFailed(0, lost_for(error, losses), handler))
            else:
                self._room = min(self._room * 2, _ROOM_MAX)
            return

    async def _apart(self, parts: Sequence[Part]) -> None:
        """What failed alone, the others together: nobody else pays, and nobody is blamed for what another one did."""
        culprits = [each for each in parts if each.at_fault] or list(parts)
        others = [each for each in parts if each not in culprits]
        if others:
            await self._together(others)
        for each in culprits:
            await self._together([each])

    async def _make_room(self, parts: Sequence[Part], races: int, error: StoreConflict) -> None:
        """Another process was in the way: hold fewer locks for a shorter time, and do not meet it again at once."""
        self._room = max(sum(len(each.records) for each in parts) // 2, 1)
        log.info("%s: %s; done again with at most %d records", self._context.service, error, self._room)
        await self._pause(races)

    async def _pause(self, tries: int) -> None:
        pause = min(_PAUSE_FIRST_S * 2**tries, _PAUSE_MAX_S)
        await self._context.clock.sleep(self._random.uniform(0, pause))

    @asynccontextmanager
    async def _admitted(self, parts: Sequence[Part]) -> AsyncIterator[None]:
        """Where a worker died, write down first what is attempted. Raises StepFailed for what killed several."""
        if parts[0].single:
            [part] = parts
            message, suspicion = part.todo.apply[0], part.place.suspicion
            assert suspicion is not None
            try:
                suspicion.acquit(str(message.offset), self._context.dispatcher.only_handler(message.type))
            except HandlerKilled as error:
                raise StepFailed(0, error, error.handler) from error
            async with Gate.here().alone():
                await self._written([part], alone=True)
                yield
        else:
            async with Gate.here().shared():
                await self._written(parts, alone=False)
                yield

    async def _written(self, parts: Sequence[Part], *, alone: bool) -> None:
        found = [
            (each.place.partition, each.suspicion.begun(str(each.todo.apply[0].offset), alone=alone))
            for each in parts
            if each.suspicion is not None
        ]
        if found:
            await self._context.books.save_attempts(found)
            self._context.faults.point("consumer.suspected")

    def _shares(self, parts: Sequence[Part]) -> list[Part]:
        """As many parts, and of each as many records, as there is room for: the same for all who have that many."""
        taken = list(parts[: self._room])
        room = self._room
        for number, part in enumerate(sorted(taken, key=lambda each: len(each.records))):
            part.cut(room // (len(taken) - number))
            room -= len(part.records)
        return taken

    # ------------------------------------------------------------------------------------------------ one transaction

    async def _transact(self, parts: Sequence[Part]) -> None:
        """Those parts that the handlers came to in time are done when it returns. On a StepFailed the one
        that it came from is marked as at fault, if anybody knows which."""
        try:
            try:
                done = await self._attempt(parts)
            finally:
                self.at_hand.end()
        except (StepFailed, SessionAsked, *NOT_THE_MESSAGE):
            raise
        except BaseException as error:  # e.g. a constraint that the database checks at flush or commit
            messages = [message for each in parts for message in each.todo.apply]
            if not messages:
                raise  # no message can be blamed
            failure = blamed(error)
            if len(messages) > 1:
                raise StepFailed(None, failure) from error
            raise StepFailed(0, failure, self._context.dispatcher.only_handler(messages[0].type)) from error
        self._context.faults.point("consumer.committed")
        for part in done:
            part.done = True

    async def _attempt(self, parts: Sequence[Part]) -> list[Part]:
        context, faults = self._context, self._context.faults
        budget = Budget(context.config.batch_s, context.clock.monotonic)
        records: list[OutboxRecord] = []
        done: list[Part] = []
        applied, timers = 0, False
        self.at_hand.begin(context.clock.monotonic())
        for each in parts:
            each.at_fault, each.after = False, ()
        messages = [message for part in parts for message in part.todo.apply]
        async with context.store.transaction(snapshot=context.dispatcher.wants_snapshot(messages)) as transaction:
            faults.point("consumer.begun")
            claimed: list[int] = []
            for part in parts:
                if done and budget.left_s <= 0:
                    break  # it has its turn in the next one
                claimed.append(await self._claim(transaction, part) if part.todo.foreign else 0)
                if part.todo.apply:
                    if applied:
                        await transaction.flush(forget=True)  # each partition finds what it would find alone
                    records += await self._handle(transaction, part, budget)
                    applied += len(part.todo.apply)
                done.append(part)
            if applied:
                faults.point("consumer.handled")
                await transaction.flush()  # entities first: their row locks put the outbox records in order
                if records:
                    timers = await put(transaction, records)
                    faults.point("consumer.outbox_written")
            for part, known in zip(done, claimed, strict=True):
                await self._prepare(transaction, part, known)
            moved = [(each.place.partition, each.following) for each in done if each.following is not None]
            revisions = await context.books.save_checkpoints(transaction, moved) if moved else []
            faults.point("consumer.checkpoint_written")
        for (_, following), revision in zip(moved, revisions, strict=True):
            following.revision = revision
        if timers:
            context.timer_set.set()
        return done

    async def _handle(self, transaction: StepTransaction, part: Part, budget: Budget) -> list[OutboxRecord]:
        """Run the handlers of a part, or of its first records when it takes long; return what they publish."""
        dispatcher, todo = self._context.dispatcher, part.todo
        outgoing = dispatcher.outgoing(transaction)
        if todo.foreign:
            budget = Budget()  # all of them are claimed by now
        try:
            with tracing(part.trace, outgoing, self.at_hand):
                count = await dispatcher.apply(transaction, todo.apply, outgoing, budget, self.at_hand)
        except (StepFailed, StoreUnavailable):
            part.at_fault = True
            raise
        if count < len(todo.apply):
            part.cut_behind(todo.apply[count - 1])
        part.after = outgoing.after
        return outgoing.close()

    async def _claim(self, transaction: StepTransaction, part: Part) -> int:
        """Leave out of the plan the messages without a chain that were here before; return how many."""
        part.todo = todo = part.place.plan(part.records)  # an attempt before may have left some out
        pairs = [(each.source, each.id) for each in (*todo.apply, *todo.waiting) if not each.position]
        fresh = await self._context.books.claim(transaction, pairs)

        def is_fresh(message: Message) -> bool:
            pair = (message.source, message.id)
            if message.position:
                return True
            if pair not in fresh:
                return False
            fresh.discard(pair)  # twice in one batch is a duplicate too
            return True

        before = len(todo.apply) + len(todo.waiting)
        todo.apply = [each for each in todo.apply if is_fresh(each)]
        todo.waiting = [each for each in todo.waiting if is_fresh(each)]
        return before - len(todo.apply) - len(todo.waiting)

    async def _prepare(self, transaction: StepTransaction, part: Part, known: int) -> None:
        """Say what is stored for a part, and store its letters. known: messages that were claimed before."""
        todo, place = part.todo, part.place
        part.letters, part.following = [], None
        if not todo.has_effect and not known:
            return  # its first records alone change nothing but the offset
        part.letters = place.letters_of(todo, transaction.now)
        part.following = place.following(todo, applied=len(todo.apply), duplicates=known, dead=len(todo.garbage))
        if part.letters:
            await self._context.books.add_letters(transaction, part.following, part.letters)


def _others_made_one(failure: StepFailed, parts: Sequence[Part], made: dict[Partition, int]) -> bool:
    """Whether to do all of it again at once, since a new entity was there already: the insert has waited for whoever
    made it, so the next attempt finds it. Each finds at least one, or it is no race but a constraint that is violated.

    made: how many were to be inserted, by partition, at the attempt before; is brought up to date.
    """
    place = next((each.place.partition for each in parts if each.at_fault), None)
    if place is None or not failure.made or failure.made >= made.get(place, failure.made + 1):
        return False
    made[place] = failure.made
    return True


def _together(parts: Sequence[Part]) -> list[Part]:
    """Those that may share a transaction: all, or the first one's first message, if it may be what kills processes."""
    first = parts[0]
    if not first.single:
        return [each for each in parts if not each.single]
    first.cut_behind(first.todo.apply[0])
    return [first]
