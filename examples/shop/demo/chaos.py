"""Kills a random service every second or so, with SIGKILL, and starts it again.

On a machine where a start takes longer than that, not before as much time has passed as the last start took: services
that are always killed just as they begin to work would show nothing but that. Where servers go down as well, or where
an order needs every service until it is opened, one must have been opened since the last kill: a machine that needs
longer to come back than the kills are apart would never get anything done.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from random import Random

from shop.demo.faults import LOOK_S, recovered
from shop.demo.supervisor import ServiceProcess, Supervisor

INTERVAL_S = (0.7, 1.5)
#: Where servers go down as well: a service that starts must find some of them up.
INTERVAL_WITH_SERVERS_S = (2.5, 5.0)
#: How often a service that is still starting is spared. Not always: that is a moment to be killed at too. After that
#: it may finish its next start: on a machine where a start takes longer than the time between kills, nothing would
#: ever get done.
SPARED = 0.75


class Chaos:
    """kills: by service. while_starting: how many of them hit a service that was still starting.

    opened: how many orders have been OPEN so far, where that is waited for.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        random: Random,
        interval_s: tuple[float, float] = INTERVAL_S,
        opened: Callable[[], int] | None = None,
    ) -> None:
        self.kills: Counter[str] = Counter()
        self.while_starting = 0
        self._supervisor = supervisor
        self._random = random
        self._opened = opened
        self._interval_s = interval_s
        self._killed_at_start: set[str] = set()
        self._start_s = 0.0

    async def run(self, enough: asyncio.Event) -> None:
        """Go on until `enough` is set; then every service is running, or starting, again."""
        async with asyncio.TaskGroup() as starts:
            while not enough.is_set():
                try:
                    pause_s = max(self._random.uniform(*self._interval_s), self._start_s)
                    await asyncio.wait_for(enough.wait(), pause_s)
                except TimeoutError:
                    if killed := await self._kill_one():
                        starts.create_task(self._measure(killed, killed.lives))
                        if self._opened is not None:
                            await recovered(self._opened, enough)

    async def _measure(self, service: ServiceProcess, life: int) -> None:
        """Note how long this life takes to begin, if it gets that far."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while service.running and service.lives == life:
            if await service.listening():
                self._start_s = loop.time() - began
                return
            await asyncio.sleep(LOOK_S)

    async def _kill_one(self) -> ServiceProcess | None:
        """Kill and start one; return it, or None where all are still starting and are spared."""
        names = list(self._supervisor.services)
        for name in self._random.sample(names, len(names)):
            service = self._supervisor[name]
            starting = not await service.listening()
            if not starting:
                self._killed_at_start.discard(name)
            elif name in self._killed_at_start or self._random.random() < SPARED:
                continue
            else:
                self._killed_at_start.add(name)
            await service.kill()
            self.kills[name] += 1
            self.while_starting += starting
            await service.start()
            return service
        return None
