"""Events that are published later: when they go out, how often, what takes them back; on each store that keeps them."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from tests.unit.engine.workbench import LIMIT_S, bench, settled

from ensue import Event, Service, Step, UsageError
from ensue.adapters import make_store
from ensue.codec import decode_envelope
from ensue.engine.timers import Timers
from ensue.event import event_type
from ensue.message import Message
from ensue.ports import Store
from ensue.tables import TIMERS
from ensue.testing import World

LATER = timedelta(days=400)


class Reminder(Event, topic="reminders", key="customer"):
    customer: str
    number: int = 0


class Paid(Event, topic="payments", key="customer"):
    customer: str


@asynccontextmanager
async def running(url: str, tmp_path: Path, *services: Service) -> AsyncIterator[World]:
    first = services[0]
    async with (
        asyncio.timeout(LIMIT_S * 3),
        bench(tmp_path, *services, stores={first.name: make_store(url, first.name)}) as world,
    ):
        yield world


async def waiting(store: Store) -> list[str]:
    [lookup] = TIMERS.lookups
    return [row[0] for row in await store.rows().find(TIMERS, lookup, (), limit=1000)]


async def numbers(world: World, count: int) -> list[int]:
    """What went out, in order, once it is so many."""
    spec = event_type(Reminder)
    reader = world.broker.reader(spec.topic, 0, 0)
    found: list[int] = []
    while len(found) < count:
        records = await reader.read(100, 1.0)
        found += [
            spec.read(each.data).number for each in records if isinstance(each, Message) and each.type == spec.type
        ]
    await reader.close()
    return found


async def test_an_event_goes_out_when_it_is_due_and_not_before(sql_database: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        store = world.runtimes["shop"].store
        begun = await store.now()
        async with shop.step() as step:
            later = step.publish(Reminder(customer="ann", number=3), after=LATER)
            soon = step.publish(Reminder(customer="ann", number=2), after=timedelta(milliseconds=300))
            step.publish(Reminder(customer="ann", number=1))
            due = step.now + timedelta(milliseconds=300)
        assert await numbers(world, 2) == [1, 2]
        assert await store.now() >= begun + 0.3
        assert await waiting(store) == [later]
        record = (await store.outbox_after(1, 10))[0]
        envelope = decode_envelope(record.envelope)
        assert envelope.id == soon
        assert datetime.fromisoformat(envelope.time) == due, "it happened when it went out"


async def test_what_is_due_together_goes_out_in_the_order_of_publishing(sql_database: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        async with shop.step() as step:
            for number in range(1, 41):  # more than a batch of numbers of one length in the ids
                step.publish(Reminder(customer="ann", number=number), after=timedelta(milliseconds=20))
        assert await numbers(world, 40) == list(range(1, 41))


async def test_a_time_that_is_past_is_now(sql_database: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        async with shop.step() as step:
            step.publish(Reminder(customer="ann", number=7), at=datetime(2001, 1, 1, tzinfo=UTC))
        assert await numbers(world, 1) == [7]


async def test_a_step_that_rolls_back_sets_no_timer_and_cancels_none(sql_database: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        async with shop.step() as step:
            kept = step.publish(Reminder(customer="ann"), after=LATER)
        with pytest.raises(RuntimeError, match="on purpose"):
            async with shop.step() as step:
                step.publish(Reminder(customer="bob"), after=LATER)
                step.cancel(kept)
                raise RuntimeError("on purpose")
        async with shop.step() as step:
            with pytest.raises(RuntimeError, match="savepoint"):
                async with step.session.begin_nested():
                    step.publish(Reminder(customer="bob"), after=LATER)
                    step.cancel(kept)
                    await step.session.execute(text("SELECT 1"))
                    raise RuntimeError("savepoint")
        assert await waiting(world.runtimes["shop"].store) == [kept]


async def test_a_cancelled_event_never_goes_out(sql_database: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        store = world.runtimes["shop"].store
        async with shop.step() as step:
            kept = step.publish(Reminder(customer="ann"), after=LATER)
            gone = step.publish(Reminder(customer="ann"), after=LATER)
            step.cancel(step.publish(Reminder(customer="ann"), after=LATER))
        assert sorted(await waiting(store)) == sorted([kept, gone])
        async with shop.step() as step:
            step.cancel(gone)
            step.cancel("never-was")
        assert await waiting(store) == [kept]


async def test_to_cancel_what_went_out_is_harmless(sql_database: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        async with shop.step() as step:
            soon = step.publish(Reminder(customer="ann", number=1), after=timedelta())
        assert await numbers(world, 1) == [1]
        async with shop.step() as step:
            step.cancel(soon)
        await settled(world)
        assert await numbers(world, 1) == [1]


async def test_two_that_move_the_same_timers_send_each_once(sql_database: str, tmp_path: Path) -> None:
    """As a worker that was taken for dead, and its successor."""
    shop = Service("shop", publishes=[Reminder])
    async with running(sql_database, tmp_path, shop) as world:
        context = world.runtimes["shop"].context
        for round_ in range(10):
            async with shop.step() as step:
                for number in range(10):
                    step.publish(Reminder(customer="ann", number=round_ * 10 + number), after=timedelta())
            await asyncio.gather(*(Timers(context).move() for _ in range(3)))
        assert sorted(await numbers(world, 100)) == list(range(100))


async def test_a_handler_publishes_later_and_another_message_cancels(sql_database: str, tmp_path: Path) -> None:
    """A reminder to pay, which the payment takes back: in one batch, in two, and when the payment is too late."""
    orders, shop = Service("orders", publishes=[Reminder, Paid]), Service("shop", publishes=[Paid])
    set_for: dict[str, str] = {}

    @orders.on
    async def remind(event: Reminder, step: Step) -> None:
        set_for[event.customer] = step.publish(Paid(customer=event.customer), after=LATER)
        if event.number:
            step.cancel(set_for[event.customer])

    async with running(sql_database, tmp_path, orders, shop) as world:
        async with orders.step() as step:
            for number, customer in enumerate(("ann", "bob", "cat")):
                step.publish(Reminder(customer=customer, number=number))
        await settled(world)
        assert await waiting(world.runtimes["orders"].store) == [set_for["ann"]]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"after": timedelta(1), "at": datetime.now(UTC)}, "give one of them"),
        ({"after": timedelta(seconds=-1)}, "give a time from now on"),
        ({"after": timedelta.max}, "beyond the year 9999"),
        ({"at": datetime(2030, 1, 1)}, "no time zone"),  # that is the mistake
    ],
)
async def test_a_time_that_cannot_be_is_refused(given: dict[str, object], says: str, tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(f"sqlite:///{tmp_path}/shop.db", tmp_path, shop), shop.step() as step:
        with pytest.raises(UsageError, match=says):
            step.publish(Reminder(customer="ann"), **given)  # type: ignore[arg-type]


async def test_a_step_that_has_ended_cancels_nothing(tmp_path: Path) -> None:
    shop = Service("shop", publishes=[Reminder])
    async with running(f"sqlite:///{tmp_path}/shop.db", tmp_path, shop):
        async with shop.step() as step:
            pass
        with pytest.raises(UsageError, match="after its step has ended"):
            step.cancel("x")


async def test_a_store_of_documents_refuses_what_it_cannot_keep(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue("mongodb_server").url(f"timers_{tmp_path.name}")
    shop = Service("shop", publishes=[Reminder])
    async with running(url, tmp_path, shop), shop.step() as step:
        with pytest.raises(UsageError, match="SQLite, PostgreSQL and MariaDB can"):
            step.publish(Reminder(customer="ann"), after=LATER)
        with pytest.raises(UsageError, match="SQLite, PostgreSQL and MariaDB can"):
            step.cancel("x")
