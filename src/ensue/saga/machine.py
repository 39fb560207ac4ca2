"""What becomes of a saga: one record is taken in, then it goes on as far as it can. No I/O, clock or chance.

    RUNNING --failure, time limit, cancel, deadline (before the pivot)--> UNDOING --nothing left--> UNDONE
    RUNNING --returned, nothing left to undo--> COMPLETED
    RUNNING, UNDOING --a bug, a mismatch, an undo that fails for too long--> PARKED --retry--> back

`taking` takes in; `go_on` goes on: `forward`, `undoing`, and with `attempts` at outside effects. All of them change the
row that they are given and say what has to be done besides.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Final

from ensue.saga.attempts import begin_attempts
from ensue.saga.code import SagaCode
from ensue.saga.effects import DEADLINE, LOOK_AGAIN, Answer, CancelTimer, Effect, SetTimer
from ensue.saga.forward import go_forward
from ensue.saga.instance import ENDED, Instance, Status
from ensue.saga.replay import Live
from ensue.saga.replaying import Largest, usual_largest
from ensue.saga.undoing import begin_undoing, begin_undos, next_undos
from ensue.saga.wake import Answers

#: A saga whose code this process does not have is looked at again after so many seconds, perhaps by another one.
LOOK_AGAIN_S: Final = 10.0


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
            effects += begin_undoing(saga, saga.stop)
        elif code is None:
            _look_again(saga, now, effects)
        else:
            effects += go_forward(code, saga, now, largest, values=values, live=live)
    if saga.status is Status.RUNNING and not saga.outside and not any(each.at_once for each in saga.undos):
        pass  # as most are: there is nothing to be undone while it runs, and nothing outside is at hand
    else:
        if saga.status is Status.UNDOING or saga.status is Status.RUNNING:
            effects += begin_undos(saga, now, named)
        if saga.status is Status.UNDOING or saga.status is Status.RUNNING:
            effects += begin_attempts(saga, now, named)
        if named is not None and saga.status not in (Status.PARKED, *ENDED) and _left(saga):
            _look_again(saga, now, effects)
    if saga.status is Status.UNDOING and not saga.undos:
        effects += _end(saga, Status.UNDONE)
    elif saga.status is Status.RUNNING and saga.returned and not saga.undos:
        effects += _end(saga, Status.COMPLETED)
    return effects


def _left(saga: Instance) -> bool:
    """Whether something could begin, and has not: this process does not have it."""
    return any(not each.state for each in saga.outside.values()) or bool(next_undos(saga))


def _look_again(saga: Instance, now: float, effects: list[Effect]) -> None:
    saga.waits_for = f"a process with the code of {saga.name}, version {saga.version}"
    if LOOK_AGAIN not in saga.timers and not any(
        isinstance(each, SetTimer) and each.number == LOOK_AGAIN for each in effects
    ):
        effects.append(SetTimer(LOOK_AGAIN, now + LOOK_AGAIN_S))


def _end(saga: Instance, status: Status) -> list[Effect]:
    saga.status, saga.waits_for = status, ""
    if status is Status.COMPLETED:
        saga.reason = ""
    effects: list[Effect] = [CancelTimer(name) for name in saga.timers.values()]
    saga.timers, saga.sent, saga.outside = {}, {}, {}  # its mailbox stays, for people to see
    if saga.answers is not None and saga.answers.topic:
        effects.append(Answer())
    return effects
