"""The consumer of one partition: read a batch, have it applied in one transaction with its checkpoint, go on.

Correctness rests on the checkpoint alone: offset and watermarks are written in the transaction of the effects, under a
revision that only one worker can move. Whoever else believes to own the partition rolls back. See
docs/explanation/promises.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from ensue.catch_up import adopted, ended
from ensue.engine.clock import seconds_of
from ensue.engine.context import Context
from ensue.engine.dead_letters import DeadLetters
from ensue.engine.doubts import Doubts
from ensue.engine.failed import StepFailed
from ensue.engine.gap_watch import GapWatch
from ensue.engine.lane import Lane, Part
from ensue.engine.letter import Reason
from ensue.engine.loop import Loop
from ensue.engine.place import Place
from ensue.engine.standing import Standing
from ensue.engine.suspicion import Suspicion
from ensue.engine.timers import put
from ensue.errors import CheckpointConflict, RetryableError, RowConflict
from ensue.failure import Failure
from ensue.message import Checkpoint, Counters, GapState, Garbage, Message, Partition
from ensue.plan import Plan
from ensue.ports import Reader
from ensue.reply import replies_of
from ensue.texts import logger
from ensue.tracing import traced

log = logger("ensue.consumer")


#: How long it is believed how old what is read is, and that there is more: to ask costs two round trips.
_AGE_ASKED_S = 5.0


class PartitionConsumer(Loop):
    """Reads one partition for one subscription until it is stopped. `stop` lets a running batch finish.

    suspect: the worker that had the partition before did not give it up; `suspicion` until that is cleared.
    """

    log = log
    at_once = (CheckpointConflict, RowConflict)

    def __init__(
        self, partition: Partition, context: Context, lane: Lane, random: Random, *, suspect: bool = False
    ) -> None:
        super().__init__(str(partition), context)
        self.partition = partition
        self._lane = lane
        self._letters = DeadLetters(partition, context, random)
        self._place = Place(partition, context, self._letters, Suspicion(partition, context) if suspect else None)
        self._reader: Reader | None = None
        self._gaps = GapWatch(partition, context)
        self._doubts = Doubts(partition, context)
        self._place.others = self._doubts.others  # as they become known
        self._keeps_replies = partition.topic == replies_of(context.service)
        self._looked = 0.0
        self._behind_s = 0.0
        self._age_asked_at = -_AGE_ASKED_S
        self._compared = (-1, 0.0)  # the revision that was found stored, or was written, and when

    @property
    def suspicion(self) -> Suspicion | None:
        return self._place.suspicion

    @property
    def offset(self) -> int:
        """How far the log is read; what is stored may lag behind by records without effect."""
        return self._place.checkpoint.offset

    @property
    def behind_s(self) -> float:
        """How old the last record read was, while there are more: what is as old as the retention leaves the log."""
        return self._behind_s

    @property
    def doubted(self) -> list[str]:
        """Sources of which more was applied than their last word says: their databases went back, perhaps."""
        return self._doubts.sources

    @property
    def settled(self) -> bool:
        """Whether nothing is open but what waits for an operator: no gap that heals, no attempt left to make."""
        checkpoint = self._place.checkpoint
        return (
            self._letters.next_due_s() == float("inf")
            and checkpoint.catching_up is None
            and all(gap.state is GapState.LOST for gap in checkpoint.gaps.values())
        )

    @property
    def watermarks(self) -> Mapping[str, int]:
        """How far each source is applied."""
        return self._place.checkpoint.watermarks

    async def gave_up(self) -> None:
        """What this loop was doing has been cancelled and rolled back, which is no death of its process."""
        if self._place.suspicion is not None:
            await self._place.suspicion.no_death()

    async def _begin(self) -> None:
        await self._let_go()
        # A log that was lost as a whole has no topics any more, and its publisher may be down.
        await self._context.broker.ensure_topic(self.partition.topic, self._context.partitions)
        stored = await self._context.books.checkpoint(self.partition)
        if not stored.revision:
            # Letters outlive a checkpoint that an operator deleted, to read anew: their numbers stay taken.
            stored.letters = await self._context.books.last_letter(self.partition)
        self._gaps.forget()
        self._doubts.rewound(self._place.checkpoint, stored)
        self._place.moved(await self._adopt(stored))
        for gap in self._place.checkpoint.gaps.values():
            if gap.state is GapState.OPEN and gap.held_offset and gap.watermark >= gap.held_previous:
                # The loss before the first record held back was accepted; the log may still have it and what follows.
                self._place.checkpoint.offset = min(self._place.checkpoint.offset, gap.held_offset - 1)
        if self._place.suspicion is not None:
            await self._place.suspicion.begin(self._place.checkpoint)
        await self._letters.load()
        self._context.caught_up.feeds(self.partition, self._standing)
        await self._doubts.greet(self._place.checkpoint)

    def _standing(self) -> Standing:
        """As it is committed: what of it is in memory only has no effect."""
        return Standing.of(self._place.checkpoint, self._letters.obstacles())

    async def _adopt(self, checkpoint: Checkpoint) -> Checkpoint:
        """Store what this process handles, and from where on, where that is not what is stored; return what is then."""
        context = self._context
        end = 0
        if "now" in self._place.wanted.values():
            end = (await context.broker.bounds(self.partition.topic, self.partition.number)).last
        following = adopted(checkpoint, self._place.wanted, end)
        if following is None:
            return checkpoint
        async with context.store.transaction() as transaction:
            if not checkpoint.revision:
                # Kept from the start: records that are older than this subscription, and gone, are not owed to it.
                following.counters = Counters(since=transaction.now)
            following.revision = await context.books.save_checkpoint(transaction, self.partition, following)
        left = sorted(following.missed.keys() - checkpoint.missed.keys())
        if left:
            log.warning(
                "%s: this process does not handle %s, which another one of the service did: they are passed over, and "
                "read again by the next one that handles them",
                self.partition, ", ".join(left),
            )  # fmt: skip
        if following.catching_up is not None:
            log.info(
                "%s: reading again up to offset %d, for %s, which was not handled before",
                self.partition, following.catching_up.through, ", ".join(following.catching_up.types),
            )  # fmt: skip
        return following

    # ----------------------------------------------------------------------------------------------------- a turn

    async def _turn(self) -> None:
        """Retry what is due, then read and process one batch."""
        context = self._context
        now = context.clock.monotonic()
        if now - self._looked >= context.config.poll_interval_s:
            self._looked = now
            await self._look_around()
        held_s = context.brake.wait_s(context.clock.monotonic())
        if held_s > 0:
            await self._pause(min(held_s, context.config.poll_interval_s))
            return
        limit = context.brake.limit(context.config.batch_records_max)
        if self._letters.next_due_s() <= 0:
            async with self._lane.alone() as at_hand:
                await self._letters.retry_due(self._place.checkpoint, at_hand, self._place.suspicion)
            context.caught_up.tells(self.partition)
            context.progress()
        wait_s = min(context.config.poll_interval_s, self._letters.next_due_s())
        batch: Sequence[Message | Garbage] = ()
        if self._letters.full:
            await self._pause(wait_s)
        else:
            batch = await self._read(limit, wait_s)
            if not batch and (self._place.checkpoint.catching_up is not None or self._place.suspicion is not None):
                # A wait may end although there is something, on its way from a broker that is slow to send. A read
                # that does not wait asks the broker, and what ends with the log ends now only if it says so.
                batch = await self._read(limit, 0.0)
            context.brake.took(len(batch), context.clock.monotonic())
            self._behind_s = self._behind_s if batch else 0.0
        if batch:
            context.faults.point("consumer.read")
            await self._process(batch)
            await self._note_age(batch)
            context.progress()
            await context.clock.sleep(0)  # an embedded store never suspends: let the other loops in
        elif self._place.checkpoint.catching_up is not None and not self._letters.full and not self._stop.asked:
            # The log has no more: what it ended with when this began is gone.
            self._place.checkpoint.catching_up = ended(self._place.checkpoint.catching_up)
            await self._save()
            context.caught_up.tells(self.partition)
            context.progress()
        if self._place.suspicion is not None:
            read_all = not (batch or self._letters.full or self._stop.asked)
            if (read_all and self._letters.next_due_s() > 0) or self._place.suspicion.passed:
                await self._place.suspicion.forget()
                self._place.suspicion = None
                context.progress()
        await self._doubts.tell(self._place.checkpoint, at_the_end=len(batch) < limit)
        if self._place.checkpoint.gaps:
            await self._gaps.ask(self._place.checkpoint, at_the_end=len(batch) < limit)

    async def _note_age(self, batch: Sequence[Message | Garbage]) -> None:
        config, last, before = self._context.config, batch[-1], self._behind_s
        self._behind_s, half_s = 0.0, config.retention_s / 2
        if isinstance(last, Message):
            now = self._context.clock.now()
            age_s = max(now - seconds_of(last.envelope.time, now), 0.0)
            more = len(batch) == config.batch_records_max
            if age_s > half_s:  # by our clock, which may be wrong; and a read brings what is at hand. So they are asked
                moment = self._context.clock.monotonic()
                if moment - self._age_asked_at < _AGE_ASKED_S:
                    self._behind_s = before
                    return
                self._age_asked_at = moment
                age_s = max(await self._context.store.now() - seconds_of(last.envelope.time, now), 0.0)
                bounds = await self._context.broker.bounds(self.partition.topic, self.partition.number)
                more = bounds.last > last.offset
            self._behind_s = age_s if more else 0.0
        if self._behind_s > half_s >= before:
            log.warning(
                "%s: reads records that are %.1f h old, and they leave the log after %.1f h: let more workers help, or "
                "keep records for longer (ENSUE_RETENTION_S)",
                self.partition, self._behind_s / 3600, config.retention_s / 3600,
            )  # fmt: skip

    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        context, partition, running = self._context, self.partition, self._place.checkpoint.catching_up
        after = self._place.checkpoint.offset if running is None else running.offset
        if self._reader is None or self._reader.after != after:  # the first one, or it has to go back
            await self._let_go()
            self._reader = context.broker.reader(partition.topic, partition.number, after)
        return await self._stop.cuts(self._reader.read(limit, wait_s)) or ()

    async def _let_go(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.close()

    async def _look_around(self) -> None:
        """Now and then: has the log lost what we stand on, or the store, did an operator decide something, is there
        much to save?"""
        context, partition, checkpoint = self._context, self.partition, self._place.checkpoint
        if checkpoint.offset:
            bounds = await context.broker.bounds(partition.topic, partition.number)
            if bounds.last < checkpoint.offset:
                log.error(
                    "%s: the log ends at offset %d, this subscription has read up to %d: the broker lost data. "
                    "Reading from the log's start; what was applied is skipped, what is missing is asked for",
                    partition, bounds.last, checkpoint.offset,
                )  # fmt: skip
                await self._gaps.ask_all(checkpoint)
                checkpoint.offset = max(bounds.first - 1, 0)
        if self._letters.any:
            await self._letters.load()
            self._context.caught_up.tells(self.partition)
        if self._compare_is_due():
            stored = await context.books.checkpoint(partition)
            # An operator accepted the loss; or the store went back, and others may have gone on from there.
            if stored.revision != checkpoint.revision or stored.watermarks != checkpoint.watermarks:
                older = stored.revision < checkpoint.revision
                raise CheckpointConflict(
                    f"{partition}: the stored checkpoint is of revision {stored.revision}, expected "
                    f"{checkpoint.revision}: "
                    + ("the database has lost what it had" if older else "an operator or another worker changed it"),
                    expected_revision=checkpoint.revision,
                )
        unsaved = self._place.unsaved
        many = unsaved.duplicates + unsaved.unknown + unsaved.damaged >= 1000
        # By a view's checkpoint an operator sees how far it is; and ticks alone would leave it short of the log's end.
        shown = context.dispatcher.definition.is_view and checkpoint.offset > self._place.stored_offset
        if many or shown:
            await self._save()

    def _compare_is_due(self) -> bool:
        """Whether to look at the stored checkpoint: a commit compares by itself, so it is due after a while without."""
        context, checkpoint = self._context, self._place.checkpoint
        now = context.clock.monotonic()
        revision, since = self._compared
        quiet = revision == checkpoint.revision
        due = quiet and now - since >= context.config.lease_ttl_s
        if due or not quiet:
            self._compared = (checkpoint.revision, now)
        lost = any(gap.state is GapState.LOST for gap in checkpoint.gaps.values())
        return due or lost or context.store.capabilities.may_forget

    # -------------------------------------------------------------------------------------------------- one batch

    async def _process(self, batch: Sequence[Message | Garbage]) -> None:
        """Have a batch applied in one transaction; on a failure find the message at fault, so that only it pays."""
        left = [batch]  # the next records last
        while left and not self._stop.asked:
            records = left.pop()
            if not records:
                continue
            todo = self._place.plan(records)
            self._doubts.note(todo)
            if not todo.has_effect:
                self._place.forward(todo)
                continue
            part = Part(self._place, records, todo, self._context.tracing.process(todo.apply) if todo.apply else None)
            with traced(part.trace):
                again = await self._apply(part)
            left.append(records[len(part.records) :])
            left += again
            if not again and (part.todo.rewind >= 0 or part.todo.ends):
                return  # the rest of the batch is read again, after what the log still holds before it

    async def _apply(self, part: Part) -> Sequence[Sequence[Message | Garbage]]:
        """Have a part applied, or the message that failed alone set aside. Return what of it is to be done again, the
        next records last: nothing of it has happened then, so none of its ends is reached."""
        began = self._context.clock.monotonic()
        try:
            await self._lane.apply(part)
        except StepFailed as failure:
            self._measure(part, began, failure.error)
            if len(part.records) > 1:
                if part.trace is not None:
                    part.trace.failed(failure.error)
                return list(reversed(_split(part.records, part.todo, failure.index)))
            if self._context.dispatcher.sagas.refused(failure):
                return [part.records]
            await self._failed(part, failure)
        except Exception as error:
            self._measure(part, began, error)
            raise
        else:
            self._measure(part, began)
            self._applied(part)
        return ()

    def _measure(self, part: Part, began: float, error: BaseException | None = None) -> None:
        if not part.todo.apply:
            return
        context, topic = self._context, self.partition.topic
        context.measured.processed(topic, context.clock.monotonic() - began, error)
        if error is None and self._place.checkpoint.catching_up is None:
            context.measured.delivered(topic, part.todo.apply, context.clock.now())

    def _applied(self, part: Part) -> None:
        if part.trace is not None:
            part.trace.applied(part.todo.apply)
        self._place.ended(part.todo)
        if part.following is None:
            self._place.forward(part.todo)
            return
        self._moved(part.following)
        if self._keeps_replies:
            self._context.waiting.stored(part.todo.apply)
            self._context.dispatcher.sagas.settled(part.todo.apply, part.after)
            self._letters.woken(part.todo.apply)
        self._letters.added(part.letters)
        self._context.caught_up.tells(self.partition)
        self._gaps.log_changes(part.todo)

    def _moved(self, following: Checkpoint) -> None:
        self._place.moved(following)
        self._advanced()

    async def _failed(self, part: Part, failure: StepFailed) -> None:
        """The message failed alone: when a command's handler said by that what the answer is, it is given."""
        todo = part.todo
        declined = self._context.dispatcher.declined(todo.apply[0].type, failure)
        if declined is not None:
            try:
                await self._decline(todo, declined)
            except StepFailed as unsaid:
                failure = unsaid
            else:
                return
        await self._set_aside(part, failure)

    async def _decline(self, todo: Plan, declined: Failure) -> None:
        """Answer a command with a failure: nothing of its handler's step is kept, and it has been applied."""
        message, context = todo.apply[0], self._context
        async with context.store.transaction() as transaction:
            if todo.foreign:
                await context.books.claim(transaction, [(message.source, message.id)])
            await put(transaction, context.dispatcher.refusal(transaction, message, declined))
            following = self._place.following(todo, applied=1)
            following.revision = await context.books.save_checkpoint(transaction, self.partition, following)
            context.faults.point("command.declined")
        context.faults.point("consumer.committed")
        self._moved(following)
        context.caught_up.tells(self.partition)
        self._place.ended(todo)
        self._gaps.log_changes(todo)

    async def _set_aside(self, part: Part, failure: StepFailed) -> None:
        """Keep the message with the reason, and let its key wait. A saga keeps it itself, after its last attempt."""
        todo, message = part.todo, part.todo.apply[0]
        reason = Reason.of(failure, values=self._context.config.show_values)
        books, recurring = self._context.books, self._context.dispatcher.recurring
        timer = None
        async with self._context.store.transaction() as transaction:
            if recurring.has(message.type):
                timer = (await recurring.follow(transaction, message)).timer  # what is due next comes all the same
            if timer is not None:
                await put(transaction, [timer])
            if todo.foreign:
                await books.claim(transaction, [(message.source, message.id)])
            letter = self._letters.failed_letter(message, reason, transaction.now)
            dead = self._letters.is_dead(letter)
            parked = await self._letters.park(transaction, message, reason) if dead else None
            if parked is not None:
                following = self._place.following(todo, applied=1)
            else:
                following = self._place.following(todo, retries=not dead, dead=int(dead))
                await books.add_letters(transaction, following, [letter])
            following.revision = await books.save_checkpoint(transaction, self.partition, following)
            self._context.faults.point("letter.aside")
        if timer is not None:
            self._context.timer_set.set()
        self._moved(following)
        if part.trace is not None:
            part.trace.failed(failure.error, dead_letter=letter.id if dead and parked is None else "")
        if parked is not None:
            self._context.dispatcher.sagas.settled([message], parked)
            self._letters.woken([message])
        else:
            self._letters.added([letter])
            self._letters.log_failure(letter, reason)
        self._context.caught_up.tells(self.partition)
        self._place.ended(todo)
        self._gaps.log_changes(todo)

    async def _save(self) -> None:
        """Store offset and counters alone."""
        async with self._context.store.transaction() as transaction:
            following = self._place.following(Plan())
            following.revision = await self._context.books.save_checkpoint(transaction, self.partition, following)
        self._place.moved(following)

    async def _end(self) -> None:
        """What is not saved would only be read again."""
        try:
            await self.gave_up()
            unsaved = self._place.unsaved
            if self._place.checkpoint.revision and (unsaved.duplicates or unsaved.unknown or unsaved.damaged):
                await self._save()
        except RetryableError as error:
            log.info("%s: the last offset is not saved (%s); it will be read again", self.partition, error)


def _split(batch: Sequence[Message | Garbage], todo: Plan, index: int | None) -> list[Sequence[Message | Garbage]]:
    """Cut a failed batch: before the failed message, it alone, after it; one by one when nobody knows which failed."""
    if index is None or len(batch) == 1:
        return [batch[each : each + 1] for each in range(len(batch))]
    offset = todo.apply[index].offset
    place = next(number for number, record in enumerate(batch) if record.offset == offset)
    parts = (batch[:place], batch[place : place + 1], batch[place + 1 :])
    return [part for part in parts if part]
