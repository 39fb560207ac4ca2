"""A broker that is down when a service starts: steps commit all the same, and the outbox catches up later."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from tests.unit.engine.workbench import LIMIT_S, QUICK, _Shared, store_of

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable, StoreUnavailable, TopicMismatch
from ensue.stores.sqlite import SqliteStore


class Drop(Event, topic="downpour", key="pipe"):
    pipe: str
    number: int


class DownAtFirst(MemoryBroker):
    """Refuses to open until it is told to be up. tries: how often it was asked."""

    up = False
    tries = 0
    tried: Callable[[], None] = staticmethod(lambda: None)

    async def open(self) -> None:
        self.tries += 1
        self.tried()
        if not self.up:
            raise BrokerUnavailable("nobody listens")
        await super().open()


def running(service: Service, directory: Path, broker: MemoryBroker) -> AbstractAsyncContextManager[Runtime]:
    settings = Settings(database="", broker="", partitions=1, engine=QUICK)
    store = store_of(directory, service.name)
    return service.running(Runtime(service, store, broker, settings, random=Random(0)))


async def test_steps_commit_while_the_broker_is_down_and_their_events_follow_when_it_is_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("well")
    got: list[int] = []
    arrived = asyncio.Event()

    @service.on
    async def catch(event: Drop) -> None:
        got.append(event.number)
        if len(got) == 3:
            arrived.set()

    broker = DownAtFirst()
    with caplog.at_level(logging.WARNING, "ensue.runtime"):
        async with running(service, tmp_path, broker) as runtime, asyncio.timeout(LIMIT_S):
            for number in range(3):
                async with service.step() as step:
                    step.publish(Drop(pipe="a", number=number))
            assert len(await runtime.store.outbox_after(0, 10)) == 3
            assert got == []
            broker.up = True
            await runtime.ready()
            await arrived.wait()
    assert got == [0, 1, 2]
    assert broker.tries > 1
    assert "well: the broker: nobody listens; waiting for it" in caplog.text


async def test_a_stop_does_not_wait_for_the_broker(tmp_path: Path) -> None:
    service = Service("well")
    broker = DownAtFirst()
    async with asyncio.timeout(LIMIT_S):
        async with running(service, tmp_path, broker):
            pass
    assert broker.tries == 1


async def test_a_broker_that_cannot_serve_when_it_is_up_at_last_fails_the_worker_with_the_reason(
    tmp_path: Path,
) -> None:
    """Nobody waits for `start` any more, so whoever runs the service is told through the worker."""
    service = Service("well", publishes=[Drop])
    inside = MemoryBroker()
    await inside.open()
    await inside.ensure_topic("downpour", 7)

    class Other(_Shared):
        up = False

        async def open(self) -> None:
            if not self.up:
                raise BrokerUnavailable("nobody listens")

    broker = Other(inside)
    async with running(service, tmp_path, broker) as runtime, asyncio.timeout(LIMIT_S):  # type: ignore[arg-type]
        broker.up = True
        worker = runtime.worker
        assert worker is not None
        await worker.wait_failed()
        assert isinstance(worker.failed, TopicMismatch)
    await inside.close()


async def test_a_database_that_is_starting_too_is_waited_for(tmp_path: Path) -> None:
    service = Service("well")

    class Starting(SqliteStore):
        tries = 0

        async def open(self) -> None:
            self.tries += 1
            if self.tries < 3:
                raise StoreUnavailable("the database system is starting up")
            await super().open()

    store = Starting(f"sqlite:///{tmp_path}/well.db?synchronous=OFF", "well")
    runtime = Runtime(
        service, store, MemoryBroker(), Settings(database="", broker="", partitions=1, engine=QUICK), random=Random(0)
    )
    async with asyncio.timeout(LIMIT_S), service.running(runtime):
        await runtime.ready()
    assert store.tries == 3


class GoneForItsTables(SqliteStore):
    """Opens, and is away when the user's tables are to be made, twice."""

    tries = 0

    async def create_tables(self, metadata: MetaData) -> None:
        self.tries += 1
        if self.tries <= 2:
            raise StoreUnavailable("restarted")
        await super().create_tables(metadata)


async def test_a_database_that_goes_away_while_tables_are_made_is_waited_for_too(tmp_path: Path) -> None:
    metadata = MetaData()
    Table("buckets", metadata, Column("id", Integer, primary_key=True))
    service = Service("well", tables=metadata)
    store = GoneForItsTables(f"sqlite:///{tmp_path}/well.db?synchronous=OFF", "well")
    settings = Settings(database="", broker="", partitions=1, engine=QUICK)
    async with service.running(Runtime(service, store, MemoryBroker(), settings, tables=metadata)):
        assert store.tries == 3
        assert await store.missing_tables(metadata) == []


async def test_an_unexpected_error_while_the_broker_is_waited_for_is_told_and_does_not_end_the_waiting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("well")

    class Strange(DownAtFirst):
        async def open(self) -> None:
            if self.tries == 1:
                self.tries += 1
                raise RuntimeError("a driver's own error")
            await super().open()

    broker = Strange()
    async with running(service, tmp_path, broker) as runtime, asyncio.timeout(LIMIT_S):
        broker.up = True
        await runtime.ready()
    assert "a driver's own error" in caplog.text
