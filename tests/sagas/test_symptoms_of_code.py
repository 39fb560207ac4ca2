"""What users of other libraries met when they changed their code, or when it came out otherwise; see
docs/contributing/guarantees.md."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.sagas.stage import Stage, on_stage
from tests.unit.engine.workbench import LIMIT_S, _until, bench, settled, until

from ensue import Command, Event, Service
from ensue.engine.books import Books
from ensue.saga.instance import Instance, Status
from ensue.saga.saga import Saga
from ensue.testing import saga


@dataclass(frozen=True)
class Trip:
    name: str = "t"


@dataclass(frozen=True)
class So:
    far: int
    sum: int


class Told(Event, topic="symptoms.told", key="name"):
    name: str
    number: int = 0


class Fetch(Command[None], service="porter", key="name"):
    name: str


def trips(function: Callable[..., Any], version: int = 1) -> tuple[Service, Any]:
    service = Service("trips", calls=[Fetch])
    return service, service.saga(version=version, name="trip")(function)


async def test_a_set_comes_out_in_another_order_after_a_restart() -> None:
    """temporal sdk-python#429. It is noticed at the entry where it differs, and nothing is asked for twice."""
    order = ["a", "b"]

    async def fetches(saga: Saga, trip: Trip) -> None:
        for each in order:  # as a set of texts does, in each process otherwise
            await saga.call(Fetch(name=each), undo=None)

    _, function = trips(fetches)
    begun = saga(function, Trip())
    order.reverse()
    begun.expect_call(Fetch, name="a").replies()
    begun.expect_parked("entry 1: the journal has call porter.commands.Fetch.v1 for a, the code asks for call")
    assert begun.asked == []
    order.reverse()
    begun.retry()
    begun.expect_call(Fetch, name="b").replies()
    begun.expect_end("COMPLETED")


async def test_a_moved_class_loses_live_sagas(tmp_path: Path) -> None:
    """NServiceBus#6494. Function and request come from other modules after a deployment; names are what counts."""

    async def before(saga: Saga, trip: Trip) -> str:
        found = await saga.receive(Told)
        return f"{trip.name} {found.number}"

    first, old = trips(before)
    async with bench(tmp_path, first) as world:
        async with first.step() as step:
            step.start(old, Trip("kept"), id=1)
        await settled(world)

    @dataclass(frozen=True)
    class Journey:
        name: str

    async def after(saga: Saga, journey: Journey) -> str:
        found = await saga.receive(Told)
        return f"{journey.name} {found.number}"

    after.__annotations__["journey"] = Journey
    after.__module__ = "somewhere.else"
    second, new = trips(after)
    async with bench(tmp_path, second) as world:
        async with second.step() as step:
            step.tell(new, 1, Told(name="t", number=7))
        end = await second.ended(new, 1, timeout=LIMIT_S)
        assert (end.status, end.result) == ("COMPLETED", "kept 7")


WAITS, NO_CODE = "receive symptoms.told.Told.v1", "a process with the code of trip, version 2"


async def saga_of(books: Books, number: int) -> Instance:
    found = await books.saga(f"trip:{number}")
    assert found is not None
    return found


async def hop(stage: Stage, seconds: float) -> None:
    """Let time pass, in one leap, until nothing is due."""
    assert stage.clock is not None
    stage.clock.put_to(stage.clock.now() + seconds)
    for each in stage.world.runtimes.values():
        each.context.timer_set.set()
    await _until(stage.nothing_is_due, stage.world, "what is due goes out")


