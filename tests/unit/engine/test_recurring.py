"""Recurring steps: each due time takes effect once, what was missed, failures, deployments; on each store with them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Column, Float, Integer, MetaData, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from tests.unit.engine.workbench import QUICK, _until, bench, letters, settled, until, until_letters

from ensue import Event, Message, Run, Service, Step, UsageError
from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.arming import arm
from ensue.engine.recurring import read_schedule, row_of
from ensue.engine.runtime import Runtime
from ensue.engine.timers import put
from ensue.message import DeadLetterState
from ensue.ports import Row, Store
from ensue.schedule import Missed
from ensue.tables import RECURRING, TIMERS
from ensue.testing import World

TICK_S = 0.04
TICK = timedelta(seconds=TICK_S)
LONG = timedelta(days=1)
DAY_S = 86_400.0

TABLES = MetaData()
RAN = Table("ran", TABLES, Column("id", Integer, primary_key=True), Column("due", Float(53), nullable=False))


class Ping(Event, topic="pings", key="name"):
    name: str


def clock_work(schedule: timedelta | str, missed: Missed = "all", fails: Callable[[], bool] = lambda: False) -> Service:
    """A service with one recurring step, `beat`, that writes down for when it was due."""
    service = Service("clock", tables=TABLES)

    @service.every(schedule, missed=missed)
    async def beat(run: Run, session: AsyncSession) -> None:
        await session.execute(insert(RAN).values(due=run.due.timestamp()))
        if fails():
            raise RuntimeError("not now")

    return service


@asynccontextmanager
async def running(
    url: str, tmp_path: Path, service: Service, broker: MemoryBroker | None = None
) -> AsyncIterator[World]:
    stores = {service.name: make_store(url, service.name)}
    async with bench(tmp_path, service, broker=broker, stores=stores) as world:
        yield world


async def dues(service: Service) -> list[float]:
    """For when the runs were due that took effect, in the order of their effects."""
    async with service.query() as session:
        return list(await session.scalars(select(RAN.c.due).order_by(RAN.c.id)))


async def until_ran(world: World, service: Service, count: int) -> list[float]:
    async def met() -> bool:
        return len(await dues(service)) >= count

    await _until(met, world, f"{count} runs")
    return await dues(service)


async def state(store: Store) -> Row | None:
    """The step's row."""
    rows = await store.rows().get(RECURRING, ["beat"])
    return rows[0] if rows else None


async def timers(store: Store) -> list[str]:
    [lookup] = TIMERS.lookups
    return [row[0] for row in await store.rows().find(TIMERS, lookup, (), limit=100)]


async def put_back(runtime: Runtime, seconds: float) -> float:
    """As if nobody had been there for so long: the next run was due so much earlier. Return for when."""
    [name, schedule, timer, due_at, since] = await _required(state(runtime.store))
    earlier = runtime.context.dispatcher.recurring.timer(name, due_at - seconds)
    async with runtime.store.transaction() as transaction:
        await transaction.delete_rows(TIMERS, [timer])
        await transaction.update_rows(RECURRING, [row_of(name, schedule, earlier, since - seconds)])
        await put(transaction, [earlier])
    runtime.context.timer_set.set()
    return earlier.due_at


async def _required(row: Awaitable[Row | None]) -> Row:
    found = await row
    assert found is not None
    return found


@pytest.mark.timeout(60)
async def test_each_due_time_has_its_run_in_order(sql_database: str, tmp_path: Path) -> None:
    service = clock_work(TICK)
    async with running(sql_database, tmp_path, service) as world:
        found = await until_ran(world, service, 6)
        assert await world.runtimes["clock"].store.now() >= found[-1]
    assert found == pytest.approx([found[0] + TICK_S * number for number in range(len(found))], abs=1e-4)


@pytest.mark.timeout(60)
async def test_two_processes_run_each_due_time_once(sql_database: str, tmp_path: Path) -> None:
    service, twin = clock_work(TICK), clock_work(TICK)
    log = f"memory:{tmp_path}"
    broker = MemoryBroker(log)
    async with running(sql_database, tmp_path, service, broker) as world:
        await until_ran(world, service, 2)
        runtime = Runtime(
            twin, make_store(sql_database, "clock"), MemoryBroker(log),
            Settings(database="", broker="", partitions=1, engine=QUICK), tables=TABLES, progress=world.progressed,
        )  # fmt: skip
        async with twin.running(runtime):
            await until_ran(world, service, 10)
            await world.runtimes["clock"].stop()  # the other one goes on by itself
            found = await until_ran(world, twin, len(await dues(twin)) + 5)
    assert found == pytest.approx([found[0] + TICK_S * number for number in range(len(found))], abs=1e-4)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("missed", ["once", "skip", "all"])
