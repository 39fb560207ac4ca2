"""A service of everyday handlers in one process or several, until all that was published has taken effect."""

from __future__ import annotations

import asyncio
import multiprocessing
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

from ensue import Service
from ensue.config import EngineConfig
from ensue.engine.books import Books

LIMIT_S = 100.0

#: Processes are forked from one that has everything imported.
_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.everyday.handlers", "tests.everyday.tables"])


def engine(batch: int) -> EngineConfig:
    return EngineConfig(batch_records_max=batch, lease_ttl_s=1.0, poll_interval_s=0.1)


@asynccontextmanager
async def worked_through(
    make: Callable[..., Service], events: Iterable[tuple[Any, ...]], payments: Service, processes: int, **options: Any
) -> AsyncIterator[Service]:
    """Publish these events, those of a tuple in one step; give the service, still running, once all have taken effect.

    The first half is there when the processes start, the other one comes when each of them has partitions.

    make: a function of a module, which each process calls with `options`. Checks then that nothing was set aside or
    tried twice, and that all processes have ended as they should.
    """
    count = 0

    async def publish(some: Iterable[tuple[Any, ...]]) -> None:
        nonlocal count
        for each in some:
            async with payments.step() as step:
                for event in each:
                    step.publish(event)
                    count += 1

    events = list(events)
    async with payments.running():
        await publish(events[: len(events) // 2])
        others = [_children.Process(target=_work, args=(make, options)) for _ in range(processes - 1)]
        for other in others:
            other.start()
        try:
            service = make(**options)
            async with service.running():
                books = service.runtime.context.books
                await _until(lambda: _share(books, processes))
                await publish(events[len(events) // 2 :])
                await _until(lambda: _applied(books, count))
                letters = await books.letters()
                checkpoints = await books.checkpoints()
                yield service
        finally:
            for other in others:
                other.terminate()
                other.join(LIMIT_S)
    assert not letters, [(each.state, each.error) for each in letters]
    assert sum(each.counters.retries for each in checkpoints.values()) == 0, "a race was blamed on a message"
    assert all(other.exitcode == 0 for other in others)


def _work(make: Callable[..., Service], options: dict[str, Any]) -> None:
    """Another process of the service, until it is told to end."""

    async def run() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        async with make(**options).running():
            await ended.wait()

    asyncio.run(run())


async def _share(books: Books, processes: int) -> bool:
    return len({each.owner for each in (await books.leases()).leases if "/" in each.name}) == processes


async def _applied(books: Books, number: int) -> bool:
    return sum(each.counters.applied for each in (await books.checkpoints()).values()) >= number


async def _until(reached: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await reached():  # noqa: ASYNC110  # another process may be at work, which tells nobody here
            await asyncio.sleep(0.05)
