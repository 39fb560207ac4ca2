"""Whose clock says how old a record is, and what a subscriber is owed when the setting changes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.workbench import Sender, bench, config, letters, until

from ensue import Event, Service
from ensue.brokers.embedded import EmbeddedBroker
from ensue.engine.clock import SystemClock
from ensue.engine.gauges import READ_AGE, Values, measure
from ensue.engine.retention import Retention, prune_once
from ensue.errors import UsageError
from ensue.message import Bounds, GapState
from ensue.retry import Retry
from ensue.stores.sqlite import SqliteStore
from ensue.testing import World

WEEK_S = 7 * 86400.0


class Did(Event, topic="jobs", key="who"):
    who: str


class Jobs:
    """A publisher and a subscriber on one directory, each run when a test says so."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.applied: list[str] = []

    def jobs(self) -> Service:
        return Service("jobs", publishes=[Did])

    def work(self) -> Service:
        service = Service("work", publishes=[])

        @service.on
        async def handle(event: Did) -> None:
            self.applied.append(event.who)

        return service

    def log(self, kind: type[EmbeddedBroker] = EmbeddedBroker) -> EmbeddedBroker:
        return kind(f"sqlite:///{self.directory}/log.db?synchronous=OFF")


async def gaps(world: World) -> list[GapState]:
    checkpoints = await world.runtimes["work"].context.books.checkpoints()
    return [gap.state for each in checkpoints.values() for gap in each.gaps.values()]


async def publish(world: World, service: Service, *names: str) -> None:
    async with service.step() as step:
        for name in names:
            step.publish(Did(who=name))


@pytest.mark.parametrize("later_s", [0.05, WEEK_S])
async def test_what_was_pruned_is_owed_to_a_subscription_that_was_there_whatever_the_setting_is_now(
    tmp_path: Path, later_s: float
) -> None:
    of = Jobs(tmp_path)
    async with bench(tmp_path, of.work(), broker=of.log()):
        pass  # the subscription exists, then it is down for a while
    short = config(retention_s=0.05, retention_interval_s=0.02)
    async with bench(tmp_path, jobs := of.jobs(), broker=of.log(), engine=short) as world:
        await publish(world, jobs, "a", "b", "c")
        async with asyncio.timeout(10):
            while (await world.broker.bounds("jobs", 0)).first < 4:  # noqa: ASYNC110  # another task prunes
                await asyncio.sleep(0.01)
            while await world.runtimes["jobs"].store.outbox_of("jobs", 0, 0, 2, 10):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    later = config(retention_s=later_s)
    async with bench(tmp_path, jobs := of.jobs(), work := of.work(), broker=of.log(), engine=later) as world:
        await publish(world, jobs, "d")
        async with asyncio.timeout(10):
            while await gaps(world) != [GapState.LOST]:  # noqa: ASYNC110  # a lost gap is no progress
                await asyncio.sleep(0.01)
        assert of.applied == []
        assert not await letters(world, work)


async def test_what_was_pruned_before_a_subscription_began_is_not_owed_to_it(tmp_path: Path) -> None:
    of = Jobs(tmp_path)
    short = config(retention_s=0.05, retention_interval_s=0.02)
    async with bench(tmp_path, jobs := of.jobs(), broker=of.log(), engine=short) as world:
        await publish(world, jobs, "a", "b", "c")
        async with asyncio.timeout(10):
            while (await world.broker.bounds("jobs", 0)).first < 4:  # noqa: ASYNC110  # another task prunes
                await asyncio.sleep(0.01)
    async with bench(
        tmp_path, jobs := of.jobs(), of.work(), broker=of.log(), engine=config(retention_s=WEEK_S)
    ) as world:
        await publish(world, jobs, "d")
        await until(lambda: of.applied[-1:] == ["d"], world, "what is published from now on")
        assert await gaps(world) == []


class Clock(SystemClock):
    """Waits for nothing; `monotonic` goes on by what was waited for."""

    passed = 0.0

    def monotonic(self) -> float:
        return self.passed

    async def sleep(self, seconds: float) -> None:
        self.passed += seconds
        await asyncio.sleep(0)


