"""A service in a process of its own that has nothing to do: how long its start took, and what it costs at rest."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import psutil

from benchmarks.child import environment
from benchmarks.figures import Figure, at_most

LIMIT_S = 300


class Rest(NamedTuple):
    """A service that has nothing to do. cpu: percent of a core."""

    start_s: float
    megabytes: float
    cpu: float


@asynccontextmanager
async def child(module: str, url: str, broker: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """`python -m MODULE URL BROKER`, which ends when its input does."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        url,
        broker,
        env=environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=1 << 26,
    )
    try:
        yield process
        assert process.stdin is not None
        process.stdin.close()
        async with asyncio.timeout(LIMIT_S):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def told(process: asyncio.subprocess.Process) -> list[float]:
    """The next line of numbers that it says."""
    assert process.stdout is not None
    async with asyncio.timeout(LIMIT_S):
        line = await process.stdout.readline()
    if not line:
        raise RuntimeError("the service of the benchmark has ended, see what it wrote above")
    found: list[float] = json.loads(line)
    return found


async def rest(process: asyncio.subprocess.Process, quiet_s: float) -> Rest:
    """It says first how many seconds its start took; then it is looked at for so long."""
    [start_s] = await told(process)
    await asyncio.sleep(quiet_s / 4)  # what a start leaves to be done
    seen = psutil.Process(process.pid)
    before, began = seen.cpu_times(), time.monotonic()
    await asyncio.sleep(quiet_s)
    after, elapsed = seen.cpu_times(), time.monotonic() - began
    used = after.user - before.user + after.system - before.system
    return Rest(start_s, seen.memory_info().rss / 1e6, used / elapsed * 100)


def figures_of(name: str, empty: Rest, full: Rest, waits: str) -> list[Figure]:
    """waits: what a start with all of them is called."""
    more = full.megabytes - empty.megabytes
    return [
        Figure(name=f"{name}: start with all {waits}", value=full.start_s, unit="s", goal=at_most(5)),
        Figure(name=f"{name}: start with none", value=empty.start_s, unit="s"),
        Figure(name=f"{name}: memory more than with none", value=more, unit="MB", goal=at_most(10)),
        Figure(name=f"{name}: processor at rest, all {waits}", value=full.cpu, unit="% of a core", goal=at_most(2)),
        Figure(name=f"{name}: processor at rest, none", value=empty.cpu, unit="% of a core"),
    ]
