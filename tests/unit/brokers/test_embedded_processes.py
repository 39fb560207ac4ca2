"""The embedded broker between real processes: woken by an append, racing writers, kill -9."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from ensue.brokers.embedded import EmbeddedBroker
from ensue.conformance.broker import TOPIC, positions, read
from ensue.message import Garbage, Message

LIMIT_S = 10.0
START_LIMIT_S = 60.0
LONG_S = 60.0

#: Appends `count` batches of `size` records to both partitions, as `source`, and acknowledges each on its output.
_APPENDER = """
import asyncio, sys
from ensue.brokers.embedded import EmbeddedBroker
from ensue.conformance.broker import TOPIC, entries

async def append(url: str, source: str, count: int, size: int) -> None:
    broker = EmbeddedBroker(url)
    await broker.open()
    await broker.ensure_topic(TOPIC, 2)
    print("ready", flush=True)
    for number in range(count):
        sys.stdin.readline()
        batch = entries(number * size + 1, size)
        await broker.append_many(source, {(TOPIC, 0): batch, (TOPIC, 1): batch})
        print(number, flush=True)
    await broker.close()

asyncio.run(append(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
"""


class Appender:
    """A process that appends one batch for each line it gets."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self.process, self.stdin, self.stdout = process, process.stdin, process.stdout

    def ask(self, batches: int = 1) -> None:
        self.stdin.write(b"\n" * batches)

    async def acknowledged(self) -> list[int]:
        """Every batch that it acknowledged until its end."""
        return [int(line) for line in (await self.stdout.read()).split()]


@asynccontextmanager
async def appender(url: str, source: str, count: int, size: int) -> AsyncIterator[Appender]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _APPENDER, url, source, str(count), str(size),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        child = Appender(process)
        async with asyncio.timeout(START_LIMIT_S):
            assert await child.stdout.readline() == b"ready\n"
        yield child
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        child.stdin.close()


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    opened = EmbeddedBroker(f"sqlite:///{tmp_path}/broker.db")
    await opened.open()
    await opened.ensure_topic(TOPIC, 2)
    yield opened
    await opened.close()


def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/broker.db"


async def follow(broker: EmbeddedBroker, partition: int, total: int) -> list[Message]:
    """Read as they come until there are `total`; every offset must be the next one."""
    found: list[Message] = []
    while len(found) < total:
        batch: list[Message | Garbage] = list(await read(broker, TOPIC, partition, len(found), 100, LONG_S))
        for each in batch:
            assert isinstance(each, Message)
            assert each.offset == len(found) + 1
            found.append(each)
    return found


async def test_a_waiting_read_is_woken_by_another_process_long_before_its_wait_ends(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    async with appender(url(tmp_path), "orders/1", 20, 1) as child:
        for number in range(20):
            reading = asyncio.create_task(read(broker, TOPIC, 1, number, 10, LONG_S))
            await asyncio.sleep(0)  # it has looked, and waits
            child.ask()
            async with asyncio.timeout(LIMIT_S):
                assert positions(await reading) == [number + 1]


async def test_processes_that_append_at_once_lose_nothing_and_keep_their_order(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    count, size = 100, 3
    async with AsyncExitStack() as stack:
        children = [
            await stack.enter_async_context(appender(url(tmp_path), f"service-{n}/1", count, size)) for n in range(3)
        ]
        for child in children:
            child.ask(count)
        async with asyncio.timeout(START_LIMIT_S):
            both = await asyncio.gather(*(follow(broker, number, 3 * count * size) for number in (0, 1)))
    for found in both:
        for n in range(3):
            own = [each.position for each in found if each.source == f"service-{n}/1"]
            assert own == list(range(1, count * size + 1))


async def test_a_killed_writer_leaves_whole_batches_and_all_it_acknowledged(
    broker: EmbeddedBroker, tmp_path: Path
) -> None:
    size, complete = 50, 0
    for life in range(3):
        source = f"orders/{life}"
        async with appender(url(tmp_path), source, 1000, size) as child:
            child.ask(1000)
            reading = read(broker, TOPIC, 0, complete + 5 * size, 1, LONG_S)
            async with asyncio.timeout(START_LIMIT_S):
                assert await reading  # it is in the middle of its work
            child.process.kill()
            acknowledged = await child.acknowledged()
        for number in (0, 1):
            last = (await broker.bounds(TOPIC, number)).last
            found: list[Message | Garbage] = []
            while complete + len(found) < last:
                found += await read(broker, TOPIC, number, complete + len(found), 10_000, 0.0)
            assert positions(found) == list(range(1, len(found) + 1))
            assert len(found) % size == 0
            assert len(found) >= (acknowledged[-1] + 1) * size
        complete = last
        assert await broker.append(TOPIC, 0, "survivor/1", []) == last
