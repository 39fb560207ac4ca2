"""A message under suspicion is alone in its process, and only an attempt that did not end counts against it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, config, letters, store_of, until

from ensue import Event, Service, Settings
from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.engine.attempt import DEATHS_MAX, Attempt
from ensue.engine.books import Books
from ensue.engine.gate import Gate
from ensue.engine.lost import LOSSES_MAX
from ensue.engine.runtime import Runtime
from ensue.errors import StoreUnavailable
from ensue.message import Partition

PLACE = Partition("zoo", "suspicion", 0)


class Fed(Event, topic="suspicion", key="animal"):
    animal: str


async def _dead_worker_left(directory: Path, attempt: Attempt) -> Books:
    store = store_of(directory, "zoo")
    await store.open()
    books = Books(store, "zoo")
    await books.heartbeat("dead", 600.0, [PLACE.place])
    await books.save_attempts([(PLACE, attempt)])
    await books.bury("dead")
    return books


async def test_who_wants_to_be_alone_waits_for_all_inside_and_is_not_overtaken() -> None:
    gate, seen = Gate.here(), list[str]()
    assert gate is Gate.here()
    inside, let_go = asyncio.Event(), asyncio.Event()

    async def shared(name: str) -> None:
        async with gate.shared():
            seen.append(name)
            inside.set()
            await let_go.wait()

    async def alone() -> None:
        async with gate.alone():
            seen.append("alone")

    first = asyncio.create_task(shared("first"))
    await inside.wait()
    second = asyncio.create_task(alone())
    await asyncio.sleep(0)
    third = asyncio.create_task(shared("third"))
    await asyncio.sleep(0)
    assert seen == ["first"]
    let_go.set()
    await asyncio.gather(first, second, third)
    assert seen == ["first", "alone", "third"]


async def test_while_a_message_is_under_suspicion_no_other_service_of_the_process_runs_a_handler(
    tmp_path: Path,
) -> None:
    zoo, farm = Service("zoo"), Service("farm")
    begun, let_go, fed = asyncio.Event(), asyncio.Event(), list[str]()

    @farm.on
    async def see(event: Fed) -> None:
        begun.set()
        await let_go.wait()

    @zoo.on
    async def feed(event: Fed) -> None:
        fed.append(event.animal)

    books, broker = await _dead_worker_left(tmp_path, Attempt(single=True)), MemoryBroker("memory:alone")
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, farm, broker=broker) as running:
        await Sender(running.broker).send(Fed(animal="ant"))
        await begun.wait()
        settings = Settings(database="", broker="", partitions=1, engine=config())
        second = Runtime(zoo, store_of(tmp_path, "zoo"), broker, settings, progress=running.progressed)
        await second.start()
        try:
            while not Gate.here()._turns.locked() and not fed:  # noqa: ASYNC110  # nothing tells who waits
                await asyncio.sleep(0.001)
            assert fed == []
            let_go.set()
            await until(lambda: fed == ["ant"], running)
        finally:
            let_go.set()
            await second.stop()
    await books._store.close()


@pytest.mark.parametrize("deaths", [DEATHS_MAX - 2, DEATHS_MAX - 1])
async def test_a_message_is_guilty_at_the_last_death_and_not_before(tmp_path: Path, deaths: int) -> None:
    """The worker before died while the message was alone, for one time more than is stored."""
    zoo, fed = Service("zoo"), list[str]()

    @zoo.on
    async def feed(event: Fed) -> None:
        fed.append(event.animal)

    left = Attempt(target="1", alone=True, single=True, deaths={"1": deaths}, why={"1": "it swallowed the keys"})
    books = await _dead_worker_left(tmp_path, left)
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        await Sender(running.broker).send(Fed(animal="bear"), Fed(animal="cat"))
        await running.settle()
        found = await letters(running, zoo)
    if deaths == DEATHS_MAX - 1:
        assert fed == ["cat"]
        assert [(each.key, each.error_type) for each in found] == [("bear", "HandlerKilled")]
        assert "it swallowed the keys" in found[0].error
    else:
        assert (fed, found) == (["bear", "cat"], [])
    await books._store.close()


async def test_an_attempt_that_ends_badly_without_a_death_is_none(tmp_path: Path) -> None:
    """The database goes away in the middle of it, and the process lives on."""
    zoo, calls = Service("zoo"), list[str]()

    @zoo.on
    async def feed(event: Fed) -> None:
        calls.append(event.animal)
        if len(calls) == 1:
            raise StoreUnavailable("away for a moment")

    books = await _dead_worker_left(tmp_path, Attempt(single=True, deaths={"1": DEATHS_MAX - 1}))
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        await Sender(running.broker).send(Fed(animal="bear"))
        await running.settle()
        assert await letters(running, zoo) == []
    assert calls[0] == calls[-1] == "bear"
    await books._store.close()


def _slow_zoo(fed: list[str], begun: asyncio.Event, let_go: asyncio.Event) -> Service:
    zoo = Service("zoo")

    @zoo.on
    async def feed(event: Fed) -> None:
        begun.set()
        await let_go.wait()
        fed.append(event.animal)

    return zoo


async def test_an_attempt_that_a_stop_rolls_back_is_no_death(tmp_path: Path) -> None:
    """A slow handler in a suspect partition, and more graceful stops than deaths are needed."""
    books = await _dead_worker_left(tmp_path, Attempt(single=True))
    broker, fed = MemoryBroker("memory:stops"), list[str]()
    await broker.open()
    engine = dataclasses.replace(config(), stop_limit_s=0.01)
    for life in range(DEATHS_MAX + 2):
        last = life == DEATHS_MAX + 1
        begun, let_go = asyncio.Event(), asyncio.Event()
        zoo = _slow_zoo(fed, begun, let_go)
        async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo, broker=broker, engine=engine) as running:
            if not life:
                await Sender(running.broker).send(Fed(animal="sloth"))
            await begun.wait()
            if last:
                let_go.set()
                await running.settle()
            assert await letters(running, zoo) == []
    assert fed == ["sloth"]
    await broker.close()
    await books._store.close()


async def test_an_attempt_that_could_not_be_written_down_counts_for_nobody(tmp_path: Path) -> None:
    """The message before it was handled in the same lane; this one was not."""
    zoo, fed = Service("zoo"), list[str]()

    @zoo.on
    async def feed(event: Fed) -> None:
        fed.append(event.animal)

    books = await _dead_worker_left(tmp_path, Attempt(single=True))
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo) as running:
        theirs = running.runtimes["zoo"].context.books
        save, failures = theirs.save_attempts, 0

        async def saves(attempts: Sequence[tuple[Partition, Attempt]]) -> None:
            nonlocal failures
            if fed and failures < LOSSES_MAX + 1:
                failures += 1
                raise StoreUnavailable("the connection for the books was lost")
            await save(attempts)

        theirs.save_attempts = saves  # type: ignore[method-assign]
        await Sender(running.broker).send(Fed(animal="ant"), Fed(animal="bear"))
        await running.settle()
        [checkpoint] = (await theirs.checkpoints()).values()
        assert (fed, failures, checkpoint.counters.retries) == (["ant", "bear"], LOSSES_MAX + 1, 0)
    await books._store.close()


async def test_heartbeats_go_on_in_a_stop_until_the_batch_at_hand_has_ended(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    server = request.getfixturevalue("postgres_server")
    server.drop("suspicion")
    url = server.url("suspicion")
    begun, let_go = asyncio.Event(), asyncio.Event()
    engine = config(lease_ttl_s=0.5)
    zoo = Service("zoo")

    @zoo.on
    async def feed(event: Fed) -> None:
        begun.set()
        await let_go.wait()

    stores = {"zoo": make_store(url, "zoo")}
    async with asyncio.timeout(LIMIT_S), bench(tmp_path, zoo, stores=stores, engine=engine) as running:
        worker = running.runtimes["zoo"].worker
        assert worker is not None
        await Sender(running.broker).send(Fed(animal="bear"))
        await begun.wait()
        other = Runtime(
            Service("zoo"),
            make_store(url, "zoo"),
            MemoryBroker("memory:other"),
            Settings(database="", broker="", partitions=1, engine=engine),
        )
        await other.start(work=False)
        stopping = asyncio.create_task(worker.stop())
        try:
            for _ in range(60):
                table = await other.context.books.leases()
                assert worker.name in table.workers, "it looks dead, and others begin anew what it is about to commit"
                await asyncio.sleep(engine.lease_ttl_s / 20)
        finally:
            let_go.set()
            await stopping
            table = await other.context.books.leases()
            await other.stop()
        assert (table.workers, table.leases, table.suspects) == ((), (), ())
    server.drop("suspicion")
