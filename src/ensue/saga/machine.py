"""What becomes of a saga: one record is taken in, then it goes on as far as it can. No I/O, clock or chance.

    RUNNING --failure, time limit, cancel, deadline (before the pivot)--> UNDOING --nothing left--> UNDONE
    RUNNING --returned, nothing left to undo--> COMPLETED
    RUNNING, UNDOING --a bug, a mismatch, an undo that fails for too long--> PARKED --retry--> back

Both functions change the row that they are given and say what has to be done besides.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

import msgspec

from ensue.errors import UsageError
from ensue.failure import Failure, said_of
from ensue.saga.code import SagaCode
from ensue.saga.failures import DeadlineExceeded, SagaCancelled, TimeLimitExceeded
from ensue.saga.instance import DECISIONS_MAX, ENDED, MAILBOX_MAX, Decision, Instance, Mail, Skip, Status
from ensue.saga.journal import Issued, Refusal, Resolved, open_one, still_open
from ensue.saga.outside import Outside
from ensue.saga.replay import Live, replay
from ensue.saga.replaying import Largest, Operation, usual_largest
from ensue.saga.room import BYTES_MAX, bytes_of, too_full
from ensue.saga.undo import ATTEMPTS_MAX, Undo, delay_s, next_to_begin
from ensue.saga.wake import Answers

#: Numbers of timers that belong to no operation.
DEADLINE, LOOK_AGAIN = 0, -1
#: A saga whose code this process does not have is looked at again after so many seconds, perhaps by another one.
LOOK_AGAIN_S: Final = 10.0
#: So many restarts in a row are done in one transaction; one that never waits would be at it for ever, and with it all
#: others of its lane.
HASTY_MAX: Final = 100

# ------------------------------------------------------------------------------------------------------- what comes


class Answered(msgspec.Struct, frozen=True, gc=False):
    """A command, a local step or an outside effect came to this: `data` as JSON, or a failure. attempt: at an outside
    effect; 0: the one at hand."""

    number: int
    data: bytes = b"null"
    failure: Refusal | None = None
    attempt: int = 0


class Broke(msgspec.Struct, frozen=True, gc=False):
    """An attempt at an outside effect failed; nobody knows what it has done."""

    number: int
    attempt: int
    reason: str


class Again(msgspec.Struct, frozen=True, gc=False):
    """An attempt at an outside effect was cut short because its process stops. It does not count."""

    number: int
    attempt: int


class AtWork(msgspec.Struct, frozen=True, gc=False):
    """The timer of an outside effect has gone off that this process is still at, or has not come to."""

    number: int


class Elapsed(msgspec.Struct, frozen=True, gc=False):
    """A timer has gone off."""

    number: int


class Told(msgspec.Struct, frozen=True, gc=False):
    type: str
    data: bytes


class Cancel(msgspec.Struct, frozen=True, gc=False):
    """Somebody wants it undone."""

    who: str = ""
    why: str = ""


class Retry(msgspec.Struct, frozen=True, gc=False):
    """A person has looked at a parked saga: it goes on."""

    who: str = ""
    why: str = ""


class SkipOperation(msgspec.Struct, frozen=True, gc=False):
    """A person has settled what a parked saga is at: it goes on as if that had come to this. number: of the operation;
    skip: what counts for it; None: the undo of that operation counts as done."""

    number: int
    skip: Skip | None
    who: str = ""
    why: str = ""


Incoming = Answered | Broke | Again | AtWork | Elapsed | Told | Cancel | Retry | SkipOperation

# ------------------------------------------------------------------------------------------------------ what follows


class RunLocal(msgspec.Struct, frozen=True, gc=False):
    """Run a local step; what comes of it is taken in, in the same transaction."""

    number: int
    name: str
    data: bytes


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send a command; keep its id in `Instance.sent`."""

    number: int
    type: str
    topic: str
    key: str
    data: bytes


class RunOutside(msgspec.Struct, frozen=True, gc=False):
    """Make an attempt at `Instance.outside[number]`, once this is committed. Its timer was set before."""

    number: int
    attempt: int


class SetTimer(msgspec.Struct, frozen=True, gc=False):
    """Set a timer; keep its id in `Instance.timers`."""

    number: int
    due_at: float