async def test_what_nobody_was_there_for(missed: Missed, sql_database: str, tmp_path: Path) -> None:
    service = clock_work(LONG, missed)
    async with running(sql_database, tmp_path, service) as world:
        store = world.runtimes["clock"].store
        due = await put_back(world.runtimes["clock"], 3.5 * DAY_S)

        async def armed() -> bool:
            return bool((await _required(state(store)))[3] == pytest.approx(due + 3 * DAY_S))

        await _until(armed, world, "the run of tomorrow is armed")
        expected = {"once": [due], "skip": [], "all": [due, due + DAY_S, due + 2 * DAY_S]}[missed]
        assert await dues(service) == pytest.approx(expected, abs=1e-4)
        assert len(await timers(store)) == 1


@pytest.mark.timeout(60)
async def test_a_run_that_fails_becomes_a_dead_letter_and_the_next_one_comes(sql_database: str, tmp_path: Path) -> None:
    broken = True
    service = clock_work(LONG, fails=lambda: broken)
    async with running(sql_database, tmp_path, service) as world:
        runtime = world.runtimes["clock"]
        due = await put_back(runtime, 2.5 * DAY_S)  # two runs are due
        await until_letters(world, service, 2, DeadLetterState.DEAD)
        assert await dues(service) == []
        assert len(await timers(runtime.store)) == 1, "the third waits for tomorrow"
        broken = False
        dead = await letters(world, service, DeadLetterState.DEAD)
        for letter in reversed(dead):
            await world.retry(service, letter)
        await settled(world)
        assert sorted(await dues(service)) == pytest.approx([due, due + DAY_S], abs=1e-4)
        assert len(await timers(runtime.store)) == 1, "a run that was set aside arms nothing a second time"


@pytest.mark.timeout(60)
async def test_a_restart_changes_nothing(sql_database: str, tmp_path: Path) -> None:
    kept = []
    for _ in range(2):
        async with running(sql_database, tmp_path, clock_work("0 3 * * *")) as world:
            kept.append([*await _required(state(world.runtimes["clock"].store))])
            assert await timers(world.runtimes["clock"].store) == [kept[0][2]]
    assert kept[0] == kept[1]


@pytest.mark.timeout(60)
async def test_a_deployment_changes_the_schedule_or_drops_the_step(sql_database: str, tmp_path: Path) -> None:
    async with running(sql_database, tmp_path, clock_work("0 3 * * *")) as world:
        [_, _, first, *_] = await _required(state(world.runtimes["clock"].store))
    service = clock_work("30 4 * * *", "skip")
    async with running(sql_database, tmp_path, service) as world:
        store = world.runtimes["clock"].store
        [_, schedule, second, due_at, _] = await _required(state(store))
        assert (read_schedule(schedule).cron, second == first) == ("30 4 * * *", False)
        assert datetime.fromtimestamp(due_at, UTC).strftime("%H:%M") == "04:30"
        assert await timers(store) == [second]
    async with running(sql_database, tmp_path, Service("clock")) as world:
        assert (await state(world.runtimes["clock"].store), await timers(world.runtimes["clock"].store)) == (None, [])


@pytest.mark.timeout(60)
async def test_a_run_that_was_due_before_its_schedule_changed_takes_place(sql_database: str, tmp_path: Path) -> None:
    async with running(sql_database, tmp_path, clock_work("0 3 * * *")) as world:
        await world.runtimes["clock"].worker.stop()  # type: ignore[union-attr]
        due = await put_back(world.runtimes["clock"], 2 * DAY_S)
    service = clock_work("30 4 * * *", "once")
    async with running(sql_database, tmp_path, service) as world:
        assert await until_ran(world, service, 1) == [due]
        [_, _, _, due_at, _] = await _required(state(world.runtimes["clock"].store))
        assert datetime.fromtimestamp(due_at, UTC).strftime("%H:%M") == "04:30"


