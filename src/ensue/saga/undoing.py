"""A saga is undone: which undos begin, and what becomes of those at work. How they are kept: `undo`."""

from __future__ import annotations

from collections.abc import Container

from ensue.saga.effects import CancelTimer, Effect, RunLocal, Send, SetTimer
from ensue.saga.instance import Instance, Status
from ensue.saga.journal import Refusal
from ensue.saga.outside import Outside
from ensue.saga.parking import park
from ensue.saga.undo import ATTEMPTS_MAX, Undo, delay_s, next_to_begin


def begin_undoing(saga: Instance, failure: Refusal) -> list[Effect]:
    saga.status, saga.ending, saga.stop = Status.UNDOING, failure, None
    never = {number for number, each in saga.outside.items() if not each.attempt}
    saga.undos = [each for each in saga.undos if each.of not in never]
    saga.outside = {number: each for number, each in saga.outside.items() if each.state == "begun"}
    kept = {each.number for each in saga.undos if each.state} | saga.outside.keys()
    effects: list[Effect] = [CancelTimer(name) for number, name in saga.timers.items() if number not in kept]
    saga.timers = {number: name for number, name in saga.timers.items() if number in kept}
    saga.sent = {name: number for name, number in saga.sent.items() if number in kept}
    return effects


def next_undos(saga: Instance) -> list[Undo]:
    return next_to_begin(saga.undos, undoing=saga.status is Status.UNDOING, busy=saga.outside)


def begin_undos(saga: Instance, now: float, named: Container[str] | None) -> list[Effect]:
    effects: list[Effect] = []
    for each in saga.undos:
        if each.state == "failed":
            if each.attempts >= ATTEMPTS_MAX:
                each.state = ""
                park(saga, saga.reason)
                return effects
            each.state, each.number = "waits", saga.next_number()
            effects.append(SetTimer(each.number, now + delay_s(each.attempts)))
    for each in next_undos(saga):
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


def undo_at_once(saga: Instance, number: int) -> None:
    for each in saga.undos:
        each.at_once = each.at_once or each.of == number


def undo_at_work(saga: Instance, number: int) -> Undo | None:
    return next((each for each in saga.undos if each.number == number and each.state == "begun"), None)


def undo_failed(saga: Instance, undo: Undo, reason: str) -> None:
    undo.state, undo.attempts = "failed", undo.attempts + 1
    saga.reason = f"{undo} failed at attempt {undo.attempts}: {reason}"
