"""What follows from what a saga has taken in: what its process is to do besides, as values."""

from __future__ import annotations

import msgspec

from ensue.saga.instance import Instance

#: Numbers of timers that belong to no operation.
DEADLINE, LOOK_AGAIN = 0, -1


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


def without_timer(saga: Instance, number: int) -> list[Effect]:
    name = saga.timers.pop(number, None)
    return [] if name is None else [CancelTimer(name)]