@pytest.mark.parametrize(("ahead_s", "armed_anew"), [(DAY_S, True), (10.0, False), (-10.0, False), (-9 * DAY_S, True)])
async def test_a_run_that_cannot_come_any_more_is_armed_anew(ahead_s: float, armed_anew: bool, tmp_path: Path) -> None:
    """Taken away before it was due, or gone from outbox and log with the retention; else it may be on its way."""
    service = clock_work(LONG)
    async with running(f"sqlite:///{tmp_path}/clock.db", tmp_path, service) as world:
        runtime = world.runtimes["clock"]
        [name, schedule, timer, _, since] = await _required(state(runtime.store))
        async with runtime.store.transaction() as transaction:
            await transaction.delete_rows(TIMERS, [timer])
            await transaction.update_rows(RECURRING, [(name, schedule, timer, transaction.now + ahead_s, since)])
        await arm(runtime.context)
        [_, _, following, *_] = await _required(state(runtime.store))
        assert await timers(runtime.store) == ([following] if armed_anew else [])
        assert (following != timer) == armed_anew


async def test_what_a_recurring_step_may_take(tmp_path: Path) -> None:
    service, took = Service("clock", tables=TABLES, publishes=[Ping]), []

    @service.every(TICK)
    def plain(session: Session, run: Run, *, step: Step) -> None:
        took.append("plain")
        session.execute(insert(RAN).values(due=run.due.timestamp()))
        step.publish(Ping(name="from a thread"))

    @service.every(TICK, name="other")
    async def nothing() -> None:
        took.append("nothing")

    @service.every(TICK)
    async def headers(message: Message, step: Step) -> None:
        took.append("headers")
        assert step.idempotency_key == f"clock:{message.source}:{message.id}"
        assert step.correlation_id == message.id, "each run begins a flow of its own"

    async with running(f"sqlite:///{tmp_path}/clock.db", tmp_path, service) as world:
        await until(lambda: {"plain", "nothing", "headers"} <= set(took), world)
        assert await world.published(Ping)
        assert not await letters(world, service, DeadLetterState.DEAD, DeadLetterState.RETRYING)


def test_a_declaration_that_cannot_work_is_refused_at_once() -> None:
    service = Service("clock")

    with pytest.raises(UsageError, match=r"time begins a recurring step, so it has no event"):

        @service.every(TICK)
        async def on_event(event: Ping) -> None: ...

    with pytest.raises(UsageError, match=r"has no event, and no entity"):

        @service.every(TICK)
        async def on_entity(entity: int) -> None: ...

    with pytest.raises(UsageError, match=r"which is for a recurring step"):

        @service.on
        async def handler(event: Ping, run: Run) -> None: ...

    with pytest.raises(UsageError, match=r"wants to know when"):

        @service.every  # type: ignore[arg-type]
        async def without_brackets() -> None: ...

    with pytest.raises(UsageError, match=r"no cron expression"):
        service.every("at noon")

    with pytest.raises(UsageError, match=r"a name of letters, digits"):
        service.every(TICK)(lambda: None)

    @service.every(TICK)
    async def twice() -> None: ...

    with pytest.raises(UsageError, match=r"two recurring steps named 'twice'"):
        service.every(LONG, name="twice")(twice)
    assert list(service.recurring) == ["twice"]


@pytest.mark.parametrize("server", ["mongodb_server", "redis_server"])
async def test_a_store_that_cannot_keep_the_next_run_is_refused_at_the_start(
    server: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = request.getfixturevalue(server).url(*([f"every_{tmp_path.name}"] if server == "mongodb_server" else []))
    service = Service("clock")

    @service.every(LONG)
    async def beat() -> None: ...

    with pytest.raises(UsageError, match=r"has recurring steps \(beat\).*SQLite, PostgreSQL and MariaDB can"):
        async with running(url, tmp_path, service):
            pass


async def test_a_process_that_does_not_work_arms_nothing(tmp_path: Path) -> None:
    service = clock_work(LONG)
    settings = dataclasses.replace(Settings(database="", broker="", partitions=1), engine=QUICK)
    runtime = Runtime(service, make_store(f"sqlite:///{tmp_path}/clock.db", "clock"), MemoryBroker(), settings)
    async with service.running(runtime, work=False):
        assert await state(runtime.store) is None


async def test_runs_of_another_life_of_the_service_do_not_take_place(tmp_path: Path) -> None:
    """A database that begins anew, beside a log that has all that the one before has published."""
    broker = MemoryBroker(f"memory:{tmp_path}")
    await broker.open()
    async with running(f"sqlite:///{tmp_path}/first.db", tmp_path, service := clock_work(TICK), broker) as world:
        await until_ran(world, service, 3)
        last = (await dues(service))[-1]
    async with running(f"sqlite:///{tmp_path}/second.db", tmp_path, service := clock_work(TICK), broker) as world:
        assert all(due > last for due in await until_ran(world, service, 3))
