"""Kills a random service every second or so, with SIGKILL, and starts it again."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

from shop.demo.supervisor import Supervisor

INTERVAL_S = (0.7, 1.5)


class Chaos:
    """kills: by service."""

    def __init__(self, supervisor: Supervisor, random: Random) -> None:
        self.kills: Counter[str] = Counter()
        self._supervisor = supervisor
        self._random = random

    async def run(self, enough: asyncio.Event) -> None:
        """Go on until `enough` is set; then every service is running, or starting, again."""
        names = list(self._supervisor.services)
        while not enough.is_set():
            try:
                await asyncio.wait_for(enough.wait(), self._random.uniform(*INTERVAL_S))
            except TimeoutError:
                service = self._supervisor[self._random.choice(names)]
                await service.kill()
                self.kills[service.name] += 1
                await service.start()
