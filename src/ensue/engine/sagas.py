"""Sagas of a batch, inside of its transaction: one load, their local steps together round by round, one save.

Everything that ever comes for one saga comes in one partition, so the checkpoint of that partition is the only fence:
there is no lock and no lease of a saga. See docs/adr/0041.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Final, TypeVar

import msgspec

from ensue import logs
from ensue.carried import checked_key
from ensue.definition import ServiceDefinition
from ensue.engine.at_hand import AtHand
from ensue.engine.budget import Budget
from ensue.engine.failed import StepFailed
from ensue.errors import BadMessage, SagaMissing
from ensue.event import as_now
from ensue.failure import Failure, failure_in
from ensue.message import REPLY, REPLY_KEY, REPLY_TO, SAGA, TOLD, Envelope, Message
from ensue.outgoing import Outgoing
from ensue.ports import Row, StepTransaction
from ensue.reply import Reply, read_reply, replies_of, write_reply
from ensue.saga.code import SagaCode
from ensue.saga.effects import Answer, CancelTimer, Effect, RunLocal, RunOutside, Send, SetTimer
from ensue.saga.incoming import Again, Answered, AtWork, Broke, Cancel, Elapsed, Incoming, Retry, SkipOperation, Told
from ensue.saga.instance import ENDED, Instance, Skip, Status, instance_of, row_of
from ensue.saga.journal import Refusal
from ensue.saga.local import LocalStep
from ensue.saga.machine import begun, go_on
from ensue.saga.outside import OutsideRun
from ensue.saga.parking import park
from ensue.saga.replay import Live
from ensue.saga.room import nearly_full
from ensue.saga.taking import take
from ensue.saga.wake import Wake, parts_of, read_wake, write_wake
from ensue.signatures import owner_of
from ensue.step import Step
from ensue.tables import SAGAS
from ensue.texts import Lines, logger

log = logger("ensue.sagas")

T = TypeVar("T")

#: Types of records that may be for a saga: see `Sagas.owns`.
FOR_SAGAS: Final = frozenset({SAGA, TOLD, REPLY})

#: Runs messages that are local steps, all of them; what they return is in `Outgoing.results`.
RunLocals = Callable[[StepTransaction, Sequence[Message], Outgoing, Budget, AtHand], Awaitable[None]]


class LocalRefused(StepFailed):
    """A local step raised a Failure, and nothing of it is to be kept: it is done anew, with that for its outcome."""

    def __init__(self, index: int, error: Failure, handler: str, message: Message, number: int) -> None:
        super().__init__(index, error, handler)
        self.failure = error
        self.key = message.key
        self.message_id = message.id
        self.number = number


@dataclasses.dataclass(eq=False, slots=True)
class Turn:
    """A saga of the batch. left: what has come for it, each with its index. saga: None: there is none.
    message, index: what it is at. since: when the transaction began, monotonic. changed: its row is to be written.
    going: it is in the middle of that. full: what is to be said of its size; empty: nothing. code: of its version.
    live: its function."""

    key: str
    left: deque[tuple[int, Message]]
    saga: Instance | None = None
    message: Message | None = None
    index: int = 0
    changed: bool = False
    going: bool = False
    since: float | None = None
    full: str = ""
    code: SagaCode | None = None
    live: Live = dataclasses.field(default_factory=Live)


class Sagas:
    """The sagas of one service.

    dropped: how many records came for nothing: for sagas that have ended or go on already, second and late answers.
    begin: is given, each once it is committed, the outside effects that this process is to attempt; while nobody does,
    their timers bring them again. at_work: names of those that it is at, or has not come to.
    values: whether reasons show those of failures.
    """

    def __init__(self, definition: ServiceDefinition, run_locals: RunLocals, *, values: bool = False) -> None:
        self._values = values
        self.dropped = 0
        self.begin: Callable[[Sequence[OutsideRun]], None] = lambda runs: None
        self.at_work: set[tuple[str, int, int]] = set()
        self._outsides = definition.outsides
        self._service = definition.name
        self._codes = definition.sagas
        self._locals: Mapping[str, LocalStep] = {each.name: each for each in definition.locals.values()}
        self._named = {*self._locals, *self._outsides}
        self._topic = replies_of(definition.name)
        self._run_locals = run_locals
        self._refused: dict[str, tuple[str, dict[int, Failure]]] = {}  # by saga: of which message, by number

    def owns(self, message: Message) -> bool:
        """Whether a record is for a saga: a wake, or an answer that is not keyed by its command."""
        # Also where the service has no saga here: a process of it that is deployed before or after this one may.
        kind = message.envelope.type
        return kind in (SAGA, TOLD) or (kind == REPLY and message.key != message.envelope.causation_id)

    def refused(self, failed: StepFailed) -> bool:
        """Note that a local step of a saga raised a Failure, which is no error: its message is done anew."""
        if not isinstance(failed, LocalRefused):
            return False
        of, known = self._refused.get(failed.key, ("", {}))
        known = known if of == failed.message_id else {}
        self._refused[failed.key] = failed.message_id, {**known, failed.number: failed.failure}
        return True

    def settled(self, messages: Sequence[Message], after: Sequence[Callable[[], None]]) -> None:
        """What these brought is committed. after: of `Outgoing`."""
        for message in messages:
            self._refused.pop(message.key, None)
        for each in after:
            each()

    async def run(
        self,
        transaction: StepTransaction,
        messages: Sequence[tuple[int, Message]],
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> None:
        """Take these messages in, each with its index, and go on as far as the sagas come. Raises StepFailed."""
        turns: dict[str, Turn] = {}
        for index, message in messages:
            turns.setdefault(message.key, Turn(message.key, deque(), since=at_hand.since)).left.append((index, message))
        for row in await transaction.load_rows(SAGAS, sorted(turns)):
            turn = turns[row[0]]
            try:
                turn.saga = instance_of(row)
                turn.full = nearly_full(turn.saga)
            except msgspec.ValidationError as error:
                raise StepFailed(turn.left[0][0], error, f"sagas, {turn.key}") from error
        work = list(turns.values())
        try:
            while work:
                asked = [(turn, each) for turn in work for each in self._proceed(turn, transaction, outgoing)]
                await self._do(transaction, asked, outgoing, budget, at_hand)
                work = list(dict.fromkeys(turn for turn, _ in asked))
        finally:
            for turn in turns.values():
                turn.live.close()  # those that were at local steps when another one failed
        await _save(transaction, [turn.saga for turn in turns.values() if turn.changed and turn.saga is not None])

    async def park(self, transaction: StepTransaction, message: Message, reason: str, outgoing: Outgoing) -> bool:
        """After its last attempt: keep what came in the row of the saga, which waits for a person from now on. False:
        there is no such saga, or it cannot be said what came."""
        rows = await transaction.load_rows(SAGAS, [message.key])
        try:
            turn = Turn(message.key, deque([(0, message)]), instance_of(rows[0]) if rows else None)
            self._take(turn, transaction, outgoing)
        except Exception:  # by rules over values: it is why the message failed, and its letter says so
            return False
        saga = turn.saga
        if saga is None or saga.status in ENDED:
            return False
        park(saga, reason)
        outgoing.after.append(partial(self._say_parked, turn.message, saga.key, reason))
        await _save(transaction, [saga])
        return True

    # ------------------------------------------------------------------------------------------------------ one saga

    def _proceed(self, turn: Turn, transaction: StepTransaction, outgoing: Outgoing) -> list[RunLocal]:
        """Go on with a saga until it wants local steps, or everything that came for it is taken in."""
        logs.at_hand.set(turn.message)
        try:
            while turn.going or turn.left:
                if not turn.going:
                    self._take(turn, transaction, outgoing)
                turn.going = False
                saga = turn.saga
                if saga is None or not turn.changed:
                    continue
                was = saga.status
                if turn.code is None:
                    turn.code = self._codes.get((saga.name, saga.version))
                code = turn.code
                named = self._named if code is None else None
                effects = go_on(
                    code, saga, transaction.now, named, outgoing.largest, values=self._values, live=turn.live
                )
                if saga.status is Status.PARKED and was is not Status.PARKED:
                    outgoing.after.append(partial(self._say_parked, turn.message, saga.key, saga.reason))
                if saga.mailbox and saga.status in ENDED and was not in ENDED:
                    unread = [each.type for each in saga.mailbox]
                    outgoing.after.append(partial(self._say_unread, turn.message, saga.key, saga.status, unread))
                steps = self._carry_out(turn, effects, transaction, outgoing)
                if steps:
                    turn.going = True
                    return steps
                full, turn.full = turn.full, nearly_full(saga)
                if turn.full and not full:
                    outgoing.after.append(partial(self._say_full, turn.message, saga.key, turn.full))
        except Exception as error:
            raise StepFailed(turn.index, error, f"sagas, {turn.key}") from error
        return []

    def _take(self, turn: Turn, transaction: StepTransaction, outgoing: Outgoing) -> None:
        """Take in what came next. Raises SagaMissing for what is told to nobody, UsageError, and BadMessage."""
        turn.index, turn.message = turn.left.popleft()
        logs.at_hand.set(turn.message)
        message, now = turn.message, transaction.now
        useful, effects = False, list[Effect]()
        if message.envelope.type in (SAGA, TOLD):
            if owner_of(message.source) != self._service:
                raise BadMessage(
                    f"{message.type} for saga {message.key} is of {message.source}, expected one of {self._service} "
                    "itself: whoever answers its commands may write to this topic, and has no say in its sagas",
                    type=message.type,
                )
            wake = _read(read_wake, message)
            if wake.kind == "start":
                if turn.saga is None:
                    useful = True
                    turn.saga, effects = begun(
                        message.key, wake.version, bytes(wake.data), message.correlation_id, now, wake.deadline_s,
                        wake.answers,
                    )  # fmt: skip
            else:
                saga = self._known(turn, wake)
                incoming = self._incoming(saga, wake, message) if saga is not None else None
                if saga is not None and incoming is not None:
                    useful, effects = take(saga, incoming, now, values=self._values)
        elif turn.saga is not None:
            reply = _read(read_reply, message)
            number = turn.saga.sent.pop(reply.command, None)
            if number is not None:
                refusal = Refusal(reply.failure, reply.fields) if reply.failure else None
                answer = Answered(number, bytes(reply.data), refusal)
                useful, effects = take(turn.saga, answer, now, values=self._values)
        if useful:
            turn.changed = True
            self._carry_out(turn, effects, transaction, outgoing)
        else:
            outgoing.after.append(partial(self._drop, turn.key, message.id))

    def _drop(self, key: str, message_id: str) -> None:
        self.dropped += 1
        log.info("%s: saga %s: %s came for nothing", self._service, key, message_id)

    def _say_unread(self, message: Message | None, key: str, status: Status, types: Sequence[str]) -> None:
        self.dropped += len(types)
        with logs.concerning(message):
            log.warning(
                "%s: saga %s is %s and has not received %d event(s) that it was told: %s", self._service, key, status,
                len(types), ", ".join(sorted(set(types))),
            )  # fmt: skip

    def _say_parked(self, message: Message | None, key: str, reason: str) -> None:
        with logs.concerning(message):
            log.error("%s: saga %s is parked: %s", self._service, key, Lines(reason))

    def _say_full(self, message: Message | None, key: str, said: str) -> None:
        with logs.concerning(message):
            log.warning("%s: saga %s: %s", self._service, key, said)

    def _run_outside(self, run: OutsideRun) -> None:
        self.begin([run])

    def _known(self, turn: Turn, wake: Wake) -> Instance | None:
        if turn.saga is None and wake.kind == "told":
            name, saga_id = parts_of(turn.key)
            raise SagaMissing(
                f"saga {name} {saga_id} is told {wake.type}, and does not exist, or has ended long ago: it is tried "
                "again for a while, then set aside, and holds nothing back but what the saga is told after it. Start "
                "the saga before, and have it tried again if it is set aside",
                entity=name,
                entity_id=saga_id,
            )
        return turn.saga

    def _carry_out(
        self, turn: Turn, effects: Sequence[Effect], transaction: StepTransaction, outgoing: Outgoing
    ) -> list[RunLocal]:
        """Write what is to be sent and set; return the local steps."""
        if not effects:
            return []
        saga, message = turn.saga, turn.message
        assert saga is not None
        assert message is not None
        step = Step(transaction, outgoing, message, saga.correlation_id, message.envelope.traceparent)
        locals: list[RunLocal] = []
        for each in effects:
            match each:
                case RunLocal():
                    locals.append(each)
                case Send(number, kind, topic, key, data):
                    asked = {REPLY_KEY: saga.key, REPLY_TO: self._topic}
                    saga.sent[step.emit(topic, kind, key, checked_key(kind, key), data, asked)] = number
                case Answer():
                    _answer(step, saga)
                case RunOutside(number, attempt):
                    run = self._outside(turn, saga, number, attempt, message.envelope.traceparent)
                    outgoing.after.append(partial(self._run_outside, run))
                case SetTimer(number, due_at):
                    wake = write_wake(Wake("due", number=number))
                    due = datetime.fromtimestamp(due_at, UTC)
                    saga.timers[number] = step.emit(self._topic, SAGA, saga.key, len(saga.key), wake, due=due)
                case CancelTimer(name):
                    step.cancel(name)
        return locals

    def _outside(self, turn: Turn, saga: Instance, number: int, attempt: int, traceparent: str) -> OutsideRun:
        effect = saga.outside[number]
        function = self._outsides.get(effect.name)
        if function is None:
            raise LookupError(f"service {self._service} has no outside function {effect.name!r}, which its saga runs")
        return OutsideRun(
            saga.key, number, attempt, function, bytes(effect.data), f"{self._service}:{effect.key}", effect.limit_s,
            saga.correlation_id, traceparent, turn.since,
        )  # fmt: skip

    def _incoming(self, saga: Instance, wake: Wake, message: Message) -> Incoming | None:
        match wake.kind:
            case "due":
                if saga.timers.get(wake.number) != message.id:
                    return None  # one that was cancelled too late has another id, or none
                effect = saga.outside.get(wake.number)
                if effect is not None and (saga.key, wake.number, effect.attempt) in self.at_work:
                    return AtWork(wake.number)
                return Elapsed(wake.number)
            case "came":
                return Answered(wake.number, bytes(wake.data), wake.refusal, wake.attempt)
            case "broke":
                return Broke(wake.number, wake.attempt, wake.reason)
            case "again":
                return Again(wake.number, wake.attempt)
            case "told":
                return Told(*as_now(wake.type, bytes(wake.data)))
            case "cancel":
                return Cancel(wake.who, wake.why)
            case "retry":
                return Retry(wake.who, wake.why)
            case "skip":
                skip = Skip(wake.asks, wake.data, wake.refusal) if any(wake.asks) else None
                return SkipOperation(wake.number, skip, wake.who, wake.why)
            case "start":
                return None

    # ------------------------------------------------------------------------------------------------------ one round

    async def _do(
        self,
        transaction: StepTransaction,
        asked: Sequence[tuple[Turn, RunLocal]],
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> None:
        """Run the local steps of a round together, and have each saga take in what came of its own."""
        now = transaction.now
        todo: list[tuple[Turn, RunLocal, Message]] = []
        for turn, each in asked:
            assert turn.saga is not None
            assert turn.message is not None
            of, refused = self._refused.get(turn.key, ("", {}))
            failure = refused.get(each.number) if of == turn.message.id else None
            if failure is None:
                todo.append((turn, each, self._message(turn, each)))
            else:
                take(turn.saga, Answered(each.number, failure=Refusal.of(failure)), now, values=self._values)
        if not todo:
            return
        try:
            await self._run_locals(transaction, [message for *_, message in todo], outgoing, budget, at_hand)
        except StepFailed as failed:
            raise _blamed(failed, todo) from failed
        for turn, each, message in todo:
            assert turn.saga is not None
            value = outgoing.results.pop(message.id, None)
            try:
                take(turn.saga, self._answer(each, value), now, values=self._values)
            except Exception as error:
                raise StepFailed(turn.index, error, each.name) from error

    def _answer(self, asked: RunLocal, value: object) -> Answered:
        if isinstance(value, Failure):
            return Answered(asked.number, failure=Refusal.of(value))
        return Answered(asked.number, self._locals[asked.name].write_value(value))

    def _message(self, turn: Turn, asked: RunLocal) -> Message:
        """A local step as a message of the saga to itself; its id is the same at each attempt."""
        saga, message = turn.saga, turn.message
        assert saga is not None
        assert message is not None
        step = self._locals.get(asked.name)
        if step is None:
            error = LookupError(f"service {self._service} has no local step {asked.name!r}, which saga {saga.key} runs")
            raise StepFailed(turn.index, error, asked.name)
        envelope = Envelope(
            f"{saga.key}#{asked.number}", step.handler.event.type, message.time, saga.correlation_id, message.id,
            message.envelope.traceparent,
        )  # fmt: skip
        return Message(
            message.topic, message.partition, message.offset, message.key, message.source, message.position,
            message.previous, envelope, asked.data,
        )  # fmt: skip


def _read(read: Callable[[bytes], T], message: Message) -> T:
    try:
        return read(message.data)
    except ValueError as error:
        raise BadMessage(f"{message.type} for saga {message.key}: {error}", type=message.type) from error


def _answer(step: Step, saga: Instance) -> None:
    """Answer the command that has started a saga: by what its function returned, or for what it was undone."""
    answers, message = saga.answers, step.message
    assert answers is not None
    assert message is not None
    reply = Reply(answers.command, saga.result)
    if saga.status is Status.UNDONE and saga.ending is not None:
        reply = Reply(answers.command, failure=saga.ending.name, fields=saga.ending.fields)
    # What caused it is the command, as with any answer, and not what the saga was woken by.
    cause = msgspec.structs.replace(message.envelope, id=answers.command)
    step.message = msgspec.structs.replace(message, envelope=cause)
    step.emit(answers.topic, REPLY, answers.key, checked_key(REPLY, answers.key), write_reply(reply))
    step.message = message


def _blamed(failed: StepFailed, todo: Sequence[tuple[Turn, RunLocal, Message]]) -> StepFailed:
    """The failure of a local step as one of the message that its saga is at."""
    at = failed.index if failed.index is not None else 0 if len(todo) == 1 else None
    if at is None:
        indexes = {turn.index for turn, *_ in todo}
        return StepFailed(indexes.pop() if len(indexes) == 1 else None, failed.error, failed.handler)
    turn, asked, _ = todo[at]
    refusal = failure_in(failed.error)
    if refusal is not None:
        assert turn.message is not None
        return LocalRefused(turn.index, refusal, failed.handler, turn.message, asked.number)
    return StepFailed(turn.index, failed.error, failed.handler)


async def _save(transaction: StepTransaction, sagas: Sequence[Instance]) -> None:
    new: list[Row] = [row_of(each, 1) for each in sagas if not each.revision]
    known = [each for each in sagas if each.revision]
    if known:
        rows = [row_of(each, each.revision + 1) for each in known]
        await transaction.update_rows(SAGAS, rows, expect=[each.revision for each in known])
    if new:
        await transaction.insert_rows(SAGAS, new)