async def test_old_and_new_version_serve_the_same_sagas_for_an_hour(tmp_path: Path) -> None:
    """axon reference-guide#74. Both are at work, and what the old one has no code for waits for the new one's turn:
    nothing is parked, undone or done by the wrong code."""

    async def one(saga: Saga, trip: Trip) -> int:
        await saga.receive(Told)
        return 1

    async def two(saga: Saga, trip: Trip) -> int:
        await saga.sleep(timedelta(seconds=1))
        await saga.receive(Told)
        return 2

    older, first = trips(one)
    newer, _ = trips(one)
    second = newer.saga(version=2, name="trip")(two)
    numbers = range(20)
    async with on_stage(tmp_path, services={"trips": older}) as stage:
        world = stage.world
        await stage.start()
        async with stage.another(newer) as beside:
            workers = [each.worker for each in world.runtimes.values()]
            await until(lambda: all(each and each.loops.consumers for each in workers), world, "both are at work")
            async with newer.step() as step:
                for number in numbers:
                    step.start(second if number % 2 else first, Trip(), id=number)
            books = beside.context.books

            async def all_wait() -> bool:
                found = [await books.saga(f"trip:{number}") for number in numbers]
                return {"" if each is None else each.waits_for for each in found} == {"sleep", WAITS, NO_CODE}

            async def only_codeless_are_left() -> bool:
                left = [number for number in numbers if (await saga_of(books, number)).status is Status.RUNNING]
                return all([(await saga_of(books, number)).waits_for == NO_CODE for number in left])

            await _until(all_wait, world, "each waits for what it is told, or for its code")
            await hop(stage, 2)
            async with newer.step() as step:
                for number in numbers:
                    step.tell(second, number, Told(name="t"))
            await _until(only_codeless_are_left, world, "whoever can goes on")
            for _ in range(2):
                await hop(stage, 1800)
                assert await only_codeless_are_left()
            assert {(await saga_of(books, number)).status for number in numbers} == {Status.RUNNING, Status.COMPLETED}
            await stage.stop("trips")
            await hop(stage, 20)
            for number in numbers:
                end = await newer.ended(second, number, timeout=LIMIT_S)
                assert (end.status, end.result) == ("COMPLETED", 1 + number % 2)


async def test_what_is_told_is_lost_at_a_restart(tmp_path: Path) -> None:
    """temporal#1289, #8097. It begins a new journal for each event, while all others come; each is received."""

    async def adds(saga: Saga, so: So) -> int:
        told = await saga.receive(Told)
        if so.far == 99:
            return so.sum + told.number
        saga.restart(So(so.far + 1, so.sum + told.number))

    service, function = trips(adds)
    async with bench(tmp_path, service) as world:
        async with service.step() as step:
            step.start(function, So(0, 0), id=1)
            for number in range(60):
                step.tell(function, 1, Told(name="t", number=number))
        await settled(world)
        async with service.step() as step:
            for number in range(60, 100):
                step.tell(function, 1, Told(name="t", number=number))
        assert (await service.ended(function, 1, timeout=LIMIT_S)).result == sum(range(100))


async def test_what_is_told_is_lost_when_it_ends(tmp_path: Path) -> None:
    """temporal#1289. What comes in the very batch in which it ends, behind what ends it, is counted as of no use."""

    async def one(saga: Saga, trip: Trip) -> int:
        return (await saga.receive(Told)).number

    service, function = trips(one)
    async with bench(tmp_path, service) as world:
        async with service.step() as step:
            step.start(function, Trip(), id=1)
        await settled(world)
        async with service.step() as step:
            for number in range(3):
                step.tell(function, 1, Told(name="t", number=number))
        assert (await service.ended(function, 1, timeout=LIMIT_S)).result == 0
        await settled(world)
        assert service.runtime.context.dispatcher.sagas.dropped == 2


async def test_what_it_was_told_and_never_received_is_lost_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """temporal#8097. What it was told before it ended is counted, named in the log, and stays in its row."""

    async def one(saga: Saga, trip: Trip) -> None:
        await saga.sleep(timedelta(hours=1))

    service, function = trips(one)
    async with bench(tmp_path, service) as world:
        async with service.step() as step:
            step.start(function, Trip(), id=1)
            for number in range(3):
                step.tell(function, 1, Told(name="t", number=number))
        await settled(world)
        async with service.step() as step:
            step.cancel_saga(function, 1)
            step.cancel_saga(function, 1)  # in the same batch, behind what ends it: nothing is said twice
        assert (await service.ended(function, 1, timeout=LIMIT_S)).status == "UNDONE"
        await settled(world)
        assert service.runtime.context.dispatcher.sagas.dropped == 4
        assert caplog.text.count("is UNDONE and has not received 3 event(s) that it was told: ") == 1
        row = await world.runtimes["trips"].context.books.saga("trip:1")
    assert row is not None
    assert len(row.mailbox) == 3
