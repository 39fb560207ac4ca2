"""One side on fresh ground: its databases, its stream, and its processes, started and stopped."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self, cast

import asyncpg
from servers import NatsServer, PostgresServer

from benchmarks.child import environment
from benchmarks.peers.ground import Ground, amount_of, make_tables
from benchmarks.peers.processor import processor_s
from benchmarks.peers.sides import python_of

_ENOUGH_S = 120.0


class SideFailed(Exception):
    """A process of a side ended or said something else than expected; its stderr is in the text."""


class Child:
    """A process that answers lines of JSON by lines of JSON."""

    def __init__(self, what: str, process: asyncio.subprocess.Process, errors: Path) -> None:
        self._what = what
        self._process = process
        self._errors = errors

    @classmethod
    async def start(cls, side: str, role: str, ground: Ground, errors: Path) -> Self:
        with errors.open("ab") as stderr:
            process = await asyncio.create_subprocess_exec(
                str(python_of(side)), "-m", "benchmarks.peers.program", side, role,
                json.dumps(dataclasses.asdict(ground)),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
                env=environment(), cwd=errors.parent,
            )  # fmt: skip
        return cls(f"{side} {role}", process, errors)

    async def ask(self, command: Mapping[str, Any], timeout_s: float = _ENOUGH_S) -> dict[str, Any]:
        self.tell(command)
        return await self.answer(timeout_s)

    def tell(self, command: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(command) + "\n").encode())

    @property
    def pid(self) -> int:
        return self._process.pid

    async def answer(self, timeout_s: float = _ENOUGH_S) -> dict[str, Any]:
        assert self._process.stdout is not None
        async with asyncio.timeout(timeout_s):
            line = await self._process.stdout.readline()
        if not line:
            raise SideFailed(f"{self._what} has ended: {self._errors.read_text()[-2000:]}")
        return cast(dict[str, Any], json.loads(line))

    async def ended(self) -> None:
        """Wait until it has ended by itself. Raises SideFailed when it says that it failed."""
        await self._process.wait()
        self.check()

    def check(self) -> None:
        if self._process.returncode:
            raise SideFailed(f"{self._what} has ended: {self._errors.read_text()[-2000:]}")

    async def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(10):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Stage:
    """consumer: a connection to the consumer's database, for looking."""

    def __init__(
        self, side: str, ground: Ground, consumer: asyncpg.Connection[Any], directory: Path, servers: Sequence[int]
    ) -> None:
        self.side = side
        self._servers = servers
        self.ground = ground
        self.consumer = consumer
        self._directory = directory
        self._children: list[Child] = []

    async def start(self, role: str) -> Child:
        child = await Child.start(self.side, role, self.ground, self._directory / f"{role}.txt")
        self._children.append(child)
        await child.answer()
        return child

    async def stop(self) -> None:
        for child in self._children:
            await child.stop()

    def processor_s(self) -> float:
        """Of servers and processes so far, s; differences count, while the processes live."""
        return processor_s([*self._servers, *(child.pid for child in self._children)])

    async def checkpoint(self) -> None:
        """What was written before is not written to the files while we measure."""
        await self.consumer.execute("CHECKPOINT")

    async def changes(self) -> int:
        """How many orders have taken effect."""
        return int(await self.consumer.fetchval("SELECT sum(changes) FROM customers"))

    async def wait_for(self, changes: int, every_s: float = 0.02) -> float:
        """Return when (monotonic, s) it was seen that so many orders have taken effect."""
        deadline = time.monotonic() + _ENOUGH_S
        while (found := await self.changes()) < changes:
            for child in self._children:
                child.check()
            if time.monotonic() > deadline:
                raise SideFailed(f"{self.side}: only {found} of {changes} orders took effect: {self._stderr()}")
            await asyncio.sleep(every_s)
        return time.monotonic()

    async def check(self, placed: int) -> None:
        """Nothing counts that did not do the work once: orders 0 to placed - 1 are in their customers."""
        found = await self.consumer.fetchrow("SELECT sum(total) AS total, sum(changes) AS changes FROM customers")
        assert found is not None
        expected = sum(amount_of(number) for number in range(placed))
        if (found["total"], found["changes"]) != (expected, placed):
            raise SideFailed(f"{self.side}: {dict(found)}, expected total {expected} and {placed} changes")

    def _stderr(self) -> str:
        return "\n".join(path.read_text()[-1000:] for path in sorted(self._directory.glob("*.txt")))


@asynccontextmanager
async def stage(side: str, postgres: PostgresServer, nats: NatsServer) -> AsyncIterator[Stage]:
    """Fresh databases, a stream deleted if an earlier side left one, tables made by the side itself."""
    for database in ("producer", "consumer"):
        postgres.drop(database)
    await _empty(nats)
    ground = Ground(postgres.url("producer"), postgres.url("consumer"), nats.url())
    await make_tables(ground)
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ensue-bench-")))
        prepare = await Child.start(side, "prepare", ground, directory / "prepare.txt")
        await prepare.ended()
        consumer = await asyncpg.connect(ground.consumer)
        stack.push_async_callback(consumer.close)
        made = Stage(side, ground, consumer, directory, [pid for pid in (postgres.pid, nats.pid) if pid])
        await made.checkpoint()
        stack.push_async_callback(made.stop)
        yield made


async def _empty(server: NatsServer) -> None:
    import nats

    connection = await nats.connect(server.url())
    context = connection.jetstream()
    for info in await context.streams_info():
        if info.config.name:
            await context.delete_stream(info.config.name)
    await connection.close()
