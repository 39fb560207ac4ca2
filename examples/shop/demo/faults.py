"""What happens to servers and lines under `--chaos`: killed, restarted, cut off, frozen; and services that stand still.

Every kind that the stack allows happens at least once, however short the replay is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

from shop.demo.stacks import Line, Stack
from shop.demo.supervisor import Supervisor

#: Between the end of one fault and the next, in seconds.
CALM_S = (0.8, 2.0)
#: How long a fault lasts, in seconds.
FAULT_S = (0.5, 2.5)
#: A service that stands still for longer than its leases last: others, or it itself later, must not do things twice.
STANDSTILL_S = 4.0

#: How long to wait for the next event before the next fault comes all the same, and how often to look, in seconds.
RECOVERY_MAX_S = 10.0
LOOK_S = 0.02

Fault = Callable[[], Awaitable[None]]


class Faults:
    """happened: how often, by kind. recovery_s: by kind, from the end of each fault until the next order was OPEN.

    opened: how many of the orders that are followed have been OPEN so far.
    """

    def __init__(self, stack: Stack, supervisor: Supervisor, random: Random, opened: Callable[[], int]) -> None:
        self.happened: Counter[str] = Counter()
        self.recovery_s: dict[str, list[float]] = {}
        self._opened = opened
        self._supervisor = supervisor
        self._random = random
        self._kinds: dict[str, Fault] = {"service stands still": self._standstill}
        for line in stack.lines:
            self._kinds |= self._of(line, line in stack.brokers, line in stack.stores)

    def _of(self, line: Line, broker: bool, store: bool) -> dict[str, Fault]:
        role = f"{line.name} ({' and '.join(['broker'] * broker + ['database'] * store)})"
        return {
            f"{role} killed": lambda: self._kill(line),
            f"{role} restarted": lambda: self._restart(line),
            f"{role} cut off": lambda: self._cut(line),
            f"{role} frozen": lambda: self._freeze(line),
        }

    async def run(self, enough: asyncio.Event) -> None:
        """Go on until `enough` is set and each kind has happened; then everything is up and reachable again."""
        while True:
            kinds = list(self._kinds)
            for kind in self._random.sample(kinds, len(kinds)):
                if enough.is_set() and self.happened[kind]:
                    continue
                await asyncio.sleep(self._random.uniform(*CALM_S))
                await self._kinds[kind]()
                self.happened[kind] += 1
                if not enough.is_set():
                    await self._recovery(kind, enough)
            if enough.is_set():
                return

    async def _recovery(self, kind: str, enough: asyncio.Event) -> None:
        began = time.monotonic()
        if await recovered(self._opened, enough):
            self.recovery_s.setdefault(kind, []).append(time.monotonic() - began)

    async def _kill(self, line: Line) -> None:
        line.server.kill()
        await asyncio.sleep(self._random.uniform(*FAULT_S))
        line.server.spawn()
        await line.server.ready()

    async def _restart(self, line: Line) -> None:
        await asyncio.to_thread(line.server.stop)
        line.server.spawn()
        await line.server.ready()

    async def _cut(self, line: Line) -> None:
        await line.proxy.cut()
        await asyncio.sleep(self._random.uniform(*FAULT_S))
        line.proxy.heal()

    async def _freeze(self, line: Line) -> None:
        line.proxy.freeze()
        await asyncio.sleep(self._random.uniform(*FAULT_S))
        line.proxy.heal()

    async def _standstill(self) -> None:
        service = self._random.choice(list(self._supervisor))
        service.pause()
        await asyncio.sleep(STANDSTILL_S)
        service.resume()


async def recovered(opened: Callable[[], int], enough: asyncio.Event) -> bool:
    """Wait until another order is OPEN; not for ever, since other things go down meanwhile. Return whether one is."""
    began, before = time.monotonic(), opened()
    while not enough.is_set() and time.monotonic() - began < RECOVERY_MAX_S:
        if opened() > before:
            return True
        await asyncio.sleep(LOOK_S)
    return False
