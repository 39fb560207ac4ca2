"""One process of a service that several processes run together; `scale_out` starts them.

`python -m benchmarks.scale_child DATABASE BROKER WHERE`: prints `open` when its connections stand, begins to work when
it reads a line, and stops when its input ends. WHERE `elsewhere`: it goes by a name as on another machine, so nobody
can see by its pid that it is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.child import environment
from benchmarks.ensue_side import make_service
from ensue.adapters import make_broker, make_store
from ensue.config import EngineConfig, Settings
from ensue.engine.runtime import Runtime
from ensue.engine.worker import Worker, worker_name

PARTITIONS = 12


async def work(database: str, broker: str, where: str) -> None:
    service = make_service()
    engine = EngineConfig(relay_save_interval_s=0.1)  # the parent looks at it to see that all is sent
    settings = Settings(database=database, broker=broker, partitions=PARTITIONS, engine=engine)
    runtime = Runtime(service, make_store(database, service.name), make_broker(broker), settings, tables=service.tables)
    await runtime.start(work=False)
    worker = Worker(runtime.context, f"machine-{os.getpid()}:{worker_name()}" if where == "elsewhere" else None)
    try:
        print("open", flush=True)
        if await asyncio.to_thread(sys.stdin.readline):
            await worker.start()
            await asyncio.to_thread(sys.stdin.readline)
    finally:
        await worker.stop()
        await runtime.stop()


Child = subprocess.Popen[str]


def start(database: str, broker: str, where: str = "here") -> Child:
    """Start a process; `opened` waits until it has its connections, `tell` lets it begin."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.scale_child", database, broker, where],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def opened(child: Child) -> None:
    assert child.stdout is not None
    if child.stdout.readline() != "open\n":
        raise RuntimeError(f"a process of the service ended with status {child.wait()}; see its errors above")


def tell(child: Child) -> None:
    assert child.stdin is not None
    child.stdin.write("begin\n")
    child.stdin.flush()


def end(child: Child, *, kill: bool = False) -> None:
    """Let it stop in order, or kill it; return when it is gone."""
    assert child.stdin is not None
    assert child.stdout is not None
    if kill:
        child.kill()
    child.stdin.close()
    child.wait(timeout=30)
    child.stdout.close()


@contextmanager
def processes(database: str, broker: str, count: int) -> Iterator[list[Child]]:
    """So many processes with open connections, stopped at the end."""
    running = [start(database, broker) for _ in range(count)]
    try:
        for each in running:
            opened(each)
        yield running
    finally:
        for each in running:
            end(each)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    asyncio.run(work(*sys.argv[1:]))
