"""Messages set aside: they hold back their own key and nothing else, and go through in order when they can.

One failed attempt puts a message here, so the partition goes on at full speed while its key waits. The rows live in
the subscriber's database and change in the transaction of the checkpoint, so attempts survive a restart and a zombie
worker cannot retry what another has done.
"""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random

import msgspec

from ensue import logs
from ensue.engine.at_hand import AtHand
from ensue.engine.blame import NOT_THE_MESSAGE, blamed
from ensue.engine.clock import DatabaseClock
from ensue.engine.context import Context
from ensue.engine.failed import StepFailed
from ensue.engine.gate import Gate
from ensue.engine.letter import Reason, as_message, letter_of, letter_of_garbage, readable, type_and_id
from ensue.engine.lost import LOSSES_MAX, answers, lost_for
from ensue.engine.standing import HOLDING, Obstacles, obstacles_of
from ensue.engine.suspicion import Suspicion
from ensue.engine.timers import put
from ensue.engine.traces import tracing
from ensue.errors import HandlerKilled, SagaMissing, UsageError
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Message, Partition
from ensue.plan import Plan, Queue, queue_of
from ensue.ports import StepTransaction
from ensue.texts import Lines, logger
from ensue.tracing import Processing, traced

log = logger("ensue.consumer")

_NEVER = float("inf")
#: Letters tried in a row, one a key; then the partition's new messages have their turn.
_TRIES_MAX = 100
#: So many attempts more than others has what a saga is told that does not exist yet: some six minutes, by default.
_EARLY_MORE = 8
#: All of them: a key whose letter is not known here would not be held back.
_ALL = 2**31 - 1


