"""A RabbitMQ that is short of memory: it takes nothing that is published, what it has is read, and then it goes on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import RabbitMqServer
from tests.conftest import required
from tests.unit.engine.workbench import bench, config, until

from ensue import Event, Service, Step
from ensue.brokers.rabbitmq import RabbitMqBroker
from ensue.conformance.broker import SOURCE, TOPIC, entries, positions, read
from ensue.errors import BrokerUnavailable

LIMIT_S = 60.0
CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
SO_LITTLE, ENOUGH = "0.000001", "0.6"
#: Many more than the server sends ahead to one who takes 5 at a time.
COUNT = 200


class Arrived(Event, topic="t-arrived", key="number"):
    number: int


class Noted(Event, topic="t-noted", key="number"):
    number: int


@pytest.fixture
def short_of_memory(start: Callable[..., Any]) -> RabbitMqServer:
    required("" if Path(CONTROL).exists() else "rabbitmqctl is not installed (make servers)")
    server: RabbitMqServer = start(RabbitMqServer)
    return server


async def memory(server: RabbitMqServer, share: str) -> None:
    """Of the machine's, how much the server may use before it sets its alarm."""
    await asyncio.to_thread(server.run, CONTROL, "set_vm_memory_high_watermark", share)


@pytest.mark.slow
async def test_publishing_waits_while_the_server_is_short_of_memory_and_says_why(
    short_of_memory: RabbitMqServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = short_of_memory
    caplog.set_level(logging.INFO)

    broker = RabbitMqBroker(f"{server.url()}?timeout_s=3")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, 2))
        await memory(server, SO_LITTLE)
        # The server says so to who publishes: this one, and who publishes after it waits at once.
        for first in (3, 4):
            with pytest.raises(BrokerUnavailable, match=r"blocked publishing \(low on memory\)"):
                await broker.append_many(SOURCE, {(TOPIC, 0): entries(first, 1)})
        with pytest.raises(BrokerUnavailable, match=r"blocked publishing \(low on memory\)"):
            await broker.topics()  # what readiness asks
        waiting = asyncio.create_task(_until_it_goes(broker))
        await memory(server, ENOUGH)
        async with asyncio.timeout(LIMIT_S):
            await waiting
            found = await read(broker, TOPIC, 0, 0, 100, 10.0)
            while 5 not in positions(found):
                found = [*found, *await read(broker, TOPIC, 0, found[-1].offset, 100, 10.0)]
        # What was sent before the server said so is in the log as well; what waited is there once.
        assert positions(found) == [1, 2, 3, 5]
    finally:
        await broker.close()
    said = [each.getMessage() for each in caplog.records if each.name == "ensue.rabbitmq"]
    assert "what is published waits" in said[0]
    assert "takes what is published again" in said[-1]


@pytest.mark.slow
async def test_what_the_log_has_is_read_while_publishing_is_blocked(short_of_memory: RabbitMqServer) -> None:
    broker = RabbitMqBroker(f"{short_of_memory.url()}?timeout_s=3")
    await broker.open()
    try:
        await broker.ensure_topic(TOPIC, 1)
        await broker.append(TOPIC, 0, SOURCE, entries(1, COUNT))
        follower = broker.reader(TOPIC, 0, 0)
        found = list(await follower.read(5, LIMIT_S))
        await memory(short_of_memory, SO_LITTLE)
        with pytest.raises(BrokerUnavailable, match="blocked publishing"):
            await broker.append_many(SOURCE, {(TOPIC, 0): entries(COUNT + 1, 1)})
        first, last = await broker.bounds(TOPIC, 0)
        while found[-1].offset < last:
            found += await follower.read(5, LIMIT_S)
        assert positions(found)[:COUNT] == list(range(1, COUNT + 1))  # what was sent before it was told may follow
        anew = positions(await read(broker, TOPIC, 0, first - 1, 10, LIMIT_S))  # as many as have arrived
        assert anew == list(range(1, len(anew) + 1)) != []
        with pytest.raises(BrokerUnavailable, match="blocked publishing"):
            await broker.topics()  # it lasts
    finally:
        await broker.close()


@pytest.mark.slow
async def test_a_service_that_waits_to_publish_goes_on_applying_events(
    short_of_memory: RabbitMqServer, tmp_path: Path
) -> None:
    towns, ledger, clerk = Service("towns"), Service("ledger"), Service("clerk")
    gate = asyncio.Event()
    gate.set()
    applied: list[int] = []
    heard: list[int] = []

    @ledger.on
    async def note(event: Arrived, step: Step) -> None:
        await gate.wait()
        applied.append(event.number)
        step.publish(Noted(number=event.number))

    @towns.on
    def hear(event: Noted) -> None:
        heard.append(event.number)

    url = f"{short_of_memory.url()}?timeout_s=3"
    far, near = RabbitMqBroker(url), RabbitMqBroker(url)  # ledger and clerk share one, as in one process
    options = config(batch_records_max=5)
    async with bench(
        tmp_path, towns, ledger, clerk, broker=near, brokers={"towns": far}, engine=options
    ) as world:  # fmt: skip
        async with towns.step() as step:
            step.publish(Arrived(number=0))
        await until(lambda: heard == [0], world, "one event there and back")
        gate.clear()
        async with towns.step() as step:
            for number in range(1, COUNT):
                step.publish(Arrived(number=number))
        while (await far.bounds("t-arrived", 0)).last < COUNT:  # noqa: ASYNC110  # the log tells nobody
            await asyncio.sleep(0.05)
        await memory(short_of_memory, SO_LITTLE)
        async with clerk.step() as step:  # the database of ledger is in the handler's hands
            step.publish(Noted(number=-1))

        async def blocked() -> bool:
            return any("blocked publishing" in each for each in await world.runtimes["ledger"].readiness())

        async with asyncio.timeout(LIMIT_S):
            while not await blocked():  # noqa: ASYNC110  # the server tells the relay, and nobody else
                await asyncio.sleep(0.05)
        gate.set()
        await until(lambda: len(set(applied)) == COUNT, world, "all applied while the alarm lasts")
        assert await blocked()
        assert heard in ([0], [0, -1])  # the record at which the server notices may get in
        await memory(short_of_memory, ENOUGH)
        await until(lambda: len(heard) > COUNT, world, "what waited is sent")
        assert sorted(heard) == [-1, *range(COUNT)]


async def _until_it_goes(broker: RabbitMqBroker) -> None:
    while True:
        try:
            return await broker.append_many(SOURCE, {(TOPIC, 0): entries(5, 1)})
        except BrokerUnavailable as error:
            if "blocked publishing" not in str(error):
                raise
