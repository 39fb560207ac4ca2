"""Time in a world: it passes when a test says so, and everything happens at its time, in order."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from ensue import Event, Run, Service, Step, UsageError
from ensue.stores.sqlite import SqliteStore
from ensue.testing import run


class Asked(Event, topic="world-asked", key="name"):
    name: str


class Reminder(Event, topic="world-reminders", key="name"):
    name: str
    number: int = 1


async def test_what_is_due_happens_at_its_time_in_all_services() -> None:
    asks, reminds = Service("asks"), Service("reminds")
    happened: list[tuple[str, float]] = []
    begun = datetime.now(UTC)

    def note(what: str, step: Step) -> None:
        happened.append((what, round((step.now - begun) / timedelta(hours=1), 1)))

    @reminds.on
    async def remind(event: Asked, step: Step) -> None:
        note("asked", step)
        step.publish(Reminder(name=event.name), after=timedelta(hours=10))

    @asks.on
    async def once_more(event: Reminder, step: Step) -> None:
        note(f"reminder {event.number}", step)
        if event.number == 1:
            step.publish(Reminder(name=event.name, number=2), after=timedelta(hours=1))

    async with run(asks, reminds) as world:
        async with asks.step() as step:
            step.publish(Asked(name="later"), after=timedelta(hours=10, minutes=30))
            step.publish(Asked(name="now"))
        await world.advance(hours=9)
        assert happened == [("asked", 0.0)]
        await world.advance(days=1, minutes=30)
        assert happened[1:] == [
            ("reminder 1", 10.0), ("asked", 10.5), ("reminder 2", 11.0), ("reminder 1", 20.5), ("reminder 2", 21.5),
        ]  # fmt: skip
        async with asks.step() as step:
            assert step.now - begun == pytest.approx(timedelta(hours=33, minutes=30), abs=timedelta(minutes=1))


async def test_a_recurring_step_runs_at_each_of_its_times() -> None:
    service = Service("library")
    dues: list[datetime] = []

    @service.every("0 3 * * *", tz="Europe/Berlin")
    async def clean_up(run: Run, step: Step) -> None:
        dues.append(run.due)
        assert step.now - run.due < timedelta(minutes=1)

    async with run(service) as world:
        await world.advance(days=7)
        assert len(dues) == 7, "one each day, though each is armed by the one before"
        assert len({due.date() for due in dues}) == 7
        await world.advance(seconds=1)
        assert len(dues) == 7


async def test_what_is_cancelled_in_time_does_not_happen() -> None:
    service = Service("asks")
    async with run(service) as world:
        async with service.step() as step:
            reminder = step.publish(Reminder(name="ann"), after=timedelta(days=2))
        await world.advance(days=1)
        async with service.step() as step:
            step.cancel(reminder)
        await world.advance(days=2)
        assert await world.published(Reminder) == []


async def test_time_does_not_go_back_and_a_database_with_its_own_clock_goes_by_that(tmp_path: object) -> None:
    service = Service("asks")
    async with run(service) as world:
        with pytest.raises(UsageError, match="time does not go back"):
            await world.advance(days=-1)

    def own(name: str) -> SqliteStore:
        return SqliteStore(f"sqlite:///{tmp_path}/{name}.db?synchronous=OFF", name)

    async with run(service, make_store=own) as world:
        with pytest.raises(UsageError, match="clocks of their own"):
            await world.advance(days=1)