class CancelTimer(msgspec.Struct, frozen=True, gc=False):
    id: str


class Answer:
    """It has ended, and whoever asked for it is told: `Instance.answers`."""


Effect = Answer | RunLocal | Send | RunOutside | SetTimer | CancelTimer


def begun(
    key: str,
    version: int,
    request: bytes,
    correlation_id: str,
    now: float,
    deadline_s: float,
    answers: Answers | None = None,
) -> tuple[Instance, list[Effect]]:
    """A new saga, which has not run yet."""
    saga = Instance(
        key=key, version=version, status=Status.RUNNING, correlation_id=correlation_id, started_at=now,
        updated_at=now, request=request, answers=answers,
    )  # fmt: skip
    return saga, [SetTimer(DEADLINE, now + deadline_s)] if deadline_s else []


# --------------------------------------------------------------------------------------------------------- taking in


def take(saga: Instance, incoming: Incoming, now: float, *, values: bool = False) -> tuple[bool, list[Effect]]:
    """Keep what came in the row. False: it is of no use, being late, or a second one, or for a saga that has ended.
    values: whether a reason may show those of failures. Raises UsageError for what it is told and has no room for.

    A parked saga keeps it too, and makes something of it once it is retried.
    """
    if saga.status in ENDED:
        return False, []
    saga.updated_at = now
    match incoming:
        case Answered(number, data, failure, attempt):
            effect = saga.outside.get(number)
            if failure is not None and effect is not None and attempt not in (0, effect.attempt):
                return False, []  # an earlier one was not done, which says nothing of the one at hand
            return _resolve(saga, number, now, data, failure, values=values)
        case Broke(number, attempt, reason):
            return _broke(saga, number, attempt, reason)
        case Again(number, attempt):
            return _broke(saga, number, attempt, "")
        case AtWork(number):
            return True, [SetTimer(number, now + saga.outside[number].limit_s)]
        case Elapsed(number):
            return _elapsed(saga, number, now)
        case Told(kind, data):
            opened = still_open(saga.journal) if saga.goes_by == Status.RUNNING else {}
            waiting = next((each.number for each in opened.values() if each.asks[:2] == ("receive", kind)), None)
            if waiting is not None:
                return _resolve(saga, waiting, now, data, None)
            if len(saga.mailbox) >= MAILBOX_MAX or bytes_of(saga) + len(data) > BYTES_MAX:
                raise UsageError(
                    f"saga {saga.key} is told {kind}, and has {len(saga.mailbox)} events that it has not received, in "
                    f"a row of {bytes_of(saga)} bytes, expected less than {MAILBOX_MAX}, and {BYTES_MAX} bytes with "
                    "this: tell it what it waits for, or have it receive more. This is set aside, and holds back what "
                    "the saga is told after it, and nothing else"
                )
            saga.mailbox = [*saga.mailbox, Mail(kind, msgspec.Raw(data))]
            return True, []
        case Cancel(who, why):
            if not _stop(saga, SagaCancelled()):
                return False, []
            if saga.status is Status.PARKED:
                saga.status, saga.resumes = Status.RUNNING, ""
            _decided(saga, now, "cancel", who, why)
            return True, []
        case Retry(who, why):
            if saga.status is not Status.PARKED:
                return False, []
            _go_back(saga)
            _decided(saga, now, "retry", who, why)
            return True, []
        case SkipOperation(number, skip, who, why):
            what = _skipped(saga, number, skip, now) if saga.status is Status.PARKED else None
            if what is None:
                return False, []
            said, effects = what
            _go_back(saga)
            _decided(saga, now, f"skip {said}", who, why)
            return True, effects


def _decided(saga: Instance, now: float, what: str, who: str, why: str) -> None:
    saga.decisions = [*saga.decisions, Decision(now, what, who, why)][-DECISIONS_MAX:]


def _go_back(saga: Instance) -> None:
    """From PARKED to what it was; what has failed has all its attempts again."""
    saga.status, saga.resumes, saga.reason = Status(saga.resumes), "", ""
    for each in saga.undos:
        each.attempts = 0
    for effect in saga.outside.values():
        effect.last = effect.attempt + effect.attempts
        effect.state = "" if effect.state == "failed" else effect.state


