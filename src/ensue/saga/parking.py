"""A saga that cannot go on by itself: it is left to a person, whose decision is kept with it."""

from __future__ import annotations

from ensue.saga.instance import DECISIONS_MAX, Decision, Instance, Status


def park(saga: Instance, reason: str) -> None:
    """Leave it to a person."""
    if saga.status in (Status.RUNNING, Status.UNDOING):
        saga.status, saga.resumes = Status.PARKED, saga.status
    saga.reason = reason
    saga.waits_for = "a person: see its reason, then retry or cancel it"


def go_back(saga: Instance) -> None:
    """From PARKED to what it was; what has failed has all its attempts again."""
    saga.status, saga.resumes, saga.reason = Status(saga.resumes), "", ""
    for each in saga.undos:
        each.attempts = 0
    for effect in saga.outside.values():
        effect.last = effect.attempt + effect.attempts
        effect.state = "" if effect.state == "failed" else effect.state


def decided(saga: Instance, now: float, what: str, who: str, why: str) -> None:
    saga.decisions = [*saga.decisions, Decision(now, what, who, why)][-DECISIONS_MAX:]
