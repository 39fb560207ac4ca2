"""Recurring steps: what begins a run, and what follows it.

A run is a message of the service to itself, a timer until it is due, and so has all that a message has: retries, a dead
letter, one effect. A row for each step says which message is its next run; whoever handles that one, or sets it aside,
arms the one after it in the same transaction. See docs/adr/0039.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from ensue.chain import partition_of
from ensue.codec import encode_envelope
from ensue.definition import ServiceDefinition
from ensue.engine.clock import rfc3339, seconds_of
from ensue.message import Envelope, Message, Timer
from ensue.ports import Ids, Row, StepTransaction
from ensue.schedule import Run, Schedule
from ensue.tables import RECURRING


class Following(NamedTuple):
    """What comes of a run. passed_over: it does not take place, since it is too late or not its step's. timer: the run
    after it; None: its step's next run is another one already."""

    passed_over: bool
    timer: Timer | None


class Recurring:
    """The recurring steps of one service. ids: gives sealed ones. partitions: of every topic."""

    def __init__(self, definition: ServiceDefinition, ids: Callable[[], Ids], partitions: int) -> None:
        self.schedules = definition.recurring
        self._specs = {name: definition.runs_of(name) for name in self.schedules}
        self._names = {spec.type: name for name, spec in self._specs.items()}
        self._ids = ids
        self._partitions = partitions

    def has(self, kind: str) -> bool:
        """Whether messages of this type are runs."""
        return kind in self._names

    def timer(self, name: str, due_at: float) -> Timer:
        """A run, to be begun then.

        All of a step are in one partition, so that one begins after the other; each has a key of its own, so that none
        waits behind one that was set aside.
        """
        spec, message_id, due = self._specs[name], self._ids().next(), rfc3339(due_at)
        return Timer(
            spec.topic, partition_of(name, self._partitions), f"{name} {due}",
            encode_envelope(Envelope(message_id, spec.type, due)),
            spec.write(Run(datetime.fromtimestamp(due_at, UTC))), id=message_id, due_at=due_at,
        )  # fmt: skip

    async def follow(self, transaction: StepTransaction, message: Message) -> Following:
        """Say in the step's row what comes after this run, and return it: the caller puts the timer.

        One that is not the next run by that row was set aside before, so its successor is armed already; or it is of
        another life of the service, or of the step, whose runs a log may still have.
        """
        name = self._names[message.type]
        rows = await transaction.load_rows(RECURRING, [name])
        if not rows:
            return Following(True, None)
        [(_, text, current, due_at, since)] = rows
        if current != message.id:
            return Following(seconds_of(message.time, since) < since, None)
        schedule = read_schedule(text)  # not the declared one: during a deployment that may be the old one
        timer = self.timer(name, schedule.following(due_at, transaction.now))
        await transaction.update_rows(RECURRING, [row_of(name, text, timer, since)])
        return Following(schedule.passes_over(due_at, transaction.now), timer)


def row_of(name: str, schedule: str, timer: Timer, since: float) -> Row:
    """In the order of `RECURRING`."""
    return name, schedule, timer.id, timer.due_at, since


def write_schedule(schedule: Schedule) -> str:
    return msgspec.json.encode(schedule).decode()


def read_schedule(text: str) -> Schedule:
    return msgspec.json.decode(text, type=Schedule)
