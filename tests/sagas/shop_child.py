"""The whole shop in a process of its own, which dies where it is told to. Its provider is elsewhere, over HTTP."""

from __future__ import annotations

import asyncio
import multiprocessing
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.faults.ring import QUICK
from tests.sagas.book import Remote
from tests.sagas.shop import Place, Shop

from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime

TOTAL, UNDONE_EVERY, LIMIT_S = 9, 3, 60.0

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.sagas.shop_child"])


def begun(directory: Path, provider: str, fault: str = "") -> Any:
    """A process that starts sagas, whichever lives or has ended already, and ends when all have. fault:
    `service:point:n`, where it dies before."""
    process = _children.Process(target=_run, args=(directory, provider, fault))
    process.start()
    return process


def ended(process: Any) -> int:
    """Its exit code."""
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {LIMIT_S} s")
    return int(process.exitcode)


def _run(directory: Path, provider: str, fault: str) -> None:
    asyncio.run(_live(directory, provider, fault))


async def _live(directory: Path, provider: str, fault: str) -> None:
    shop = Shop(Remote(provider), limit_s=1.0)
    victim, _, point = fault.partition(":")
    async with AsyncExitStack() as stack:
        for name, service in shop.services.items():
            runtime = Runtime(
                service, make_store(f"sqlite:///{directory}/{name}.db", name),
                EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
                Settings(database="", broker="", partitions=2, engine=QUICK), tables=service.tables,
                faults=Faults(point if name == victim else ""),
            )  # fmt: skip
            await stack.enter_async_context(service.running(runtime))
        async with shop.sales.step() as step:
            for number in range(1, TOTAL + 1):
                order = Place(f"o-{number}", customer=f"c-{number % 2}", changes_mind=number % UNDONE_EVERY == 0)
                step.start(shop.place, order, id=order.order)
        for number in range(1, TOTAL + 1):
            end = await shop.sales.ended(shop.place, f"o-{number}", timeout=LIMIT_S)
            assert end.status == ("COMPLETED" if number % UNDONE_EVERY else "UNDONE"), (number, end)
