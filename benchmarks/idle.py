"""What a quiet system costs: the CPU time of the shop's three processes while nothing happens.

Some orders go through first, so that there are checkpoints, leases to renew and ticks to send; then nobody asks
anything. Counted is the user and system time of the three processes, as the operating system has it.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from uuid import uuid4

import psutil

from benchmarks.figures import Figure, Report, at_most
from benchmarks.shop_side import create_customers, place_order, shop
from benchmarks.view_watch import ViewWatch


def run(quick: bool) -> Report:
    settle_s, measure_s = (0.5, 1.0) if quick else (5.0, 20.0)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        shares = asyncio.run(_measure(Path(name), settle_s, measure_s))
    return Report(
        name="idle",
        question="How much of a core does a quiet system of three services use?",
        scale=f"{measure_s:g} s, after {settle_s:g} s of quiet.",
        bad="above 10 % of a core: a laptop's fan would tell that Ensue runs.",
        bound="a heartbeat a second and process, and each partition's look around once a second.",
        figures=(
            Figure(name="all three services", value=sum(shares.values()), unit="% of a core", goal=at_most(2)),
            *(Figure(name=name, value=share, unit="% of a core") for name, share in shares.items()),
        ),
    )


async def _measure(directory: Path, settle_s: float, measure_s: float) -> dict[str, float]:
    async with shop(directory) as (services, client):
        [customer] = await create_customers(client, services["customers"].url, 1)
        watch = ViewWatch(directory / "order_history_v1.db")
        for _ in range(20):
            order = uuid4()
            watch.await_order(order)
            await place_order(client, services["orders"].url, customer, order)
        async with asyncio.timeout(60):
            await watch.watch()
        watch.close()
        await asyncio.sleep(settle_s)
        processes = {name: psutil.Process(service.pid) for name, service in services.services.items()}
        before = {name: _cpu_s(process) for name, process in processes.items()}
        began = time.monotonic()
        await asyncio.sleep(measure_s)
        after = {name: _cpu_s(process) for name, process in processes.items()}
        elapsed = time.monotonic() - began
    return {name: (after[name] - before[name]) / elapsed * 100 for name in processes}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
