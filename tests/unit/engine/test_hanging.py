"""Handlers that do not return: what waits is cancelled, what cannot be stopped makes its worker give up."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from tests.unit.engine.workbench import LIMIT_S, QUICK, Sender, bench, config, letters, store_of, until, until_letters

from ensue import EngineConfig, Event, Retry, Service, Settings, Step, UsageError
from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.engine.at_hand import AtHand
from ensue.engine.attempt import Attempt
from ensue.engine.books import Books
from ensue.engine.readiness import ReadyLimits
from ensue.engine.runtime import Runtime
from ensue.engine.threads import HandlerThreads
from ensue.errors import HandlerHung
from ensue.message import DeadLetterState, Partition
from ensue.repository import TableRepository

ONCE = Retry(attempts_max=1)


class Fed(Event, topic="hanging", key="animal"):
    animal: str
    number: int = 0


async def waits() -> None:
    await asyncio.Event().wait()


async def waits_and_complains() -> None:
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        raise RuntimeError("the client was interrupted") from None


async def waits_and_keeps_silent() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.Event().wait()


@pytest.mark.parametrize("hang", [waits, waits_and_complains, waits_and_keeps_silent])
async def test_what_waits_for_too_long_is_cancelled_and_is_a_failure_that_names_the_place(
    tmp_path: Path, hang: Callable[[], Awaitable[None]]
) -> None:
    fed: list[str] = []
    service = Service("zoo", retry=ONCE, handler_limit_s=0.05)

    @service.on
    async def feed(event: Fed, step: Step) -> None:
        if event.animal == "bear":
            await hang()
        fed.append(event.animal)

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="ant"), Fed(animal="bear"), Fed(animal="wolf"))
        await until_letters(running, service, 1)
        await until(lambda: "wolf" in fed, running)
        [letter] = await letters(running, service)
    assert (letter.key, letter.state, letter.error_type) == ("bear", DeadLetterState.DEAD, "HandlerTimeout")
    assert "handler feed of hanging.Fed.v1" in letter.error
    assert "did not return within 0.05 s" in letter.error
    assert hang is waits_and_keeps_silent or f"in {hang.__name__}" in letter.error
    assert fed[-1] == "wolf"


async def test_an_async_entity_step_has_the_limit_too(tmp_path: Path) -> None:
    @dataclasses.dataclass
    class Animal:
        animal: str
        eaten: int

    tables = MetaData()
    table = Table("animal", tables, Column("animal", String, primary_key=True), Column("eaten", Integer))
    service = Service(
        "zoo", retry=ONCE, handler_limit_s=0.05, tables=tables, repositories=[TableRepository(Animal, table)]
    )

    @service.on
    async def feed(animal: Animal | None, event: Fed) -> Animal:
        if event.animal == "bear":
            await waits()
        return animal or Animal(event.animal, 1)

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="wolf"))
        await until_letters(running, service, 1)
        [letter] = await letters(running, service)
    assert letter.error_type == "HandlerTimeout"


async def test_a_timeout_of_the_handlers_own_is_its_own_failure(tmp_path: Path) -> None:
    service = Service("zoo", retry=ONCE)

    @service.on
    async def feed(event: Fed) -> None:
        async with asyncio.timeout(0.01):
            await waits()

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await until_letters(running, service, 1)
        [letter] = await letters(running, service)
    assert letter.error_type == "TimeoutError"


def test_the_limit_is_a_minute_unless_told_otherwise_and_nought_is_none() -> None:
    assert EngineConfig().handler_limit_s == 60.0
    limits = {
        service.make_runtime().context.dispatcher.limit.seconds
        for service in (
            Service("zoo", handler_limit_s=0),
            Service("zoo", engine=EngineConfig(handler_limit_s=None)),
            Service("zoo", handler_limit_s=0, engine=EngineConfig(handler_limit_s=7.0)),
        )
    }
    assert limits == {0.0}
    with pytest.raises(UsageError, match="handler_limit_s is -1"):
        EngineConfig(handler_limit_s=-1)
    with pytest.raises(UsageError, match="handler_limit_s=-1"):
        Service("zoo", handler_limit_s=-1)


# ------------------------------------------------------------------------------------------- what cannot be stopped


class Zoo:
    """A service whose handler for the bear hangs in a thread until it is let go."""

    def __init__(self, limit_s: float = 0.1, name: str = "zoo") -> None:
        self.service = Service(name, retry=ONCE, handler_limit_s=limit_s)
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.fed: list[str] = []

        @self.service.on
        def feed(event: Fed, step: Step) -> None:
            if event.animal == "bear":
                self.begun.set()
                self.let_go.wait(LIMIT_S)
            self.fed.append(event.animal)


async def test_a_def_that_does_not_return_is_named_and_its_worker_gives_its_leases_up_and_is_not_ready(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    zoo = Zoo()
    partition = Partition("zoo", "hanging", 0)
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo.service) as running:
        runtime = running.runtimes["zoo"]
        assert runtime.worker is not None
        await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="wolf"))
        await runtime.worker.wait_failed()
        await runtime.worker.stop()
        error = runtime.worker.failed
        assert isinstance(error, HandlerHung)
        said = (
            "handler feed of hanging.Fed.v1 with message elsewhere/1-1 of elsewhere/1, key 'bear', hanging/0 offset 1"
        )
        assert f"{said} does not return, and cannot be stopped" in str(error)
        assert "self.let_go.wait(LIMIT_S)" in error.where
        assert any("does not return" in reason for reason in await runtime.readiness())
        table = await runtime.context.books.leases()
        assert (table.workers, table.leases, table.suspects) == ((), (), ("hanging/0", "relay"))
        assert await letters(running, zoo.service) == []
        attempt = await runtime.context.books.attempt(partition)
        assert (attempt.single, attempt.deaths) == (True, {})
        zoo.let_go.set()
    assert "does not return" in caplog.text
    assert zoo.fed in (["bear"], [])


async def test_after_three_hangs_alone_the_message_is_set_aside_with_the_place_and_the_others_go_on(
    tmp_path: Path,
) -> None:
    """Each worker stands for a process: one that hangs has ended."""
    broker = MemoryBroker("memory:hangs")
    hangs = 0
    for _ in range(6):
        zoo = Zoo()
        async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo.service, broker=broker) as running:
            worker = running.runtimes["zoo"].worker
            assert worker is not None
            if not hangs:
                await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="wolf"))
            ended = asyncio.create_task(worker.wait_failed())
            settled = asyncio.create_task(until_letters(running, zoo.service, 1))
            await asyncio.wait((ended, settled), return_when=asyncio.FIRST_COMPLETED)
            if settled.done():
                ended.cancel()
                await running.settle()
                assert zoo.fed == ["wolf"]
                [letter] = await letters(running, zoo.service)
                break
            hangs += 1
            settled.cancel()
            await worker.stop()
            zoo.let_go.set()
    assert hangs == 4  # one to know which it is, three of the message alone
    assert (letter.state, letter.error_type) == (DeadLetterState.DEAD, "HandlerKilled")
    assert "self.let_go.wait(LIMIT_S)" in letter.error


async def test_a_loop_that_catches_its_cancellation_makes_its_worker_give_up_too(tmp_path: Path) -> None:
    service = Service("zoo", handler_limit_s=0.05)
    let_go = asyncio.Event()

    @service.on
    async def feed(event: Fed) -> None:
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        worker = running.runtimes["zoo"].worker
        assert worker is not None
        await Sender(running.broker).send(Fed(animal="bear"))
        await worker.wait_failed()
        assert isinstance(worker.failed, HandlerHung)
        let_go.set()


async def test_hanging_threads_are_the_services_own_and_take_none_of_anybody_else(tmp_path: Path) -> None:
    zoo = Zoo(limit_s=0, name="pool")
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo.service) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        assert await asyncio.to_thread(zoo.begun.wait, LIMIT_S)
        names = [each.name for each in threading.enumerate()]
        assert names.count("ensue pool handler 1") == 1
        assert all(each.daemon for each in threading.enumerate() if each.name.startswith("ensue pool handler"))
        zoo.let_go.set()


async def test_no_more_threads_than_stated_and_one_that_was_given_up_is_waited_for() -> None:
    threads = HandlerThreads(1, "test")
    let_go, seen = threading.Event(), AtHand()
    hanging = asyncio.create_task(threads.run(seen, let_go.wait, LIMIT_S))
    async with asyncio.timeout(LIMIT_S):
        while seen.thread is None:  # noqa: ASYNC110  # a thread has no event of the loop
            await asyncio.sleep(0.001)
        hanging.cancel()
        next_one = asyncio.create_task(threads.run(seen, lambda: "done"))
        await asyncio.wait((hanging,))
        assert not next_one.done()
        let_go.set()
        assert await next_one == "done"
    threads.close()


#: Takes half a minute: counts.
_LONG = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 40000000) "


@pytest.mark.parametrize("rows", ["none", "a few", "half read"])
async def test_a_statement_that_takes_for_ever_in_a_thread_ends_with_its_step_on_sqlite(
    tmp_path: Path, rows: str
) -> None:
    """Else the rollback would wait for it on the event loop: no heartbeat, no request, and no leases given up."""
    service = Service("zoo", retry=ONCE, handler_limit_s=0.1)
    ended: list[str] = []

    @service.on
    def feed(event: Fed, session: Session) -> None:
        try:
            if rows == "a few":
                session.execute(text(f"{_LONG} SELECT n FROM c WHERE n % 40000000 = 1")).all()
            kept = session.execute(text(f"{_LONG} SELECT n FROM c"))
            assert kept.fetchone() == (1,)
            if rows != "half read":
                kept.close()
            session.execute(text(f"{_LONG} SELECT max(n) FROM c")).all()
        except OperationalError as error:
            ended.append(str(error.orig))
            raise

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        runtime = running.runtimes["zoo"]
        assert runtime.worker is not None
        await Sender(running.broker).send(Fed(animal="bear"))
        await runtime.worker.wait_failed()
        await runtime.worker.stop()
        table = await runtime.context.books.leases()
        assert (table.workers, table.leases) == ((), ())
        async with runtime.step() as step:  # the connection is as good as new
            assert await step.session.scalar(text("SELECT 1")) == 1
    assert ended == ["interrupted"]


async def test_a_thread_that_cannot_be_started_takes_no_turn_away(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = HandlerThreads(1, "test")

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with asyncio.timeout(LIMIT_S):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="can't start"):
                await threads.run(AtHand(), lambda: 1)
        assert await threads.run(AtHand(), lambda: 2) == 2
    threads.close()


async def test_what_was_called_before_the_threads_are_let_go_is_done_and_later_there_are_others() -> None:
    threads = HandlerThreads(1, "test")
    async with asyncio.timeout(LIMIT_S):
        called = [asyncio.create_task(threads.run(AtHand(), lambda each=each: each)) for each in range(3)]
        await asyncio.sleep(0)  # the first one has a thread, the others wait for their turn
        threads.close()
        assert await asyncio.gather(*called) == [0, 1, 2]
        assert await threads.run(AtHand(), lambda: 3) == 3
        threads.close()
        while any(each.name.startswith("test handler") for each in threading.enumerate()):  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.001)


async def test_a_service_that_is_started_again_has_threads_though_one_hangs_still(tmp_path: Path) -> None:
    zoo, broker = Zoo(), MemoryBroker("memory:again")
    await broker.open()
    settings = Settings(database="", broker="", engine=QUICK, partitions=1)
    runtime = Runtime(zoo.service, store_of(tmp_path, "zoo"), broker, settings)
    async with asyncio.timeout(LIMIT_S):
        await runtime.start()
        assert runtime.worker is not None
        await Sender(broker).send(Fed(animal="wolf"), Fed(animal="bear"))
        await runtime.worker.wait_failed()
        await runtime.stop()
        zoo.begun.clear()
        await runtime.start()
        try:
            assert await asyncio.to_thread(zoo.begun.wait, LIMIT_S / 2), "no thread for the second run"
        finally:
            zoo.let_go.set()
            await runtime.stop()


# ------------------------------------------------------------------------------------------------------- heartbeats


@pytest.mark.parametrize("server_name", ["postgres_server", "mariadb_server"])
async def test_heartbeats_go_on_while_a_handler_takes_long_and_another_worker_gets_its_share_after_it(
    server_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Two workers of one service; the first one is in the middle of a handler when the second one joins."""
    server = request.getfixturevalue(server_name)
    begun, let_go = asyncio.Event(), asyncio.Event()
    fed: list[tuple[str, str]] = []
    broker = MemoryBroker("memory:joins")
    engine = config(lease_ttl_s=0.5)

    def zoo(worker: str) -> Service:
        service = Service("zoo")

        @service.on
        async def feed(event: Fed) -> None:
            begun.set()
            await let_go.wait()
            fed.append((worker, event.animal))

        return service

    server.drop("hanging")
    url = server.url("hanging")
    first, settings = zoo("first"), Settings(database="", broker="", partitions=2, engine=engine)
    stores = {"zoo": make_store(url, "zoo")}
    async with (
        asyncio.timeout(LIMIT_S),
        bench(tmp_path, first, broker=broker, stores=stores, engine=engine, partitions=2) as world,
    ):
        one = world.runtimes["zoo"].worker
        assert one is not None
        await Sender(world.broker, partitions=2).send(*[Fed(animal=each) for each in ("ant", "bear", "cat", "dog")])
        await begun.wait()
        second = Runtime(zoo("second"), make_store(url, "zoo"), broker, settings, progress=world.progressed)
        await second.start()
        try:
            two = second.worker
            assert two is not None
            await two.ready()
            books, busy = second.context.books, 0
            for _ in range(60):
                table = await books.leases()
                assert one.name in table.workers, "it looks dead"
                held = {lease.name for lease in table.leases if lease.owner == one.name}
                assert {"hanging/0", "hanging/1"} <= held, "given up in the middle of a handler"
                busy += any(each.worker == one.name and "handler feed" in each.what for each in table.busy)
                await asyncio.sleep(engine.lease_ttl_s / 20)
            assert busy, "nobody is told how long it takes"
            let_go.set()
            owners: set[str] = set()
            while owners != {one.name, two.name}:
                table = await books.leases()
                owners = {lease.owner for lease in table.leases if lease.name != "relay"}
                await asyncio.sleep(0.01)
            await until(lambda: len(fed) >= 4, world)
        finally:
            let_go.set()
            await second.stop()
    server.drop("hanging")
    assert len(fed) == 4, "run twice"
    assert {each for _, each in fed} == {"ant", "bear", "cat", "dog"}