async def test_a_clock_that_is_put_forward_makes_nothing_old(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ahead = [0.0]
    store = SqliteStore(f"sqlite:///{tmp_path}/jobs.db", "jobs", now=lambda: time.time() + ahead[0])
    engine = config(retention_s=WEEK_S, retention_interval_s=60.0)
    async with bench(tmp_path, jobs := Jobs(tmp_path).jobs(), stores={"jobs": store}, engine=engine) as world:
        await publish(world, jobs, "a", "b", "c")
        await world.settle()
        context = world.runtimes["jobs"].context
        object.__setattr__(context, "clock", Clock())  # frozen: nothing else changes it
        retention = Retention(context)
        await retention._turn()
        ahead[0] = 8 * 86400.0
        await retention._turn()
        await retention._turn()
        assert len(await store.outbox_after(0, 10)) == 3
    assert "forward" in caplog.text


async def test_a_jump_of_the_clock_is_told_once_and_one_back_takes_it_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, ahead = Clock(), 0.0
    store = SqliteStore(f"sqlite:///{tmp_path}/jobs.db", "jobs", now=lambda: 1e9 + clock.passed + ahead)
    engine = config(retention_interval_s=3600.0)
    async with bench(tmp_path, Jobs(tmp_path).jobs(), stores={"jobs": store}, engine=engine) as world:
        context = world.runtimes["jobs"].context
        object.__setattr__(context, "clock", clock)
        retention = Retention(context)
        await retention._turn()
        caplog.clear()
        for jump in (0.0, 86400.0, 0.0, 0.0, 3600.0, 0.0, -90000.0, 0.0):
            clock.passed += 3600.0
            ahead += jump
            assert await retention._passed() == pytest.approx(1e9 + clock.passed, abs=1.0)
    told = [each.getMessage().partition("went ")[2] for each in caplog.records if each.name == "ensue.retention"]
    assert [each.partition(":")[0] for each in told] == ["90000 s forward in 3600 s", "7200 s forward in 3600 s"]


@pytest.mark.parametrize("ahead_s", [-3600.0, 3600.0])
async def test_letters_are_due_by_the_databases_clock(tmp_path: Path, ahead_s: float) -> None:
    """A process whose clock differs from the database's neither hurries nor waits for an hour."""
    tried: list[float] = []
    service = Service("work", publishes=[])

    @service.on
    async def handle(event: Did) -> None:
        tried.append(time.monotonic())
        if len(tried) < 3:
            raise ValueError("not yet")

    store = SqliteStore(f"sqlite:///{tmp_path}/work.db", "work", now=lambda: time.time() + ahead_s)
    engine = config(retry=Retry(attempts_max=5, first_delay_s=0.1, factor=1.0, delay_max_s=0.1, jitter=0))
    async with bench(tmp_path, service, stores={"work": store}, engine=engine) as world:
        await Sender(world.broker).send(Did(who="a"))
        await until(lambda: len(tried) == 3, world, "the third attempt")
        await world.settle()
    assert tried[2] - tried[0] > 0.15, "two pauses of 0.1 s"


async def read_ages(world: World) -> Values:
    runtime = world.runtimes["work"]
    return (await measure(runtime.context, runtime.worker))[READ_AGE]


class OneByOne(EmbeddedBroker):
    """Brings less than there is, as a broker does whose records are on their way."""

    def reader(self, topic: str, partition: int, after: int) -> Any:
        reader = super().reader(topic, partition, after)
        read = reader.read
        reader.read = lambda limit, wait_s: read(1, wait_s)  # type: ignore[method-assign]  # this one reader's
        return reader


@pytest.mark.parametrize("log", [EmbeddedBroker, OneByOne])
async def test_a_subscriber_that_reads_what_is_about_to_leave_the_log_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, log: type[EmbeddedBroker]
) -> None:
    """More than half of the retention behind, with more to read."""
    of = Jobs(tmp_path)
    async with bench(tmp_path, jobs := of.jobs(), broker=of.log()) as world:
        await publish(world, jobs, *"abcde")
        await world.settle()
    begun, held = asyncio.Event(), asyncio.Event()
    work = Service("work", publishes=[])

    @work.on
    async def handle(event: Did) -> None:
        of.applied.append(event.who)
        if event.who == "c":
            begun.set()
            await held.wait()

    engine = config(retention_s=0.001, retention_interval_s=3600.0, batch_records_max=2)
    async with bench(tmp_path, work, broker=of.log(log), engine=engine) as world:
        await asyncio.wait_for(begun.wait(), 10)  # the second batch is at hand
        reasons = await world.runtimes["work"].readiness()
        assert [each for each in reasons if "more than half of the retention" in each]
        assert "they leave the log after" in caplog.text
        assert max((await read_ages(world)).values()) > 0.5
        held.set()
        await world.settle()
        async with asyncio.timeout(10):
            while await world.runtimes["work"].readiness():  # noqa: ASYNC110  # until a read has brought nothing
                await asyncio.sleep(0.01)
        ages = await read_ages(world)
        assert ages == dict.fromkeys(ages, 0.0)
        assert ages
    assert of.applied == list("abcde")


