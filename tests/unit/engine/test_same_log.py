"""Two environments on one database: a process whose log is another one than that of those who live is not let in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from itertools import count
from pathlib import Path

import pytest
from tests.unit.engine.workbench import LIMIT_S, config, store_of

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.books import Books
from ensue.engine.runtime import Runtime
from ensue.engine.same_log import PREFIX, log_name
from ensue.errors import BrokerUnavailable, OtherLog, UsageError

ENGINE = config(lease_ttl_s=0.3)
_names = count(1)


class Wired(Event, topic="same-log-wires", key="number"):
    number: int


class Environment:
    """Where processes of one service are started, on one database and one log or another."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = next(_names)
        self._started: list[Runtime] = []
        self.heard: list[int] = []

    def broker(self, log: str) -> MemoryBroker:
        return MemoryBroker(f"memory:same-log-{self._number}-{log}")

    def runtime(self, broker: MemoryBroker) -> Runtime:
        service = Service("phone", publishes=[Wired])

        @service.on
        def hear(event: Wired) -> None:
            self.heard.append(event.number)

        settings = Settings(database="", broker="", partitions=2, engine=ENGINE)
        self._started.append(Runtime(service, store_of(self._directory, "phone"), broker, settings))
        return self._started[-1]

    async def start(self, broker: MemoryBroker) -> Runtime:
        runtime = self.runtime(broker)
        await runtime.start()
        async with asyncio.timeout(LIMIT_S):
            await runtime.ready()
        return runtime

    async def close(self) -> None:
        for each in self._started:
            await each.stop()


@pytest.fixture
async def environment(tmp_path: Path) -> AsyncIterator[Environment]:
    made = Environment(tmp_path)
    yield made
    await made.close()