async def test_a_transaction_that_takes_long_is_a_reason_not_to_be_ready(tmp_path: Path) -> None:
    begun, let_go = asyncio.Event(), asyncio.Event()
    service = Service("zoo")

    @service.on
    async def feed(event: Fed) -> None:
        begun.set()
        await let_go.wait()

    async with asyncio.timeout(LIMIT_S), bench(tmp_path, service) as running:
        runtime = running.runtimes["zoo"]
        assert runtime.worker is not None
        await Sender(running.broker).send(Fed(animal="bear"))
        await begun.wait()
        assert await runtime.readiness(ReadyLimits(lag_max=None)) == []
        [reason] = await runtime.readiness(ReadyLimits(lag_max=None, busy_s=0.0))
        assert "one transaction has been running, limit 0 s: handler feed of hanging.Fed.v1 with" in reason
        assert "key 'bear', hanging/0 offset 1" in reason
        assert await runtime.readiness(ReadyLimits(lag_max=None, busy_s=None)) == []
        let_go.set()
        await running.settle()
        assert runtime.worker.loops.busy == ()


async def test_a_clean_pass_ends_a_suspicion_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The worker before was killed by somebody, between two messages: nothing is wrong with any of them."""
    broker, fed = MemoryBroker("memory:clean"), list[str]()
    service = Service("zoo")

    @service.on
    async def feed(event: Fed) -> None:
        fed.append(event.animal)

    store = store_of(tmp_path, "zoo")
    await store.open()
    books = Books(store, "zoo")
    await books.heartbeat("dead", 600.0, ["hanging/0"])
    await books.save_attempts([(Partition("zoo", "hanging", 0), Attempt(target="1", alone=True, deaths={"1": 1}))])
    await books.bury("dead")
    async with (
        asyncio.timeout(LIMIT_S),
        bench(tmp_path, service, broker=broker, engine=config(lease_ttl_s=0.3)) as world,
    ):
        await Sender(world.broker).send(*[Fed(animal=name) for name in ("ant", "bear", "cat")])
        place = Partition("zoo", "hanging", 0)
        while (await books.leases()).suspects or await books.attempt(place) != Attempt():  # noqa: ASYNC110  # no event
            await asyncio.sleep(0.01)
        assert fed == ["ant", "bear", "cat"]
        assert await letters(world, service) == []
    await store.close()
    assert QUICK.handler_limit_s == 60.0
