"""The loops of one worker: what runs here for each lease, begun, told to stop, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Container, Iterable
from random import Random
from typing import Final

from ensue.engine.consumer import PartitionConsumer
from ensue.engine.context import Context
from ensue.engine.endings import LoopTask, ends_loop
from ensue.engine.lane import Lane
from ensue.engine.loop import Loop
from ensue.engine.outside import OutsideRuns
from ensue.engine.relay import Relay
from ensue.engine.retention import Retention
from ensue.engine.timers import Timers
from ensue.errors import EnsueError, StoreRestored
from ensue.message import Busy, Partition
from ensue.texts import logger

log = logger("ensue.worker")

#: The name of the lease under which a service's outbox is sent.
RELAY: Final = "relay"


class Loops:
    """worker: its name, for the log. refused: is called when the relay refuses the store (StoreRestored).

    outside: what sagas have called outside of transactions, which is under no lease.
    leaving: leases that are given up as soon as their loops have ended. ending: all of them; none begins any more.
    """

    def __init__(self, context: Context, worker: str, random: Random, refused: Callable[[EnsueError], None]) -> None:
        self.lanes = [Lane(context, Random(random.random())) for _ in range(context.dispatcher.definition.lanes)]
        self.outside = OutsideRuns(context)
        self.leaving: set[str] = set()
        self.ending = False
        self._context = context
        self._worker = worker
        self._random = random
        self._refused = refused
        self._running: dict[str, tuple[Running, asyncio.Task[None]]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._running)

    @property
    def consumers(self) -> tuple[PartitionConsumer, ...]:
        return tuple(each for each in self.all if isinstance(each, PartitionConsumer))

    @property
    def all(self) -> tuple[Loop, ...]:
        """Every loop that runs here, one by one."""
        found = [loop.loops if isinstance(loop, RelayAndRetention) else (loop,) for loop, _ in self._running.values()]
        return tuple(each for several in found for each in several)

    @property
    def relay(self) -> Relay | None:
        return next((each for each in self.all if isinstance(each, Relay)), None)

    @property
    def relay_trouble(self) -> str:
        """Why the relay sends nothing; empty: it does, or is another worker's. See `Relay.held` too."""
        return "" if self.relay is None else self.relay.trouble

    @property
    def busy(self) -> tuple[Busy, ...]:
        """The transactions of handlers at hand, and for how long each has been running."""
        now = self._context.clock.monotonic()
        found = ((each.since, str(each)) for each in (lane.at_hand for lane in self.lanes))
        return tuple(Busy(self._worker, now - since, what) for since, what in found if since is not None)

    def long_busy(self) -> tuple[float, str] | None:
        """The one that has been running longest, when it is so long that somebody may ask."""
        longest = max(self.busy, key=lambda each: each.running_s, default=None)
        if longest is None or longest.running_s < self._context.config.lease_ttl_s:
            return None
        return longest.running_s, longest.what

    def begin(self, name: str, *, suspect: bool) -> None:
        if self.ending or name in self.leaving:
            return
        running = self._running.get(name)
        if running is not None and not running[1].done():
            return
        loop = self._loop(name, suspect)
        self._running[name] = (loop, LoopTask(self._guard(name, loop), name=f"ensue {name}"))

    def leave(self, names: Iterable[str]) -> None:
        """Tell these loops to stop; what they are doing they finish."""
        for name in names:
            self.leaving.add(name)
            if name in self._running:
                self._running[name][0].stop()

    def left(self) -> list[str]:
        """Those of `leaving` whose loops have ended, in order."""
        return [name for name in sorted(self.leaving) if name not in self._running or self._running[name][1].done()]

    def forget(self, names: Iterable[str]) -> None:
        """These have ended, and their leases are given up."""
        for name in names:
            self.leaving.discard(name)
            self._running.pop(name, None)

    def tasks(self, names: Container[str]) -> list[asyncio.Task[None]]:
        return [task for name, (_, task) in self._running.items() if name in names]

    def is_cleared(self, name: str) -> bool:
        """Whether a loop has come past what the worker before it was at."""
        loop = self._running[name][0] if name in self._running else None
        return name == RELAY or (isinstance(loop, PartitionConsumer) and loop.suspicion is None)

    async def end(self, limit_s: float | None, give_up_s: float) -> str:
        """Tell all to stop, and wait; after limit_s (None: at once) what they are doing is cancelled, and that is
        waited for no longer than give_up_s. Return the names of those that have not ended even so."""
        self.ending = True
        self.outside.stop()
        for loop, _ in self._running.values():
            loop.stop()
        tasks = [*(task for _, task in self._running.values()), *self.outside.tasks]
        if limit_s is not None and tasks:
            await asyncio.wait(tasks, timeout=limit_s)
        if late := [task for task in tasks if not task.done()]:
            within = "at once" if limit_s is None else f"within {limit_s:g} s"
            log.error("%s: %s did not end %s; it is rolled back", self._worker, self._listed(), within)
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=give_up_s)
        if limit_s is not None:
            await self.outside.give_back(give_up_s)
        self.forget([name for name, (_, task) in self._running.items() if task.done()])
        return self._listed()

    def _listed(self) -> str:
        names = [name for name, (_, task) in self._running.items() if not task.done()]
        return ", ".join([*names, *(each.get_name() for each in self.outside.tasks)])

    def _loop(self, name: str, suspect: bool) -> Running:
        context = self._context
        if name == RELAY:
            return RelayAndRetention(context)
        topic, _, number = name.rpartition("/")
        partition = Partition(context.service, topic, int(number))
        # Topics with the same keys have them in the same partitions: what touches one entity shares a lane.
        lane = self.lanes[partition.number % len(self.lanes)]
        return PartitionConsumer(partition, context, lane, Random(self._random.random()), suspect=suspect)

    async def _guard(self, name: str, loop: Running) -> None:
        try:
            try:
                await loop.run()
            finally:
                if isinstance(loop, PartitionConsumer):
                    self._context.caught_up.leaves(loop.partition)
        except StoreRestored as error:
            self._refused(error)
            log.critical("%s", error)
        except BaseException as error:
            if not self.ending or isinstance(error, Exception):  # else it is `end` that cancels
                # The next heartbeat starts it anew.
                log.exception("%s: the loop %s ended unexpectedly", self._worker, name)
            if ends_loop(error):
                raise


class RelayAndRetention:
    """What only one worker of a service needs to do, under the relay's lease: publish, at once and later, send again,
    prune."""

    def __init__(self, context: Context) -> None:
        self.relay = Relay(context)
        self.loops: tuple[Loop, ...] = (self.relay, self.relay.resender, Retention(context), Timers(context))

    async def run(self) -> None:
        tasks = [asyncio.create_task(each.run()) for each in self.loops]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.stop()  # one that cannot go on takes the others with it
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        failed = [error for task in tasks if (error := task.exception()) is not None]
        for error in failed[1:]:  # the relay and the one that sends again may both find that the store went back
            log.error("%s", error)
        if failed:
            raise failed[0]

    def stop(self) -> None:
        for each in self.loops:
            each.stop()


#: What a lease stands for.
Running = PartitionConsumer | RelayAndRetention