async def test_a_process_with_another_log_is_refused_and_the_others_go_on(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    first = await environment.start(environment.broker("one"))
    assert first.worker is not None
    with pytest.raises(OtherLog) as refused:
        await environment.start(environment.broker("another"))
    assert refused.value.workers == (first.worker.name,)
    assert "works on this database with another log than this process" in str(refused.value)
    assert "stop all processes of the service first" in str(refused.value)
    table = await first.context.books.leases()
    assert table.workers == (first.worker.name,)
    assert table.stranger is not None
    assert table.stranger.log == refused.value.log
    assert f"{table.stranger.worker} has another log, and this worker goes on with its own" in caplog.text
    assert await first.readiness() == []
    async with first.step() as step:
        step.publish(Wired(number=1))
    async with asyncio.timeout(LIMIT_S):
        while environment.heard != [1]:  # noqa: ASYNC110  # handlers tell nobody
            await asyncio.sleep(0.01)


async def test_who_stops_all_processes_first_can_move_to_another_log(environment: Environment) -> None:
    first = await environment.start(environment.broker("one"))
    await first.stop()
    second = await environment.start(environment.broker("another"))
    assert await second.readiness() == []


async def test_after_a_kill_the_move_waits_for_the_end_of_the_leases(environment: Environment) -> None:
    """Of a process on another machine, whose end nobody here can see."""
    runtime = environment.runtime(environment.broker("another"))
    await runtime.store.open()
    await runtime.context.books.heartbeat("elsewhere:1:0", ENGINE.lease_ttl_s, ["same-log-wires/0"], log="one")
    await runtime.start()
    async with asyncio.timeout(LIMIT_S):
        await runtime.ready()


async def test_a_log_that_was_made_anew_is_no_other_environment(
    environment: Environment, caplog: pytest.LogCaptureFixture
) -> None:
    brokers = [environment.broker("one") for _ in range(3)]
    running = [await environment.start(each) for each in brokers[:2]]
    before = await log_name(brokers[0])
    for topic in [each for each in brokers[0]._log.topics if each.startswith(PREFIX)]:
        del brokers[0]._log.topics[topic]
    running.append(await environment.start(brokers[2]))
    after = await log_name(brokers[0])
    assert after != before
    async with asyncio.timeout(LIMIT_S):
        while any(each.worker is None or each.worker.same_log.name != after for each in running):  # noqa: ASYNC110  # untold
            await asyncio.sleep(0.01)
    for each in running:
        async with asyncio.timeout(LIMIT_S):
            while await each.readiness():  # noqa: ASYNC110  # until a heartbeat has seen that all agree
                await asyncio.sleep(0.01)
        assert each.worker is not None
        assert each.worker.failed is None


async def test_processes_that_begin_a_new_log_at_once_agree(environment: Environment) -> None:
    await asyncio.gather(*(environment.start(environment.broker("one")) for _ in range(4)))
    books = environment._started[0].context.books
    assert len((await books.leases()).workers) == 4


class Lagging(MemoryBroker):
    """One that shows a name made by somebody else later than its own, as a cluster may."""

    looks = 0

    async def topics(self) -> Mapping[str, int]:
        self.looks += 1
        topics = dict(await super().topics())
        if self.looks < 3:
            for name in [each for each in topics if each.startswith(PREFIX) and each != self.mine]:
                del topics[name]
        return topics

    mine = ""

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        if topic.startswith(PREFIX):
            self.mine = topic = f"{PREFIX}ffff{topic[-4:]}"
        await super().ensure_topic(topic, partitions)


async def test_a_process_that_gave_the_log_a_second_name_comes_in(environment: Environment) -> None:
    first = environment.broker("one")
    await environment.start(first)
    lagging = Lagging(f"memory:same-log-{environment._number}-one")
    second = await environment.start(lagging)
    assert lagging.mine
    assert second.worker is not None
    assert second.worker.same_log.name == await log_name(first)


class Forbidding(MemoryBroker):
    """Where a process may not make topics. refusal: what the adapters make of that; None: it is made, and not shown."""

    refusal: type[Exception] | None = UsageError

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        if not topic.startswith(PREFIX):
            await super().ensure_topic(topic, partitions)
        elif self.refusal is not None:
            raise self.refusal("not authorized")


@pytest.mark.parametrize("refusal", [UsageError, BrokerUnavailable, None])
async def test_who_may_not_name_the_log_works_without_a_name(
    environment: Environment, caplog: pytest.LogCaptureFixture, refusal: type[Exception] | None
) -> None:
    name = f"memory:same-log-{environment._number}-one"
    brokers = Forbidding(name), Forbidding(name)
    for each in brokers:
        each.refusal = refusal
    first, second = [await environment.start(each) for each in brokers]
    assert "make a topic like ensue.log." in caplog.text
    assert await first.readiness() == await second.readiness() == []
    third = await environment.start(MemoryBroker(name))  # may, and so the log has a name from here on
    assert third.worker is not None
    assert third.worker.same_log.name


class Down(MemoryBroker):
    up = False

    async def open(self) -> None:
        if not self.up:
            raise BrokerUnavailable("nobody is there")
        await super().open()


async def test_a_broker_that_answers_late_and_is_another_one_shows_in_the_readiness(environment: Environment) -> None:
    await environment.start(environment.broker("one"))
    down = Down(f"memory:same-log-{environment._number}-another")
    runtime = environment.runtime(down)
    await runtime.start()
    down.up = True
    assert runtime.worker is not None
    async with asyncio.timeout(LIMIT_S):
        await runtime.worker.wait_failed()
    assert isinstance(runtime.worker.failed, OtherLog)
    assert "with another log than this process" in " ".join(await runtime.readiness())


async def test_of_two_that_have_come_in_both_say_so(environment: Environment, caplog: pytest.LogCaptureFixture) -> None:
    """As when an older release, which tells nothing of logs, has written the row in between."""
    first = await environment.start(environment.broker("one"))
    books = Books(store_of(environment._directory, "phone"), "phone")
    await books._store.open()
    try:
        await books.heartbeat("elsewhere:1:0", 60.0)  # it does not tell
        await books.heartbeat("elsewhere:1:0", 60.0, log="another")
        async with asyncio.timeout(LIMIT_S):
            while not (reasons := await first.readiness()):  # noqa: ASYNC110  # until a heartbeat has seen it
                await asyncio.sleep(0.01)
        assert "elsewhere:1:0 works on this database with another log than this process" in reasons[0]
        assert "elsewhere:1:0 has another log" in caplog.text
        await books.resign("elsewhere:1:0")
        async with asyncio.timeout(LIMIT_S):
            while await first.readiness():  # noqa: ASYNC110  # until a heartbeat has seen it
                await asyncio.sleep(0.01)
    finally:
        await books._store.close()