def _skipped(saga: Instance, number: int, skip: Skip | None, now: float) -> tuple[str, list[Effect]] | None:
    """What is skipped, and what follows; None: there is no such thing any more."""
    if skip is None:
        gone = next((each for each in saga.undos if each.of == number and each.state != "begun"), None)
        if gone is None:
            return None
        saga.undos = [each for each in saga.undos if each is not gone]
        return str(gone), _without_timer(saga, gone.number)
    asked = Issued(number, *skip.asks)
    if number > saga.last:
        saga.skips = {number: skip}  # once it is asked for
        return str(asked), []
    if open_one(saga.journal, number) != asked:
        return None
    useful, effects = _resolve(saga, number, now, bytes(skip.data), skip.failure)
    return (str(asked), effects) if useful else None


def _resolve(
    saga: Instance, number: int, now: float, data: bytes, failure: Refusal | None, *, values: bool = False
) -> tuple[bool, list[Effect]]:
    undo = _undo_at_work(saga, number)
    effect = saga.outside.pop(number, None)
    if undo is not None:
        if failure is None:
            saga.undos = [each for each in saga.undos if each is not undo]
        else:
            _undo_failed(saga, undo, said_of(failure.failure(), values=values))
        return True, _without_timer(saga, number)
    # The attempts before it had no outcome, so that nobody knows of them: as after a time limit.
    perhaps_done = effect is not None and effect.attempt > 1
    if effect is not None and saga.goes_by == Status.UNDOING:
        if failure is not None and not perhaps_done:
            saga.undos = [each for each in saga.undos if each.of != number]  # it did not happen
        return True, _without_timer(saga, number)
    if saga.goes_by != Status.RUNNING or open_one(saga.journal, number) is None:
        return False, []
    if effect is not None and effect.reason and saga.status is Status.RUNNING:
        saga.reason = ""  # it has come to something after all
    saga.journal = [*saga.journal, _resolved(number, now, data, failure)]
    if failure is not None and perhaps_done:
        _undo_at_once(saga, number)
    elif failure is not None:
        saga.undos = [each for each in saga.undos if each.of != number]  # it did not happen
    return True, _without_timer(saga, number)


def _resolved(number: int, now: float, data: bytes, failure: Refusal | None) -> Resolved:
    if failure is None:
        return Resolved(number, now, msgspec.Raw(data))
    return Resolved(number, now, failure=failure.name, fields=failure.fields)


def _undo_at_once(saga: Instance, number: int) -> None:
    for each in saga.undos:
        each.at_once = each.at_once or each.of == number


def _undo_at_work(saga: Instance, number: int) -> Undo | None:
    return next((each for each in saga.undos if each.number == number and each.state == "begun"), None)


def _undo_failed(saga: Instance, undo: Undo, reason: str) -> None:
    undo.state, undo.attempts = "failed", undo.attempts + 1
    saga.reason = f"{undo} failed at attempt {undo.attempts}: {reason}"


def _broke(saga: Instance, number: int, attempt: int, reason: str) -> tuple[bool, list[Effect]]:
    """reason: empty: it does not count."""
    effect = saga.outside.get(number)
    if effect is None or effect.state != "begun" or effect.attempt != attempt:
        return False, []
    undo = _undo_at_work(saga, number)
    if undo is not None:
        del saga.outside[number]
        if reason:
            _undo_failed(saga, undo, reason)
        else:
            undo.state = ""
    elif saga.goes_by == Status.UNDOING:
        del saga.outside[number]  # it may be done: its undo tells
    elif reason:
        effect.state, effect.reason = "failed", f"outside {effect.name} failed at attempt {attempt}: {reason}"
        saga.reason = effect.reason
    else:
        effect.state, effect.last = "", effect.last + 1
    return True, _without_timer(saga, number)


