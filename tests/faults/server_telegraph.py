"""Two services on SQLite with a log on a real server that a test kills, empties and damages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from tests.faults.test_log_damage import Telegraph, all_of
from tests.unit.engine.workbench import bench, config

from ensue import Service
from ensue.adapters import make_broker
from ensue.config import EngineConfig
from ensue.engine.lookup import records_between
from ensue.errors import BrokerUnavailable
from ensue.message import TICK, Message
from ensue.ports import Broker
from ensue.testing import World

TOTAL = 60
#: A kill has a start of the server behind it, and reconnecting has pauses that grow.
PATIENCE_S = 45.0
SILENT = config(tick_first_s=60, tick_max_s=60)


class ServerTelegraph(Telegraph):
    """`sends` writes to the log, `receives` keeps what it got; each has its own broker object, as a process has."""

    patience_s = PATIENCE_S

    def __init__(self, directory: Path, server: Any) -> None:
        super().__init__(directory)
        self.server = server
        self.prefix = f"t{secrets.token_hex(4)}."
        self.url = f"{server.url()}?prefix={self.prefix}&timeout_s=3"

    def log_broker(self) -> Broker:
        return make_broker(self.url)

    @asynccontextmanager
    async def running(self, *services: Service, engine: EngineConfig | None = None) -> AsyncIterator[World]:
        brokers = {service.name: self.log_broker() for service in services}
        async with bench(
            self.directory, *services, broker=self.log_broker(), brokers=brokers, engine=engine or config()
        ) as world:
            yield world

    async def until_received(self, world: World, number: int) -> None:
        got = 0
        try:
            async with asyncio.timeout(self.patience_s):
                while True:
                    world._progress.clear()  # before looking: what comes meanwhile is not missed
                    if (got := sum(map(len, (await self.received("")).values()))) >= number:
                        break
                    await world._progress.wait()
        except TimeoutError:
            raise AssertionError(f"received {got} of {number}: {await self.received('')}") from None

    async def sent(self, total: int = TOTAL) -> None:
        """Everything is in the log and nobody has read it; the sender is down."""
        async with self.running(self.sends, engine=SILENT) as world:
            await self.send(0, total)
            await world.settle(self.patience_s)

    async def ends_well(self, world: World, total: int = TOTAL) -> None:
        """All has taken effect once and in order, and so does what is sent now."""
        await self.until_received(world, total)
        await self.send(total, total + 8)
        await self.until_received(world, total + 8)
        await world.settle(self.patience_s)
        assert await self.received() == all_of(total + 8)

    async def kill_again_and_again(
        self, seed: int, kills: int, start: Callable[[], Awaitable[object]], within_s: float = 0.05
    ) -> list[int]:
        """Kill the server wherever it is while events are sent, and start it; all ends well. Return the counters."""
        random, sent = Random(seed), 0
        async with self.running(self.sends, self.receives) as world:
            for _ in range(kills):
                size = random.randint(20, 60)
                sending = asyncio.create_task(self.send(sent, sent + size))
                sent += size
                await asyncio.sleep(random.uniform(0.0, within_s))
                await asyncio.to_thread(self.server.kill)
                await sending  # steps commit while the broker is down
                await start()
            print(f"seed {seed}: {sent} events, {kills} kills")
            await self.ends_well(world, sent)
            return list(await self.counters(world))

    async def stand_still(self, seconds: float) -> None:
        """The server neither answers nor ends for longer than the adapter's time limit; all ends well."""
        async with self.running(self.sends, self.receives) as world:
            await self.send(0, 20)
            await self.until_received(world, 20)
            self.server.pause()
            try:
                await self.send(20, TOTAL)
                await asyncio.sleep(seconds)  # calls are given up
            finally:
                self.server.resume()
            await self.ends_well(world)

    async def opened(self) -> Broker:
        """An open broker; a server that has just started may need another moment."""
        async with asyncio.timeout(self.patience_s):
            while True:
                broker = self.log_broker()
                try:
                    await broker.open()
                    await broker.bounds("wires", 0)
                    return broker
                except BrokerUnavailable:
                    await broker.close()
                    await asyncio.sleep(0.05)

    async def events(self) -> list[Message]:
        """The events that the log holds now, ticks not counted."""
        broker = await self.opened()
        try:
            last = (await broker.bounds("wires", 0)).last
            records = await records_between(broker, "wires", 0, 0, last)
            return [each for each in records if isinstance(each, Message) and each.type != TICK]
        finally:
            await broker.close()