async def test_who_reads_a_long_log_of_old_records_asks_now_and_then_how_old_they_are(tmp_path: Path) -> None:
    asked = 0

    class Asked(OneByOne):
        async def bounds(self, topic: str, partition: int) -> Bounds:
            nonlocal asked
            asked += 1
            return await super().bounds(topic, partition)

    of, names = Jobs(tmp_path), [f"n-{number}" for number in range(200)]
    async with bench(tmp_path, jobs := of.jobs(), broker=of.log()) as world:
        await publish(world, jobs, *names)
        await world.settle()
    engine = config(retention_s=0.001, retention_interval_s=3600.0)
    async with bench(tmp_path, of.work(), broker=of.log(Asked), engine=engine) as world:
        await world.settle()
    assert sorted(of.applied) == sorted(names)
    assert asked < 300, "200 reads ask the log by themselves; once more for each would be 400"


async def test_a_worker_whose_clock_is_ahead_does_not_take_what_is_new_for_old(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Ahead(SystemClock):
        @staticmethod
        def now() -> float:
            return time.time() + 8 * 86400.0

    of = Jobs(tmp_path)
    async with bench(tmp_path, jobs := of.jobs(), broker=of.log()) as world:
        await publish(world, jobs, *"abcde")
        await world.settle()
    engine = config(retention_s=WEEK_S, batch_records_max=2)
    async with bench(tmp_path, of.work(), broker=of.log(), clock=Ahead(), engine=engine) as world:
        await until(lambda: len(of.applied) == 5, world)
    assert "they leave the log after" not in caplog.text


async def test_a_topic_of_other_applications_is_pruned_by_the_reader_that_says_so(tmp_path: Path) -> None:
    jobs = Jobs(tmp_path)
    service = Service("work", publishes=[], prunes=["jobs"])
    other = Service("idle", publishes=[])
    for each in (service, other):

        @each.on
        async def handle(event: Did) -> None:
            jobs.applied.append(event.who)

    async with bench(tmp_path, service, other, broker=jobs.log()) as world:
        sender = Sender(world.broker, "their/application")
        for name in "abc":
            await world.broker.append("jobs", 0, sender.source, [sender.foreign(Did(who=name), name)])
        await until(lambda: len(jobs.applied) == 6, world)
        later = time.time() + 2 * WEEK_S
        await prune_once(world.runtimes["idle"].context, later)
        assert (await world.broker.bounds("jobs", 0)).first == 1
        await prune_once(world.runtimes["work"].context, later)
        assert (await world.broker.bounds("jobs", 0)).first == 4


async def test_a_service_that_prunes_what_it_does_not_read_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="prunes the topic 'jobs', which none of its handlers reads"):
        async with bench(tmp_path, Service("work", publishes=[], prunes=["jobs"])):
            pass
    with pytest.raises(UsageError, match=r"write prunes=\['jobs'\]"):
        Service("work", prunes="jobs")