def _outside_elapsed(saga: Instance, number: int, effect: Outside, now: float) -> tuple[bool, list[Effect]]:
    if effect.state == "waits":
        effect.state = ""
        return True, []
    if not effect.overdue:
        # What came of it may be on its way: a timer that is set now comes behind whatever is written by now.
        effect.overdue = True
        return True, [SetTimer(number, now)]
    said = f"nothing was heard of it within its limit of {effect.limit_s:g} s: its process died, or was cut off"
    useful, effects = _broke(saga, number, effect.attempt, said)
    if effect.state == "failed" and effect.attempt < effect.last:
        effect.state = ""  # the timer has waited for longer than the limit already
    return useful, effects


def _elapsed(saga: Instance, number: int, now: float) -> tuple[bool, list[Effect]]:
    saga.timers = {each: name for each, name in saga.timers.items() if each != number}
    if number == LOOK_AGAIN:
        return True, []
    if number == DEADLINE:
        return _stop(saga, DeadlineExceeded()), []
    if number in saga.outside:
        return _outside_elapsed(saga, number, saga.outside[number], now)
    undo = next((each for each in saga.undos if each.number == number and each.state == "waits"), None)
    if undo is not None:
        undo.state = ""
        return True, []
    operation = open_one(saga.journal, number)
    if operation is None or saga.goes_by != Status.RUNNING:
        return False, []
    if operation.kind == "sleep":
        return _resolve(saga, number, now, b"null", None)
    _undo_at_once(saga, number)
    late = Refusal.of(TimeLimitExceeded(operation=str(operation)))
    saga.journal = [*saga.journal, _resolved(number, now, b"null", late)]
    saga.sent = {name: of for name, of in saga.sent.items() if of != number}  # an answer comes too late
    return True, []


def _stop(saga: Instance, failure: Failure) -> bool:
    if saga.pivoted or saga.goes_by != Status.RUNNING or saga.returned:
        return False
    saga.stop = saga.stop or Refusal.of(failure)
    return True


# --------------------------------------------------------------------------------------------------------- going on


def go_on(
    code: SagaCode | None,
    saga: Instance,
    now: float,
    named: Container[str] | None = None,
    largest: Largest = usual_largest,
    *,
    values: bool = False,
    live: Live | None = None,
) -> list[Effect]:
    """Run it as far as it comes by what its row holds. code: None: this process does not have it. named: all local
    steps and outside functions that it has; None: whatever is asked for. largest: see `Replaying`. values: see
    `take`; also those that errors of SQLAlchemy and pydantic quote. live: its function in this transaction, which
    whoever gives it closes; None: it is replayed."""
    effects: list[Effect] = []
    if saga.status is Status.RUNNING and not saga.returned:
        if saga.stop is not None and not saga.pivoted:
            effects += _begin_undoing(saga, saga.stop)
        elif code is None:
            _look_again(saga, now, effects)
        else:
            effects += _forward(code, saga, now, largest, values=values, live=live)
    if saga.status is Status.RUNNING and not saga.outside and not any(each.at_once for each in saga.undos):
        pass  # as most are: there is nothing to be undone while it runs, and nothing outside is at hand
    else:
        if saga.status is Status.UNDOING or saga.status is Status.RUNNING:
            effects += _undo(saga, now, named)
        if saga.status is Status.UNDOING or saga.status is Status.RUNNING:
            effects += _outside(saga, now, named)
        if named is not None and saga.status not in (Status.PARKED, *ENDED) and _left(saga):
            _look_again(saga, now, effects)
    if saga.status is Status.UNDOING and not saga.undos:
        effects += _end(saga, Status.UNDONE)
    elif saga.status is Status.RUNNING and saga.returned and not saga.undos:
        effects += _end(saga, Status.COMPLETED)
    return effects


def park(saga: Instance, reason: str) -> None:
    """Leave it to a person."""
    if saga.status in (Status.RUNNING, Status.UNDOING):
        saga.status, saga.resumes = Status.PARKED, saga.status
    saga.reason = reason
    saga.waits_for = "a person: see its reason, then retry or cancel it"


def _left(saga: Instance) -> bool:
    """Whether something could begin, and has not: this process does not have it."""
    return any(not each.state for each in saga.outside.values()) or bool(_next(saga))


def _next(saga: Instance) -> list[Undo]:
    return next_to_begin(saga.undos, undoing=saga.status is Status.UNDOING, busy=saga.outside)


