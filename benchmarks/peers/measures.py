"""The three measures of one side: latency, throughput, backlog drain."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import Sequence
from statistics import median

from servers import NatsServer, PostgresServer

from benchmarks.latency import percentile
from benchmarks.peers.ground import customer_id
from benchmarks.peers.stage import Child, Stage, stage

RATE = 50.0
WARM_UP = 50


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """drain: part of a side's backlog. fast_s: how long a producer produces. paced: orders of the latency measure."""

    drain: float
    fast_s: float
    paced: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """drained: events. drain_s: until the last one took effect. drain_us: processor time of everything that takes part,
    µs an event. raw, through: events/s of the producer alone, and end
    to end. p50_ms, p99_ms: from right before the commit until the effect is visible."""

    drained: int
    drain_s: float
    drain_us: float
    raw: float
    through: float
    p50_ms: float
    p99_ms: float

    @property
    def drain(self) -> float:
        return self.drained / self.drain_s

    @property
    def ratio(self) -> float:
        return self.through / self.raw


async def measure(side: str, backlog: int, postgres: PostgresServer, nats: NatsServer, sizes: Sizes) -> Round:
    """All on one ground: latency, then throughput, then the producer alone, whose orders are the drain's backlog."""
    async with stage(side, postgres, nats) as ground:
        producer = await ground.start("produce")
        workers = await started(ground)
        begin(workers)
        # Placed one by one: a consumer that has just begun may take a while to become quick.
        await producer.ask({"paced": RATE, "count": WARM_UP, "start": time.monotonic(), "first": 0})
        placed = WARM_UP
        await ground.wait_for(placed)

        start = time.monotonic() + 0.2
        watching = asyncio.ensure_future(watch(ground, start, placed, sizes.paced))
        done = await producer.ask({"paced": RATE, "count": sizes.paced, "start": start, "first": placed})
        seconds = [at - stamp for at, stamp in zip(await watching, done["stamps"], strict=True)]
        placed += sizes.paced

        await ground.checkpoint()
        done = await producer.ask({"fast": sizes.fast_s, "first": placed})
        placed += done["count"]
        through = done["count"] / (await ground.wait_for(placed, every_s=0.005) - done["began"])
        for worker in workers:
            await worker.stop()

        await ground.checkpoint()
        done = await producer.ask({"fast": sizes.fast_s, "first": placed})
        raw = done["count"] / (done["ended"] - done["began"])
        drained = max(done["count"], int(backlog * sizes.drain))
        if more := drained - done["count"]:
            await producer.ask({"fill": more, "first": placed + done["count"]})
        placed += drained
        await ground.checkpoint()
        workers = await started(ground)
        before, began = ground.processor_s(), time.monotonic()
        begin(workers)
        ended = await ground.wait_for(placed)
        processor_us = (ground.processor_s() - before) / drained * 1e6
        await ground.check(placed)
    return Round(
        drained=drained,
        drain_s=ended - began,
        drain_us=processor_us,
        raw=raw,
        through=through,
        p50_ms=median(seconds) * 1e3,
        p99_ms=percentile(seconds, 99) * 1e3,
    )


async def started(ground: Stage) -> list[Child]:
    """Relay and consumer, with all they import, not yet at work."""
    return list(await asyncio.gather(ground.start("relay"), ground.start("consume")))


def begin(workers: Sequence[Child]) -> None:
    for worker in workers:
        worker.tell({})


async def watch(ground: Stage, start: float, first: int, count: int) -> list[float]:
    """When (monotonic, s) the effect of each order was seen; looks only while one is due, each 0.2 ms and less often
    the longer it takes, so that watching a slow side does not take the processor from it."""
    changes = {row["id"]: row["changes"] for row in await ground.consumer.fetch("SELECT id, changes FROM customers")}
    look = await ground.consumer.prepare("SELECT id, changes FROM customers WHERE id = ANY($1)")
    seen: list[float] = [math.nan] * count
    waiting: dict[str, list[int]] = {}
    number = 0
    while number < count or waiting:
        now = time.monotonic()
        while number < count and start + number / RATE <= now:
            waiting.setdefault(customer_id(first + number), []).append(number)
            number += 1
        if not waiting:
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
            continue
        rows = await look.fetch(list(waiting))
        now = time.monotonic()
        for row in rows:
            while changes[row["id"]] < row["changes"]:
                changes[row["id"]] += 1
                seen[waiting[row["id"]].pop(0)] = now
            if not waiting[row["id"]]:
                del waiting[row["id"]]
        if waiting:
            oldest = now - start - min(min(numbers) for numbers in waiting.values()) / RATE
            if oldest > 120:
                raise TimeoutError(f"{ground.side}: an order has had no effect for two minutes")
            await asyncio.sleep(min(0.01, max(0.0002, oldest / 50)))
    return seen
