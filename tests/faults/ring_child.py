"""A child process that runs services of a ring, and dies where it is told to."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import multiprocessing
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.ring import QUICK, SERVICES, Ring
from tests.faults.ring_checks import counts
from tests.unit.engine.schemas import SCHEMAS

from ensue.brokers.embedded import EmbeddedBroker
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.ports import Entry
from ensue.testing import World

#: Processes are forked from one that has everything imported: 20 ms instead of 800.
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.ring_child"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orders:
    """What a child is told. fault: see `Ring`. lose: alpha's every so-manieth record never reaches the log at first.

    linger_s: how long to go on when all is done, for what happens in quiet only. serve: run until SIGTERM.
    in_turn: place the next number when the last one has come round, with nobody ever looking unasked.
    stop_at: `point:n`, where the process stops itself with SIGSTOP. log: a file for what is logged. schema: of Ensue's
    tables that its Ensue works with.
    """

    directory: Path
    total: int
    services: Sequence[str] = SERVICES
    fault: str = ""
    lose: int = 0
    batch: int = QUICK.batch_records_max
    linger_s: float = 0.0
    serve: bool = False
    in_turn: bool = False
    stop_at: str = ""
    schema: int = 1
    log: str = ""


class LosingBroker(EmbeddedBroker):
    """Says that it has appended everything, and has not: once for every `lose`-th position. Resends go through."""

    def __init__(self, url: str, lose: int) -> None:
        super().__init__(url)
        self._lose = lose
        self._lost: set[int] = set()

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        kept: dict[tuple[str, int], list[Entry]] = {}
        for where, entries in batches.items():
            kept[where] = [each for each in entries if not self._loses(each)]
        await super().append_many(source, {where: entries for where, entries in kept.items() if entries})

    def _loses(self, entry: Entry) -> bool:
        position = entry.position
        if position == entry.previous or position % self._lose or position in self._lost:
            return False
        self._lost.add(position)
        return True


def start(orders: Orders) -> BaseProcess:
    process = _children.Process(target=_run, args=(orders,))
    process.start()
    return process


def run(orders: Orders, timeout_s: float = 30.0) -> int:
    """Run a child to its end and return its exit code: -9 when it was killed."""
    process = start(orders)
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {timeout_s} s: {orders}: {counts(orders.directory)}")
    return process.exitcode


class StopsItself(Faults):
    """At the named point the process stops, as if the machine had forgotten it, until somebody sends SIGCONT."""

    __slots__ = ()

    def point(self, name: str) -> None:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGSTOP)


def _run(orders: Orders) -> None:
    if orders.log:
        logging.basicConfig(filename=orders.directory / orders.log, level=logging.INFO, force=True)
    asyncio.run(_serve(orders) if orders.serve else _live(orders))


async def _serve(orders: Orders) -> None:
    """Run the services until SIGTERM; with a total, place numbers up to it meanwhile."""
    engine = dataclasses.replace(QUICK, batch_records_max=orders.batch)
    if orders.in_turn:
        engine = dataclasses.replace(engine, poll_interval_s=3600.0, tick_first_s=3600.0, tick_max_s=3600.0)
    ring = Ring(orders.directory, orders.fault, engine)
    progress = asyncio.Event()
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with AsyncExitStack() as stack:
        for name in orders.services:
            own = LosingBroker(f"sqlite:///{orders.directory}/broker.db", orders.lose) if orders.lose else None
            runtime = ring.runtime(name, own, progress=progress.set, schema=SCHEMAS[orders.schema])
            if orders.stop_at:
                runtime.context = dataclasses.replace(runtime.context, faults=StopsItself(orders.stop_at))
            await stack.enter_async_context(ring.service(name).running(runtime))
        while orders.total and not ended.is_set() and await ring.placed() < orders.total:
            await ring.place_next()
            while orders.in_turn and await ring.settled() < await ring.placed():
                progress.clear()
                if await ring.settled() < await ring.placed():
                    await progress.wait()
        await ended.wait()


def _both(progress: asyncio.Event, world: World) -> None:
    progress.set()
    world.progressed()


async def _live(orders: Orders) -> None:
    """Place numbers until there are enough, then wait until everything has taken effect everywhere."""
    ring = Ring(orders.directory, orders.fault, dataclasses.replace(QUICK, batch_records_max=orders.batch))
    url = f"sqlite:///{orders.directory}/broker.db"
    async with AsyncExitStack() as stack:
        broker = EmbeddedBroker(url)
        await broker.open()
        stack.push_async_callback(broker.close)
        progress = asyncio.Event()
        world = World(broker)
        for name in orders.services:
            own = LosingBroker(url, orders.lose) if orders.lose and name == "alpha" else None
            runtime: Runtime = ring.runtime(
                name, own, progress=lambda: _both(progress, world), schema=SCHEMAS[orders.schema]
            )
            world.runtimes[name] = runtime
            await stack.enter_async_context(ring.service(name).running(runtime))
        while await ring.placed() < orders.total:
            await ring.place_next()
        while True:
            progress.clear()
            await world.settle(20.0)
            if set(counts(orders.directory).values()) == {orders.total}:
                break
            await asyncio.wait_for(progress.wait(), 20.0)  # a lost last record: quiet, until the next tick
        await asyncio.sleep(orders.linger_s)