def _look_again(saga: Instance, now: float, effects: list[Effect]) -> None:
    saga.waits_for = f"a process with the code of {saga.name}, version {saga.version}"
    if LOOK_AGAIN not in saga.timers and not any(
        isinstance(each, SetTimer) and each.number == LOOK_AGAIN for each in effects
    ):
        effects.append(SetTimer(LOOK_AGAIN, now + LOOK_AGAIN_S))


def _forward(
    code: SagaCode, saga: Instance, now: float, largest: Largest, *, values: bool, live: Live | None
) -> list[Effect]:
    effects: list[Effect] = []
    while True:
        if live is None:
            outcome = replay(code, saga, largest, values=values)
        else:
            outcome = live.go_on(code, saga, largest, values=values)
        received = False
        if outcome.kind == "waits" and outcome.new and (refused := too_full(saga)):
            park(saga, refused)  # before it asks for more, so that other code may do something else there
            return effects
        for issued, operation in outcome.new:
            more, resolved = _issue(saga, issued, operation, now)
            effects += more
            received = received or resolved
        if outcome.kind == "flawed":
            park(saga, outcome.flaw)
        elif outcome.kind == "restarts" and not any(isinstance(each, Resolved) for each in saga.journal):
            park(saga, "it restarts without having waited for anything, and would do so for ever")
        elif outcome.kind == "restarts" and _hasty(saga) > HASTY_MAX:
            park(
                saga,
                f"it has restarted {HASTY_MAX} times in a row without having waited for anything but local steps, "
                "all of them in one transaction: have it wait before it restarts, saga.sleep(...) for instance",
            )
        elif outcome.kind == "restarts":
            _restart(saga, outcome.request, now)
            continue
        elif outcome.kind == "failed":
            effects += _failed(saga, outcome.failure, values=values)
        elif outcome.kind == "returned":
            saga.returned, saga.result = True, msgspec.Raw(outcome.result)
            saga.undos = [each for each in saga.undos if each.at_once]
            saga.waits_for = ", ".join(map(str, saga.undos))
        else:
            left = [each for number in outcome.waits_for if (each := open_one(saga.journal, number)) is not None]
            saga.waits_for = ", ".join([str(each) for each in left])
            if received and not left:
                continue
        return effects


def _issue(
    saga: Instance, issued: Issued, operation: Operation[object] | None, now: float
) -> tuple[list[Effect], bool]:
    """What a new operation begins with; whether it is resolved already."""
    saga.journal = [*saga.journal, issued]
    saga.last = issued.number
    if operation is None:
        saga.pivoted = True
        saga.undos = [each for each in saga.undos if each.at_once]
        return _without_timer(saga, DEADLINE), False
    skip = saga.skips.pop(issued.number, None)
    skip = None if skip is None or skip.asks != issued.asks else skip  # the code has changed since
    if isinstance(operation.undo, Undo) and (skip is None or skip.failure is None):
        saga.undos = [*saga.undos, msgspec.structs.replace(operation.undo, of=issued.number)]
    if skip is not None:
        saga.journal = [*saga.journal, _resolved(issued.number, now, bytes(skip.data), skip.failure)]
        return [], True
    if issued.kind == "local":
        return [RunLocal(issued.number, issued.name, operation.data)], False
    if issued.kind == "outside":
        saga.outside[issued.number] = Outside(
            issued.name, msgspec.Raw(operation.data), f"{saga.key}:{issued.number}", operation.limit_s,
            operation.attempts, operation.attempts,
        )  # fmt: skip
        return [], False
    effects: list[Effect] = []
    if issued.kind == "call":
        effects.append(Send(issued.number, issued.name, operation.topic, issued.key, operation.data))
    if issued.kind == "receive":
        mail = next((each for each in saga.mailbox if each.type == issued.name), None)
        if mail is not None:
            saga.mailbox = [each for each in saga.mailbox if each is not mail]
            saga.journal = [*saga.journal, Resolved(issued.number, now, mail.data)]
            return [], True
    if operation.limit_s:
        effects.append(SetTimer(issued.number, now + operation.limit_s))
    return effects, False


