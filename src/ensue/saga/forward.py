"""A saga runs forward: its function is fed with its journal, and what it asks for anew is begun."""

from __future__ import annotations

from typing import Final

import msgspec

from ensue.failure import Failure, said_of
from ensue.saga.code import SagaCode
from ensue.saga.effects import DEADLINE, Effect, RunLocal, Send, SetTimer, without_timer
from ensue.saga.instance import Instance
from ensue.saga.journal import Issued, Refusal, Resolved, open_one
from ensue.saga.outside import Outside
from ensue.saga.parking import park
from ensue.saga.replay import Live, replay
from ensue.saga.replaying import Largest, Operation
from ensue.saga.room import too_full
from ensue.saga.undo import Undo
from ensue.saga.undoing import begin_undoing

#: So many restarts in a row are done in one transaction; one that never waits would be at it for ever, and with it all
#: others of its lane.
HASTY_MAX: Final = 100


def go_forward(
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
        return without_timer(saga, DEADLINE), False
    skip = saga.skips.pop(issued.number, None)
    skip = None if skip is None or skip.asks != issued.asks else skip  # the code has changed since
    if isinstance(operation.undo, Undo) and (skip is None or skip.failure is None):
        saga.undos = [*saga.undos, msgspec.structs.replace(operation.undo, of=issued.number)]
    if skip is not None:
        saga.journal = [*saga.journal, Resolved.of(issued.number, now, bytes(skip.data), skip.failure)]
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
    return begin_undoing(saga, Refusal.of(failure))
