"""From POST /orders until the order is OPEN in order_history, at 50 orders a second.

The shop's three services are processes of their own, on embedded defaults, all with this one on the machine's cores.
Orders are sent when they are due, whether or not earlier ones are answered (an open loop), each for one of 50
customers. The clock of an order starts when it is due to be sent, before its request, and stops when `view_watch` sees
it. In between lie HTTP and four commits, each with an fsync, in three processes, and three passages through the log.
"""

from __future__ import annotations

import asyncio
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from uuid import uuid4

from benchmarks.figures import Figure, Report, at_most
from benchmarks.shop_side import create_customers, place_order, shop
from benchmarks.view_watch import ViewWatch

RATE = 50.0
_ENOUGH_S = 120.0


def run(quick: bool) -> Report:
    count, warm_up = (15, 5) if quick else (1_500, 100)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        milliseconds = asyncio.run(_measure(Path(name), count, warm_up))
    return Report(
        name="latency",
        question="How long does it take from POST /orders until the order is OPEN in the view of another service?",
        scale=f"{count:,} orders at {RATE:g} a second, after {warm_up} that do not count.",
        bad="p99 above 250 ms: a person notices, and every client would need to poll or wait.",
        bound="four commits with fsync one after the other, and three processes that share two cores.",
        figures=(
            Figure(name="p50", value=percentile(milliseconds, 50), unit="ms", goal=at_most(20)),
            Figure(name="p90", value=percentile(milliseconds, 90), unit="ms"),
            Figure(name="p99", value=percentile(milliseconds, 99), unit="ms", goal=at_most(80)),
            Figure(name="longest", value=max(milliseconds), unit="ms"),
        ),
    )


async def _measure(directory: Path, count: int, warm_up: int) -> list[float]:
    async with shop(directory) as (services, client):
        customers = await create_customers(client, services["customers"].url, 50)
        watch = ViewWatch(directory / "order_history_v1.db")
        orders = [uuid4() for _ in range(warm_up + count)]
        due: list[float] = []
        for order in orders:
            watch.await_order(order)
        watching = asyncio.create_task(watch.watch())
        begin = time.monotonic() + 0.1
        async with asyncio.timeout(_ENOUGH_S), asyncio.TaskGroup() as group:
            for number, order in enumerate(orders):
                due.append(begin + number / RATE)
                await asyncio.sleep(due[-1] - time.monotonic())
                customer = customers[number % len(customers)]
                group.create_task(place_order(client, services["orders"].url, customer, order))
            await watching
        watch.close()
    return [(watch.open_at(order) - at) * 1000 for order, at in zip(orders, due, strict=True)][warm_up:]


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(math.ceil(len(ordered) * percent / 100) - 1, 0)]