class DeadLetters:
    """The dead letters of one partition, as this worker knows them: a queue for each source and key."""

    def __init__(self, partition: Partition, context: Context, random: Random) -> None:
        self._partition = partition
        self._context = context
        self._random = random
        self._queues: dict[Queue, list[DeadLetter]] = {}
        self._count = 0
        self._clock = DatabaseClock(context.clock)  # letters are due by it
        self._losses: Counter[str] = Counter()  # by letter: attempts in a row that lost the database
        self._soonest = _NEVER  # when the first of the keys is due: asked with each batch, however many keys wait
        self._trace: Processing | None = None  # of the attempt at hand

    @property
    def any(self) -> bool:
        return self._count > 0

    @property
    def full(self) -> bool:
        """Too many to go on: an operator must look first (config.dead_letters_max)."""
        return self._count >= self._context.config.dead_letters_max

    @property
    def blocked(self) -> dict[Queue, list[DeadLetter]]:
        return self._queues

    def obstacles(self) -> dict[str, Obstacles]:
        """What of them stands in the way of who waits for a position, by source."""
        return obstacles_of(each for queue in self._queues.values() for each in queue)

    async def load(self) -> None:
        """Read them anew: at start, and now and then, since an operator may have decided something."""
        letters = await self._context.books.letters(self._partition, HOLDING, _ALL)
        ids = {letter.id for letter in letters}
        self._losses = Counter({each: count for each, count in self._losses.items() if each in ids})
        first = [queue[0] for queue in self._queues.values()]
        woken = {each.id for each in first if each.state is DeadLetterState.RETRYING and not each.due_at}
        for letter in letters:
            letter.due_at = 0.0 if letter.id in woken else letter.due_at  # see `woken`
        self._queues = {}
        self._count = 0
        self._soonest = _NEVER
        if letters:
            self._clock.tells(await self._context.store.now())
        self.added(letters)

    def added(self, letters: Sequence[DeadLetter]) -> None:
        self._count += sum(each.state is not DeadLetterState.REFUSED for each in letters)
        for letter in letters:
            if not letter.source:
                continue  # garbage has no key to hold back
            queue = self._queues.setdefault(queue_of(letter), [])
            queue.append(letter)
            if len(queue) == 1:
                self._soonest = min(self._soonest, _due_at(letter))

    def next_due_s(self) -> float:
        """Seconds until something may be tried; inf: nothing."""
        return max(self._soonest - self._clock.now(), 0.0) if self._soonest < _NEVER else _NEVER

    def woken(self, messages: Sequence[Message]) -> None:
        """These have taken effect: what a saga that they began was told before is tried now."""
        if self._queues:
            for each in messages:
                queue = self._queues.get((each.source, each.key, each.position > 0, True))
                if queue and queue[0].state is DeadLetterState.RETRYING and queue[0].error_type == SagaMissing.__name__:
                    queue[0].due_at = self._soonest = 0.0

    # ------------------------------------------------------------------------------------------------ making letters

    def waiting_letters(self, todo: Plan, now: float) -> list[DeadLetter]:
        """Letters for what `todo` cannot apply: keys held back, and records that are no messages."""
        letters = [letter_of(self._partition, each, DeadLetterState.WAITING, now) for each in todo.waiting]
        letters += [letter_of_garbage(self._partition, each, now) for each in (*todo.garbage, *todo.refused)]
        return letters

    def failed_letter(self, message: Message, reason: Reason, now: float) -> DeadLetter:
        """A letter for a message whose first attempt failed. `log_failure` when it is committed."""
        self._clock.tells(now)
        letter = letter_of(self._partition, message, DeadLetterState.RETRYING, now)
        self._failed_again(letter, reason, now)
        return letter

    def log_failure(self, letter: DeadLetter, reason: Reason) -> None:
        """Log a failed attempt. After the commit: only then has the letter its id, and only then is it there."""
        dead = self.is_dead(letter)
        kind, message_id = type_and_id(letter)
        if dead:
            then = f"set aside: ensue dead-letters show MODULE:{self._context.service} {letter.id} tells more"
        else:
            then = f"tried again in {max(letter.due_at - self._clock.now(), 0.0):.2f} s"
        whole = dead or letter.attempts == 1
        with logs.concerning(readable(letter)):
            log.log(
                logging.ERROR if dead else logging.WARNING,
                "%s: %s failed at attempt %d: %s: %s; event %s, message id %s, key %s, offset %d; %s%s",
                self._partition, f"handler {reason.handler}" if reason.handler else "a message", letter.attempts,
                letter.error_type, reason.message if whole else reason.message.partition("\n")[0],
                kind, message_id, letter.key, letter.offset, then,
                Lines(f"\n{reason.trace}" if whole and reason.trace else ""),
            )  # fmt: skip

    async def park(
        self, transaction: StepTransaction, message: Message, reason: Reason
    ) -> Sequence[Callable[[], None]] | None:
        """Instead of a dead letter, where the message is for a saga: that keeps it, and waits for a person.

        Returns what is to be called once it is committed; None: it has to be a dead letter."""
        context = self._context
        if not context.dispatcher.sagas.owns(message):
            return None
        outgoing = context.dispatcher.outgoing(transaction)
        if not await context.dispatcher.sagas.park(transaction, message, reason.text, outgoing):
            return None
        if await put(transaction, outgoing.close()):
            context.timer_set.set()  # perhaps too early, and then its loop looks again
        return outgoing.after

    def is_dead(self, letter: DeadLetter) -> bool:
        return letter.state is DeadLetterState.DEAD

    def _failed_again(self, letter: DeadLetter, reason: Reason, now: float) -> None:
        letter.attempts += 1
        letter.error_type = type(reason.error).__qualname__
        letter.error = reason.text
        retry = self._context.retry
        if isinstance(reason.error, SagaMissing):
            retry = dataclasses.replace(retry, attempts_max=retry.attempts_max + _EARLY_MORE)
        delay = retry.delay_s(letter.attempts, reason.error, self._random)
        letter.state = DeadLetterState.DEAD if delay is None else DeadLetterState.RETRYING
        letter.due_at = 0.0 if delay is None else now + delay

    # --------------------------------------------------------------------------------------------------------- retry

    async def retry_due(self, checkpoint: Checkpoint, at_hand: AtHand, suspicion: Suspicion | None = None) -> bool:
        """Try the first letter of each key that is due: when it succeeds, the next of its key is due at once.

        Moves `checkpoint`'s revision and counters. Returns whether anything was tried.
        """
        now = self._clock.now()
        if self._soonest > now:
            return False
        due = [key for key, queue in self._queues.items() if _due_at(queue[0]) <= now]
        for key in due[:_TRIES_MAX]:
            queue = self._queues[key]
            self._trace = self._trace_of(queue[0])
            with traced(self._trace):
                await self._retry(queue[0], checkpoint, at_hand, suspicion)
            if queue[0].state not in (DeadLetterState.RETRYING, DeadLetterState.DEAD):
                queue.pop(0)
                self._count -= 1
                if not queue:
                    del self._queues[key]
        self._soonest = min((_due_at(queue[0]) for queue in self._queues.values()), default=_NEVER)
        return bool(due)

    def _trace_of(self, letter: DeadLetter) -> Processing | None:
        message = readable(letter)
        if message is None:
            return None
        attempt = 1 if letter.state is DeadLetterState.RELEASED else letter.attempts + 1
        return self._context.tracing.process([message], attempt)

    async def _retry(
        self,
        letter: DeadLetter,
        checkpoint: Checkpoint,
        at_hand: AtHand,
        suspicion: Suspicion | None,
        *,
        again: bool = False,
    ) -> None:
        """One attempt. On success the letter goes with its effects; on failure it keeps the new reason.

        again: the attempt before was to insert an entity that another process may have made meanwhile.
        """
        context = self._context
        handler = context.dispatcher.only_handler(type_and_id(letter)[0])
        if letter.state is DeadLetterState.RELEASED:
            letter.attempts = 0  # an operator's decision begins anew
        at_hand.handled = False
        try:
            async with self._admitted(letter, handler, suspicion):
                following = await self._apply(letter, checkpoint, at_hand)
            self._context.faults.point("letter.committed")
            letter.state = DeadLetterState.DISCARDED  # of no further use in memory
        except StepFailed as failure:
            if context.dispatcher.sagas.refused(failure):
                await self._retry(letter, checkpoint, at_hand, suspicion)
                return
            if failure.made and not again:
                await self._retry(letter, checkpoint, at_hand, suspicion, again=True)
                return
            following = await self._failed(letter, failure, checkpoint)
        except NOT_THE_MESSAGE as error:
            if not (at_hand.handled and await answers(self._context, error)):
                raise
            self._losses[letter.id] += 1
            if self._losses[letter.id] < LOSSES_MAX:
                raise
            lost = StepFailed(0, lost_for(error, self._losses[letter.id]), handler)
            following = await self._keep(letter, lost, checkpoint)
        except BaseException as error:  # e.g. a constraint that the database checks at flush or commit
            following = await self._failed(letter, StepFailed(0, blamed(error), handler), checkpoint)
        self._losses.pop(letter.id, None)
        if suspicion is not None:
            suspicion.ended(letter.id, 1)
        checkpoint.revision = following.revision
        checkpoint.counters = following.counters

    @asynccontextmanager
    async def _admitted(self, letter: DeadLetter, handler: str, suspicion: Suspicion | None) -> AsyncIterator[None]:
        """Where a worker died, write down first what is attempted. Raises StepFailed when it killed several."""
        if suspicion is None:
            async with Gate.here().shared():
                yield
            return
        try:
            suspicion.acquit(letter.id, handler)
        except HandlerKilled as error:
            raise StepFailed(0, error, error.handler) from error
        async with Gate.here().alone():
            attempt = suspicion.begun(letter.id, alone=True, revision=letter.revision)
            await self._context.books.save_attempts([(self._partition, attempt)])
            yield

    async def _apply(self, letter: DeadLetter, checkpoint: Checkpoint, at_hand: AtHand) -> Checkpoint:
        context = self._context
        began, failed = context.clock.monotonic(), None
        at_hand.begin(began, letter.id)
        try:
            return await self._applied(letter, checkpoint, at_hand)
        except StepFailed as failure:
            failed = failure.error
            raise
        except BaseException as error:
            failed = error
            raise
        finally:
            at_hand.end()
            context.measured.processed(self._partition.topic, context.clock.monotonic() - began, failed)

    async def _applied(self, letter: DeadLetter, checkpoint: Checkpoint, at_hand: AtHand) -> Checkpoint:
        context = self._context
        message = as_message(letter)
        if message.type not in context.dispatcher.routes:
            raise UsageError(f"no handler for {message.type} any more; discard the letter")
        async with context.store.transaction(snapshot=context.dispatcher.wants_snapshot([message])) as transaction:
            outgoing = context.dispatcher.outgoing(transaction)
            with tracing(self._trace, outgoing, at_hand):
                await context.dispatcher.apply(transaction, [message], outgoing, at_hand=at_hand)
            await transaction.flush()
            timers = await put(transaction, outgoing.close())
            await context.books.remove_letter(transaction, letter)
            following = _counted(checkpoint, applied=1)
            following.revision = await context.books.save_checkpoint(transaction, self._partition, following)
            context.faults.point("letter.handled")
        if timers:
            context.timer_set.set()
        context.dispatcher.sagas.settled([message], outgoing.after)
        context.waiting.stored([message])
        context.measured.delivered(message.topic, [message], context.clock.now())
        self.woken([message])
        return following

    async def _failed(self, letter: DeadLetter, failure: StepFailed, checkpoint: Checkpoint) -> Checkpoint:
        """When a command's handler said by that what the answer is, it is given, and the letter goes."""
        context = self._context
        declined = context.dispatcher.declined(type_and_id(letter)[0], failure)
        if declined is not None:
            try:
                async with context.store.transaction() as transaction:
                    await put(transaction, context.dispatcher.refusal(transaction, as_message(letter), declined))
                    await context.books.remove_letter(transaction, letter)
                    following = _counted(checkpoint, applied=1)
                    following.revision = await context.books.save_checkpoint(transaction, self._partition, following)
                    context.faults.point("letter.handled")
            except StepFailed as unsaid:
                failure = unsaid
            else:
                context.faults.point("letter.committed")
                letter.state = DeadLetterState.DISCARDED  # as in `_retry`
                return following
        return await self._keep(letter, failure, checkpoint)

    async def _keep(self, letter: DeadLetter, failure: StepFailed, checkpoint: Checkpoint) -> Checkpoint:
        reason = Reason.of(failure, values=self._context.config.show_values)
        books = self._context.books
        async with self._context.store.transaction() as transaction:
            self._clock.tells(transaction.now)
            self._failed_again(letter, reason, transaction.now)
            dead = letter.state is DeadLetterState.DEAD
            message = readable(letter) if dead else None
            parked = None if message is None else await self.park(transaction, message, reason)
            if parked is not None:
                await books.remove_letter(transaction, letter)
                following = _counted(checkpoint, applied=1)
            else:
                await books.change_letter(transaction, letter)
                following = _counted(checkpoint, retries=int(not dead), dead=int(dead))
            following.revision = await books.save_checkpoint(transaction, self._partition, following)
        if self._trace is not None:
            self._trace.failed(failure.error, dead_letter=letter.id if dead and parked is None else "")
        if parked is not None and message is not None:
            letter.state = DeadLetterState.DISCARDED  # as in `_retry`
            self._context.dispatcher.sagas.settled([message], parked)
            self.woken([message])
        else:
            self.log_failure(letter, reason)
        return following


def _due_at(letter: DeadLetter) -> float:
    if letter.state is DeadLetterState.RETRYING:
        return letter.due_at
    return _NEVER if letter.state is DeadLetterState.DEAD else 0.0


def _counted(checkpoint: Checkpoint, **more: int) -> Checkpoint:
    return msgspec.structs.replace(checkpoint, counters=checkpoint.counters.plus(**more))