def _hasty(saga: Instance) -> int:
    """How many restarts in a row it will have made, with this one, that no wait went before."""
    steps = {each.number for each in saga.journal if isinstance(each, Issued) and each.kind == "local"}
    waited = any(isinstance(each, Resolved) and each.number not in steps for each in saga.journal)
    return 0 if waited else saga.hasty + 1


def _restart(saga: Instance, request: bytes, now: float) -> None:
    saga.hasty, saga.request, saga.journal = _hasty(saga), request, []
    saga.generation += 1
    saga.restarted_at, saga.began_pivoted = now, saga.pivoted


def _failed(saga: Instance, failure: Failure | None, *, values: bool) -> list[Effect]:
    assert failure is not None
    if saga.pivoted:
        park(saga, f"it failed after its pivot, so that it cannot be undone: {said_of(failure, values=values)}")
        return []
    return _begin_undoing(saga, Refusal.of(failure))


def _begin_undoing(saga: Instance, failure: Refusal) -> list[Effect]:
    saga.status, saga.ending, saga.stop = Status.UNDOING, failure, None
    never = {number for number, each in saga.outside.items() if not each.attempt}
    saga.undos = [each for each in saga.undos if each.of not in never]
    saga.outside = {number: each for number, each in saga.outside.items() if each.state == "begun"}
    kept = {each.number for each in saga.undos if each.state} | saga.outside.keys()
    effects: list[Effect] = [CancelTimer(name) for number, name in saga.timers.items() if number not in kept]
    saga.timers = {number: name for number, name in saga.timers.items() if number in kept}
    saga.sent = {name: number for name, number in saga.sent.items() if number in kept}
    return effects


def _undo(saga: Instance, now: float, named: Container[str] | None) -> list[Effect]:
    effects: list[Effect] = []
    for each in saga.undos:
        if each.state == "failed":
            if each.attempts >= ATTEMPTS_MAX:
                each.state = ""
                park(saga, saga.reason)
                return effects
            each.state, each.number = "waits", saga.next_number()
            effects.append(SetTimer(each.number, now + delay_s(each.attempts)))
    for each in _next(saga):
        if each.kind != "call" and named is not None and each.name not in named:
            continue
        each.state, each.number = "begun", saga.next_number()
        if each.kind == "local":
            effects.append(RunLocal(each.number, each.name, bytes(each.data)))
        elif each.kind == "outside":
            key = f"{saga.key}:{each.of}:undo"
            saga.outside[each.number] = Outside(each.name, each.data, key, each.limit_s, 1, 1)
        else:
            effects.append(Send(each.number, each.name, each.topic, each.key, bytes(each.data)))
    if saga.status is Status.UNDOING:
        busy = [f"outside {each.name}, to undo it" for number, each in saga.outside.items() if each.state == "begun"]
        saga.waits_for = ", ".join([str(each) for each in saga.undos if each.state] or busy)
    return effects


def _outside(saga: Instance, now: float, named: Container[str] | None) -> list[Effect]:
    effects: list[Effect] = []
    for number, each in saga.outside.items():
        if each.state == "failed" and each.attempt >= each.last:
            park(saga, each.reason)
            break
        if each.state == "failed":
            each.state = "waits"
            effects.append(SetTimer(number, now + delay_s(each.attempt)))
        elif not each.state and (named is None or each.name in named):
            each.state, each.attempt, each.overdue = "begun", each.attempt + 1, False
            effects.append(SetTimer(number, now + each.limit_s + delay_s(each.attempt)))
            effects.append(RunOutside(number, each.attempt))
    return effects


def _end(saga: Instance, status: Status) -> list[Effect]:
    saga.status, saga.waits_for = status, ""
    if status is Status.COMPLETED:
        saga.reason = ""
    effects: list[Effect] = [CancelTimer(name) for name in saga.timers.values()]
    saga.timers, saga.sent, saga.outside = {}, {}, {}  # its mailbox stays, for people to see
    if saga.answers is not None and saga.answers.topic:
        effects.append(Answer())
    return effects


def _without_timer(saga: Instance, number: int) -> list[Effect]:
    name = saga.timers.pop(number, None)
    return [] if name is None else [CancelTimer(name)]
