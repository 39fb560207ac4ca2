"""Chaos kills services again and again, and still leaves each of them time to do something."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import cast

from shop.demo.chaos import Chaos
from shop.demo.supervisor import Supervisor

#: How long a start takes, and how long a service must then live until it gets anything done: a machine that is slow.
START_S = 0.3
WORK_S = 0.15


class SlowService:
    """Stands in for a process: it listens some time after its start, and gets something done some time after that."""

    def __init__(self, killed: Callable[[], None]) -> None:
        self._killed = killed
        self.lives = 1
        self.running = True
        self.done = 0
        self._started_at = asyncio.get_running_loop().time()

    @property
    def _age_s(self) -> float:
        return asyncio.get_running_loop().time() - self._started_at

    async def listening(self) -> bool:
        return self._age_s > START_S

    async def kill(self) -> None:
        self.done += self._age_s > START_S + WORK_S
        self._killed()

    async def start(self) -> None:
        self.lives += 1
        self._started_at = asyncio.get_running_loop().time()


class Services:
    """enough: set when each has got something done in two lives."""

    def __init__(self) -> None:
        self.enough = asyncio.Event()
        self.services = {name: SlowService(self._look) for name in ("orders", "customers", "order_history")}

    def __getitem__(self, name: str) -> SlowService:
        return self.services[name]

    def _look(self) -> None:
        if all(each.done >= 2 for each in self.services.values()):
            self.enough.set()


async def test_services_whose_start_takes_longer_than_the_pause_between_kills_still_get_something_done() -> None:
    services = Services()
    chaos = Chaos(cast(Supervisor, services), Random(1), interval_s=(0.01, 0.03))
    async with asyncio.timeout(60):
        await chaos.run(services.enough)
    assert set(chaos.kills) == set(services.services)
