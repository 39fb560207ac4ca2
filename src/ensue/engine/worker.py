"""A worker: one process's share of a service. Keeps its leases alive and runs a loop for each.

Several workers of one service share its partitions; a worker that dies loses its leases after `lease_ttl_s`, or at
once when it was a process of this machine that is gone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Iterable
from random import Random
from typing import Protocol

from ensue.engine.consumer import PartitionConsumer
from ensue.engine.context import Context
from ensue.engine.endings import LoopTask, ends_loop
from ensue.engine.lane import Lane
from ensue.engine.leases import fair_share, until_next
from ensue.engine.loop import Loop
from ensue.engine.relay import Relay
from ensue.engine.retention import Retention
from ensue.errors import RetryableError, StoreRestored, UsageError
from ensue.message import LeaseTable, Partition

log = logging.getLogger("ensue.worker")

RELAY = "relay"


class Running(Protocol):
    """What a lease stands for."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


class Worker:
    """Runs relay and consumers of one service in this process. start, ready, stop; each safe to repeat.

    failed: set when it cannot go on (StoreRestored: the relay refuses); its text tells an operator what to do.
    """

    def __init__(self, context: Context, name: str | None = None) -> None:
        self.name = name or worker_name()
        self.failed: UsageError | None = None
        self._context = context
        self._random = Random(context.random.random())
        lanes = context.dispatcher.definition.lanes
        self._lanes = [Lane(context, Random(self._random.random())) for _ in range(lanes)]
        self._loops: dict[str, tuple[Running, asyncio.Task[None]]] = {}
        self._beating: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._failing = asyncio.Event()
        topics = context.dispatcher.definition.subscribed_topics
        self._handles = {topic: sorted(context.dispatcher.definition.wanted(topic)) for topic in topics}
        self._names = [f"{topic}/{number}" for topic in topics for number in range(context.partitions)]

    async def start(self) -> None:
        """Begin to work. Raises UsageError when the store cannot be written at all: trying again would not help."""
        if self._beating is None:
            try:
                await self._context.books.heartbeat(self.name, self._context.config.lease_ttl_s, handles=self._handles)
            except RetryableError as error:
                log.warning("%s: no heartbeat: %s", self.name, error)
            self._beating = asyncio.create_task(self._beat_forever(), name=f"ensue {self._context.service} worker")

    async def ready(self) -> None:
        """Return when this worker has its first leases and its loops run."""
        await self._ready.wait()

    @property
    def is_ready(self) -> bool:
        """Whether `ready` would return at once."""
        return self._ready.is_set()

    async def wait_failed(self) -> None:
        """Return when `failed` is set."""
        await self._failing.wait()

    def fail(self, error: UsageError) -> None:
        """Note that this worker cannot go on until an operator has acted."""
        self.failed = error
        self._failing.set()

    @property
    def holds(self) -> tuple[str, ...]:
        return tuple(self._loops)

    @property
    def consumers(self) -> tuple[PartitionConsumer, ...]:
        return tuple(loop for loop, _ in self._loops.values() if isinstance(loop, PartitionConsumer))

    @property
    def relay(self) -> Relay | None:
        """The relay, when this worker runs it."""
        held = self._loops.get(RELAY)
        return held[0].relay if held is not None and isinstance(held[0], RelayAndRetention) else None

    async def stop(self) -> None:
        """Finish the batches at hand, or roll them back after config.stop_limit_s; then give the leases up."""
        if self._beating is None:
            return
        beating, self._beating = self._beating, None
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await self._end(list(self._loops), self._context.config.stop_limit_s)
        try:
            await self._context.books.resign(self.name)
        except RetryableError as error:
            log.info("%s: leases are not given up (%s); they end by themselves", self.name, error)

    # ---------------------------------------------------------------------------------------------------- heartbeats

    async def _beat_forever(self) -> None:
        context = self._context
        while True:
            pause = context.config.lease_ttl_s / 3
            try:
                pause = until_next(await self._beat(), self.name, pause)
                self._ready.set()
            except RetryableError as error:
                log.warning("%s: no heartbeat: %s", self.name, error)
            except BaseException as error:
                if ends_loop(error):
                    raise
                log.exception("%s: unexpected in the heartbeat; going on", self.name)
            await context.clock.sleep(pause)

    async def _beat(self) -> LeaseTable:
        """Live on, and come nearer to a fair share: by what holds now, since an old table moves what need not move.

        Returns who holds what afterwards.
        """
        books, ttl_s = self._context.books, self._context.config.lease_ttl_s
        table = await self._without_dead(await books.heartbeat(self.name, ttl_s, handles=self._handles))
        wish = fair_share(self._names, table, self.name)
        held = {lease.name: lease.owner for lease in table.leases}
        refused = self.failed is not None  # another worker may try: it may see what this one did not
        acquire = [*wish.acquire, *([RELAY] if RELAY not in held and not refused else ())]
        release = [*wish.release, *([RELAY] if held.get(RELAY) == self.name and refused else ())]
        if acquire or release:
            await self._end(release)
            table = await books.heartbeat(self.name, ttl_s, acquire, release)
        self._context.faults.point("lease.beaten")
        mine = {lease.name for lease in table.leases if lease.owner == self.name}
        await self._end([name for name in self._loops if name not in mine])
        for name in sorted(mine):
            self._begin(name)
        return table

    async def _without_dead(self, table: LeaseTable) -> LeaseTable:
        """Resign for killed processes of this machine, whose leases nobody will renew; return what is left."""
        gone = {name for name in (*table.workers, *(each.owner for each in table.leases)) if is_gone(name)}
        for owner in sorted(gone):
            log.info("%s: %s is gone; taking over", self.name, owner)
        return await self._context.books.resign(*gone) if gone else table

    # --------------------------------------------------------------------------------------------------------- loops

    def _begin(self, name: str) -> None:
        running = self._loops.get(name)
        if running is not None and not running[1].done():
            return
        loop = self._loop(name)
        self._loops[name] = (loop, LoopTask(self._guard(name, loop), name=f"ensue {name}"))

    def _loop(self, name: str) -> Running:
        context = self._context
        if name == RELAY:
            return RelayAndRetention(context)
        topic, _, number = name.rpartition("/")
        partition = Partition(context.service, topic, int(number))
        # Topics with the same keys have them in the same partitions: what touches one entity shares a lane.
        lane = self._lanes[partition.number % len(self._lanes)]
        return PartitionConsumer(partition, context, lane, Random(self._random.random()))

    async def _guard(self, name: str, loop: Running) -> None:
        try:
            await loop.run()
        except StoreRestored as error:
            self.fail(error)
            log.critical("%s", error)
        except BaseException as error:
            if self._beating is not None or isinstance(error, Exception):  # else it is `stop` that cancels
                # The next heartbeat starts it anew.
                log.exception("%s: the loop %s ended unexpectedly", self.name, name)
            if ends_loop(error):
                raise

    async def _end(self, names: Iterable[str], limit_s: float | None = None) -> None:
        """Stop these loops and wait until they have ended; after limit_s what they are doing is cancelled."""
        ending = {name: self._loops[name] for name in names if name in self._loops}
        for loop, _ in ending.values():
            loop.stop()
        if ending:
            tasks = {task: name for name, (_, task) in ending.items()}
            _, late = await asyncio.wait(tasks, timeout=limit_s)
            for task in late:
                log.error("%s: %s did not end within %g s; it is rolled back", self.name, tasks[task], limit_s)
                task.cancel()
            if late:
                await asyncio.wait(late)
        for name in ending:  # only now: a stop that comes while a heartbeat waits here must wait for them too
            self._loops.pop(name, None)


class RelayAndRetention:
    """What only one worker of a service needs to do, under the relay's lease: publish, send again, prune."""

    def __init__(self, context: Context) -> None:
        self.relay = Relay(context)
        self._loops: tuple[Loop, ...] = (self.relay, self.relay.resender, Retention(context))

    async def run(self) -> None:
        tasks = [asyncio.create_task(each.run()) for each in self._loops]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            self.stop()  # one that cannot go on takes the others with it
            await asyncio.wait(tasks)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            raise
        for task in tasks:
            task.result()

    def stop(self) -> None:
        for each in self._loops:
            each.stop()


def worker_name() -> str:
    """`<machine>:<pid>:<random>`; the machine part differs between containers that have pids of their own."""
    return f"{_machine()}:{os.getpid()}:{secrets.token_hex(4)}"


def is_gone(worker: str) -> bool:
    """Whether `worker` was a process of this machine that no longer runs."""
    machine, _, rest = worker.rpartition(":")[0].rpartition(":")
    if machine != _machine() or not rest.isdigit() or int(rest) == os.getpid():
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _machine() -> str:
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}-{namespace:x}"
