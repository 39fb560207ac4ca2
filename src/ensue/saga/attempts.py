"""Attempts at the outside effects of a saga: they begin, break, and come to nothing within their limit."""

from __future__ import annotations

from collections.abc import Container

from ensue.saga.effects import Effect, RunOutside, SetTimer, without_timer
from ensue.saga.instance import Instance, Status
from ensue.saga.outside import Outside
from ensue.saga.parking import park
from ensue.saga.undo import delay_s
from ensue.saga.undoing import undo_at_work, undo_failed


def begin_attempts(saga: Instance, now: float, named: Container[str] | None) -> list[Effect]:
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


def attempt_broke(saga: Instance, number: int, attempt: int, reason: str) -> tuple[bool, list[Effect]]:
    """reason: empty: it does not count."""
    effect = saga.outside.get(number)
    if effect is None or effect.state != "begun" or effect.attempt != attempt:
        return False, []
    undo = undo_at_work(saga, number)
    if undo is not None:
        del saga.outside[number]
        if reason:
            undo_failed(saga, undo, reason)
        else:
            undo.state = ""
    elif saga.goes_by == Status.UNDOING:
        del saga.outside[number]  # it may be done: its undo tells
    elif reason:
        effect.state, effect.reason = "failed", f"outside {effect.name} failed at attempt {attempt}: {reason}"
        saga.reason = effect.reason
    else:
        effect.state, effect.last = "", effect.last + 1
    return True, without_timer(saga, number)


def attempt_elapsed(saga: Instance, number: int, effect: Outside, now: float) -> tuple[bool, list[Effect]]:
    if effect.state == "waits":
        effect.state = ""
        return True, []
    if not effect.overdue:
        # What came of it may be on its way: a timer that is set now comes behind whatever is written by now.
        effect.overdue = True
        return True, [SetTimer(number, now)]
    said = f"nothing was heard of it within its limit of {effect.limit_s:g} s: its process died, or was cut off"
    useful, effects = attempt_broke(saga, number, effect.attempt, said)
    if effect.state == "failed" and effect.attempt < effect.last:
        effect.state = ""  # the timer has waited for longer than the limit already
    return useful, effects
