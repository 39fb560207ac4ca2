"""A partition of a service: to have nobody work on it for a while, or somebody else."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ensue.deciding import Deciding
from ensue.engine.leases import Held
from ensue.errors import UsageError
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction


class Steered(msgspec.Struct, frozen=True):
    """A partition after a decision. worker: whose lease it is, by now; empty: nobody's."""

    topic: str
    partition: int
    paused: bool
    worker: str


async def pause(access: Opened, topic: str, number: int, by: Deciding) -> Steered:
    """Have nobody read and handle a partition, its dead letters neither, until `resume`, also after a restart. Its
    worker finishes what it is at; all else of the service goes on. Raises UsageError when it is paused already, or the
    service does not read it."""

    def change(held: Held) -> Held:
        if name in held.paused:
            raise UsageError(f"{access.service.name}: partition {name} is paused already", name=name)
        return held.pause(name)

    name = _name(access, topic, number)
    await _steer(access, name, "partitions pause", by, change)
    return await _now(access, topic, number)


async def resume(access: Opened, topic: str, number: int, by: Deciding) -> Steered:
    """Have a paused partition worked on again. Raises UsageError when it is not paused."""

    def change(held: Held) -> Held:
        if name not in held.paused:
            known = ", ".join(held.paused) or "none"
            raise UsageError(f"{access.service.name}: partition {name} is not paused; paused: {known}", name=name)
        return held.resume(name)

    name = _name(access, topic, number)
    await _steer(access, name, "partitions resume", by, change)
    return await _now(access, topic, number)


async def release(access: Opened, topic: str, number: int, by: Deciding) -> Steered:
    """Have a partition's worker give it up, when it has finished what it is at: whoever has least takes it then, and
    begins anew from what is stored. Raises UsageError when nobody has it."""

    def change(held: Held) -> Held:
        if name not in held.leases:
            raise UsageError(
                f"{access.service.name}: nobody has partition {name}, so there is nothing to release", name=name
            )
        return held.release(name)

    name = _name(access, topic, number)
    await _steer(access, name, "partitions release", by, change)
    return await _now(access, topic, number)


def _name(access: Opened, topic: str, number: int) -> str:
    topics, partitions = access.service.subscribed_topics, access.settings.partitions
    if topic not in topics or not 0 <= number < partitions:
        known = ", ".join(f"{each}/0 to {each}/{partitions - 1}" for each in sorted(topics)) or "nothing"
        raise UsageError(f"{access.service.name} does not read partition {topic}/{number}; it reads {known}")
    return f"{topic}/{number}"


async def _steer(access: Opened, name: str, action: str, by: Deciding, change: Callable[[Held], Held]) -> None:
    states: list[dict[str, object]] = []

    def both(held: Held) -> Held:
        following = change(held)
        states[:] = [_state(each, name) for each in (held, following)]
        return following

    async def note(transaction: StepTransaction) -> None:
        await access.books.record(transaction, by, action, name, *states)

    await access.books.steer(both, note)


def _state(held: Held, name: str) -> dict[str, object]:
    worker, _ = held.leases.get(name, ("", 0.0))
    return {"paused": name in held.paused, "worker": worker, "released": name in held.released}


async def _now(access: Opened, topic: str, number: int) -> Steered:
    table, name = await access.books.leases(), f"{topic}/{number}"
    worker = next((each.owner for each in table.leases if each.name == name), "")
    return Steered(topic, number, name in table.paused, worker)
