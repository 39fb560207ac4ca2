"""One record is taken in: an answer, a timer, an event or an order of a person's changes the row of its saga."""

from __future__ import annotations

import msgspec

from ensue.errors import UsageError
from ensue.failure import Failure, said_of
from ensue.saga.attempts import attempt_broke, attempt_elapsed
from ensue.saga.effects import DEADLINE, LOOK_AGAIN, Effect, SetTimer, without_timer
from ensue.saga.failures import DeadlineExceeded, SagaCancelled, TimeLimitExceeded
from ensue.saga.incoming import Again, Answered, AtWork, Broke, Cancel, Elapsed, Incoming, Retry, SkipOperation, Told
from ensue.saga.instance import ENDED, MAILBOX_MAX, Instance, Mail, Skip, Status
from ensue.saga.journal import Issued, Refusal, Resolved, open_one, still_open
from ensue.saga.parking import decided, go_back
from ensue.saga.room import BYTES_MAX, bytes_of
from ensue.saga.undoing import undo_at_once, undo_at_work, undo_failed


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
            return attempt_broke(saga, number, attempt, reason)
        case Again(number, attempt):
            return attempt_broke(saga, number, attempt, "")
        case AtWork(number):
            return True, [SetTimer(number, now + saga.outside[number].limit_s)]
        case Elapsed(number):
            return _elapsed(saga, number, now)
        case Told(kind, data):
            return _told(saga, kind, data, now)
        case Cancel(who, why):
            if not _stop(saga, SagaCancelled()):
                return False, []
            if saga.status is Status.PARKED:
                saga.status, saga.resumes = Status.RUNNING, ""
            decided(saga, now, "cancel", who, why)
            return True, []
        case Retry(who, why):
            if saga.status is not Status.PARKED:
                return False, []
            go_back(saga)
            decided(saga, now, "retry", who, why)
            return True, []
        case SkipOperation(number, skip, who, why):
            what = _skipped(saga, number, skip, now) if saga.status is Status.PARKED else None
            if what is None:
                return False, []
            said, effects = what
            go_back(saga)
            decided(saga, now, f"skip {said}", who, why)
            return True, effects


def _told(saga: Instance, kind: str, data: bytes, now: float) -> tuple[bool, list[Effect]]:
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


def _skipped(saga: Instance, number: int, skip: Skip | None, now: float) -> tuple[str, list[Effect]] | None:
    """What is skipped, and what follows; None: there is no such thing any more."""
    if skip is None:
        gone = next((each for each in saga.undos if each.of == number and each.state != "begun"), None)
        if gone is None:
            return None
        saga.undos = [each for each in saga.undos if each is not gone]
        return str(gone), without_timer(saga, gone.number)
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
    undo = undo_at_work(saga, number)
    effect = saga.outside.pop(number, None)
    if undo is not None:
        if failure is None:
            saga.undos = [each for each in saga.undos if each is not undo]
        else:
            undo_failed(saga, undo, said_of(failure.failure(), values=values))
        return True, without_timer(saga, number)
    # The attempts before it had no outcome, so that nobody knows of them: as after a time limit.
    perhaps_done = effect is not None and effect.attempt > 1
    if effect is not None and saga.goes_by == Status.UNDOING:
        if failure is not None and not perhaps_done:
            saga.undos = [each for each in saga.undos if each.of != number]  # it did not happen
        return True, without_timer(saga, number)
    if saga.goes_by != Status.RUNNING or open_one(saga.journal, number) is None:
        return False, []
    if effect is not None and effect.reason and saga.status is Status.RUNNING:
        saga.reason = ""  # it has come to something after all
    saga.journal = [*saga.journal, Resolved.of(number, now, data, failure)]
    if failure is not None and perhaps_done:
        undo_at_once(saga, number)
    elif failure is not None:
        saga.undos = [each for each in saga.undos if each.of != number]  # it did not happen
    return True, without_timer(saga, number)


def _elapsed(saga: Instance, number: int, now: float) -> tuple[bool, list[Effect]]:
    saga.timers = {each: name for each, name in saga.timers.items() if each != number}
    if number == LOOK_AGAIN:
        return True, []
    if number == DEADLINE:
        return _stop(saga, DeadlineExceeded()), []
    if number in saga.outside:
        return attempt_elapsed(saga, number, saga.outside[number], now)
    undo = next((each for each in saga.undos if each.number == number and each.state == "waits"), None)
    if undo is not None:
        undo.state = ""
        return True, []
    operation = open_one(saga.journal, number)
    if operation is None or saga.goes_by != Status.RUNNING:
        return False, []
    if operation.kind == "sleep":
        return _resolve(saga, number, now, b"null", None)
    undo_at_once(saga, number)
    late = Refusal.of(TimeLimitExceeded(operation=str(operation)))
    saga.journal = [*saga.journal, Resolved.of(number, now, b"null", late)]
    saga.sent = {name: of for name, of in saga.sent.items() if of != number}  # an answer comes too late
    return True, []


def _stop(saga: Instance, failure: Failure) -> bool:
    if saga.pivoted or saga.goes_by != Status.RUNNING or saga.returned:
        return False
    saga.stop = saga.stop or Refusal.of(failure)
    return True
