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
from collections.abc import Callable, Container, Iterable, Sequence
from random import Random
from typing import Protocol

from ensue.engine.at_hand import AtHand
from ensue.engine.consumer import PartitionConsumer
from ensue.engine.context import Context
from ensue.engine.endings import LoopTask, ends_loop
from ensue.engine.lane import Lane
from ensue.engine.leases import fair_share, until_next
from ensue.engine.loop import Loop
from ensue.engine.relay import Relay
from ensue.engine.retention import Retention
from ensue.engine.watch import Watch
from ensue.errors import EnsueError, HandlerHung, RetryableError, StoreRestored
from ensue.message import Busy, LeaseTable, Message, Partition

log = logging.getLogger("ensue.worker")

RELAY = "relay"
#: How long a stop waits for what was cancelled and does not end, and for a database that does not answer.
_GIVE_UP_S = 2.0


class Running(Protocol):
    """What a lease stands for."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


class Worker:
    """Runs relay and consumers of one service in this process. start, ready, stop; each safe to repeat.

    failed: set when it cannot go on (StoreRestored: the relay refuses; HandlerHung: it has given its leases up and
    works no more); its text tells an operator what to do. when_hung: is called, in another thread, when a handler
    hangs: the event loop may hang with it.
    """

    def __init__(self, context: Context, name: str | None = None) -> None:
        self.name = name or worker_name()
        self.failed: EnsueError | None = None
        self.when_hung: Callable[[], None] = lambda: None
        self._context = context
        self._random = Random(context.random.random())
        lanes = context.dispatcher.definition.lanes
        self._lanes = [Lane(context, Random(self._random.random())) for _ in range(lanes)]
        self._loops: dict[str, tuple[Running, asyncio.Task[None]]] = {}
        self._leaving: set[str] = set()  # leases that are given up as soon as their loops have ended
        self._beating: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        at_hand = [lane.at_hand for lane in self._lanes]
        self._watch = Watch(at_hand, context.dispatcher.limit.seconds, self._hangs)
        self._accused: tuple[Message | None, str, str] = (None, "", "")
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
            self._event_loop = asyncio.get_running_loop()
            self._watch.start()
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

    def fail(self, error: EnsueError) -> None:
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
        """Finish the batches at hand, or roll them back after config.stop_limit_s; then give the leases up.

        Heartbeats go on meanwhile. Returns at the latest _GIVE_UP_S after that, whatever handlers and database do.
        """
        if self._beating is None:
            return
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name=f"ensue {self._context.service} stop")
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        assert self._beating is not None
        self._watch.stop()
        hung = isinstance(self.failed, HandlerHung)
        for loop, _ in self._loops.values():
            loop.stop()
        await self._end_loops(None if hung else self._context.config.stop_limit_s)
        self._beating.cancel()
        await asyncio.wait((self._beating,), timeout=_GIVE_UP_S)
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                if hung:
                    await self._accuse()
                    await self._context.books.bury(self.name)
                elif self._loops:
                    log.error("%s: leases are not given up, they end by themselves: %s", self.name, self._listed())
                else:
                    await self._context.books.resign(self.name)
        except (RetryableError, TimeoutError) as error:
            log.info("%s: leases are not given up (%s); they end by themselves", self.name, error)

    async def _end_loops(self, limit_s: float | None) -> None:
        """Wait for the loops that were told to stop; after limit_s (None: at once) what they are doing is cancelled."""
        tasks = [task for _, task in self._loops.values()]
        if limit_s is not None and tasks:
            await asyncio.wait(tasks, timeout=limit_s)
        if late := [task for task in tasks if not task.done()]:
            within = "at once" if limit_s is None else f"within {limit_s:g} s"
            log.error("%s: %s did not end %s; it is rolled back", self.name, self._listed(), within)
            for task in late:
                task.cancel()
            await asyncio.wait(late, timeout=_GIVE_UP_S)
        self._forget_ended()

    def _forget_ended(self) -> None:
        for name in [name for name, (_, task) in self._loops.items() if task.done()]:
            del self._loops[name]

    def _listed(self) -> str:
        return ", ".join(name for name, (_, task) in self._loops.items() if not task.done())

    # ------------------------------------------------------------------------------------------------------- hanging

    def _hangs(self, at_hand: AtHand, error: HandlerHung) -> None:
        """In the watching thread: a handler does not return, and perhaps the event loop does not turn."""
        log.critical("%s: %s", self.name, error)
        self._accused = (at_hand.message, at_hand.target, str(error))
        if not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(self._give_up, error)
        self.when_hung()

    def _give_up(self, error: HandlerHung) -> None:
        if self._stopping is None and self._beating is not None:
            self.fail(error)
            self._stopping = asyncio.create_task(self._stop(), name=f"ensue {self._context.service} stop")

    async def _accuse(self) -> None:
        """What is known of the handler that hangs is more than the next worker could find out."""
        message, target, why = self._accused
        if message is not None:
            partition = Partition(self._context.service, message.topic, message.partition)
            attempt = await self._context.books.attempt(partition)
            await self._context.books.save_attempts([(partition, attempt.hung(target, why))])

    # ---------------------------------------------------------------------------------------------------- heartbeats

    async def _beat_forever(self) -> None:
        context = self._context
        while True:
            pause, well = context.config.lease_ttl_s / 3, False
            try:
                pause = until_next(await self._beat(), self.name, pause)
                well = True
                self._ready.set()
            except RetryableError as error:
                log.warning("%s: no heartbeat: %s", self.name, error)
            except BaseException as error:
                if ends_loop(error):
                    raise
                log.exception("%s: unexpected in the heartbeat; going on", self.name)
            await self._rest(pause, self._leaving if well else ())

    async def _rest(self, pause: float, leaving: Container[str]) -> None:
        """Until the next heartbeat is due, or a loop of `leaving` has ended, so that its lease can be given up."""
        tasks = [task for name, (_, task) in self._loops.items() if name in leaving]
        if not tasks or self._stopping is not None:
            await self._context.clock.sleep(pause)
            return
        resting = asyncio.ensure_future(self._context.clock.sleep(pause))
        try:
            await asyncio.wait((resting, *tasks), return_when=asyncio.FIRST_COMPLETED)
        finally:
            resting.cancel()

    async def _beat(self) -> LeaseTable:
        """Live on, and come nearer to a fair share: by what holds now, since an old table moves what need not move.

        Waits for no handler: a lease is given up at the first heartbeat after its loop has ended. Returns who holds
        what afterwards.
        """
        busy = self._busy()
        table = await self._without_dead(await self._heartbeat(busy=busy))
        mine = {lease.name for lease in table.leases if lease.owner == self.name}
        if self._stopping is None:
            table = await self._share(table, mine, busy)
            mine = {lease.name for lease in table.leases if lease.owner == self.name}
        self._context.faults.point("lease.beaten")
        self._leave([name for name in self._loops if name not in mine])
        for name in sorted(mine):
            self._begin(name, suspect=name in table.suspects)
        return table

    async def _share(self, table: LeaseTable, mine: set[str], busy: tuple[float, str] | None) -> LeaseTable:
        """Take what is free and give up what is too much."""
        wish = fair_share(self._names, table, self.name)
        held = {lease.name: lease.owner for lease in table.leases}
        refused = self.failed is not None  # another worker may try: it may see what this one did not
        self._leave([*wish.release, *([RELAY] if held.get(RELAY) == self.name and refused else ())])
        release = [name for name in sorted(self._leaving) if name not in self._loops or self._loops[name][1].done()]
        acquire = [*wish.acquire, *([RELAY] if RELAY not in held and not refused else ())]
        cleared = [name for name in table.suspects if name in mine and self._is_cleared(name)]
        if acquire or release or cleared:
            table = await self._heartbeat(acquire, release, cleared=cleared, busy=busy)
        for name in release:
            self._leaving.discard(name)
            self._loops.pop(name, None)
        return table

    async def _heartbeat(
        self,
        acquire: Sequence[str] = (),
        release: Sequence[str] = (),
        *,
        cleared: Sequence[str] = (),
        busy: tuple[float, str] | None,
    ) -> LeaseTable:
        ttl_s = self._context.config.lease_ttl_s
        return await self._context.books.heartbeat(
            self.name, ttl_s, acquire, release, self._handles, cleared=cleared, busy=busy
        )

    async def _without_dead(self, table: LeaseTable) -> LeaseTable:
        """Bury killed processes of this machine, whose leases nobody will renew; return what is left."""
        gone = {name for name in (*table.workers, *(each.owner for each in table.leases)) if is_gone(name)}
        for owner in sorted(gone):
            log.info("%s: %s is gone; taking over", self.name, owner)
        return await self._context.books.bury(*gone) if gone else table

    def _is_cleared(self, name: str) -> bool:
        """Whether the loop has come past what the worker before it was at."""
        loop = self._loops[name][0] if name in self._loops else None
        return name == RELAY or (isinstance(loop, PartitionConsumer) and loop.suspicion is None)

    @property
    def busy(self) -> tuple[Busy, ...]:
        """The transactions of handlers at hand, and for how long each has been running."""
        now = self._context.clock.monotonic()
        found = ((each.since, str(each)) for each in (lane.at_hand for lane in self._lanes))
        return tuple(Busy(self.name, now - since, what) for since, what in found if since is not None)

    def _busy(self) -> tuple[float, str] | None:
        """The one that has been running longest, when it is so long that somebody may ask."""
        longest = max(self.busy, key=lambda each: each.running_s, default=None)
        if longest is None or longest.running_s < self._context.config.lease_ttl_s:
            return None
        return longest.running_s, longest.what

    # --------------------------------------------------------------------------------------------------------- loops

    def _leave(self, names: Iterable[str]) -> None:
        """Tell these loops to stop; what they are doing they finish."""
        for name in names:
            self._leaving.add(name)
            if name in self._loops:
                self._loops[name][0].stop()

    def _begin(self, name: str, *, suspect: bool) -> None:
        if self._stopping is not None or name in self._leaving:
            return
        running = self._loops.get(name)
        if running is not None and not running[1].done():
            return
        loop = self._loop(name, suspect)
        self._loops[name] = (loop, LoopTask(self._guard(name, loop), name=f"ensue {name}"))

    def _loop(self, name: str, suspect: bool) -> Running:
        context = self._context
        if name == RELAY:
            return RelayAndRetention(context)
        topic, _, number = name.rpartition("/")
        partition = Partition(context.service, topic, int(number))
        # Topics with the same keys have them in the same partitions: what touches one entity shares a lane.
        lane = self._lanes[partition.number % len(self._lanes)]
        return PartitionConsumer(partition, context, lane, Random(self._random.random()), suspect=suspect)

    async def _guard(self, name: str, loop: Running) -> None:
        try:
            await loop.run()
        except StoreRestored as error:
            self.fail(error)
            log.critical("%s", error)
        except BaseException as error:
            if self._stopping is None or isinstance(error, Exception):  # else it is `stop` that cancels
                # The next heartbeat starts it anew.
                log.exception("%s: the loop %s ended unexpectedly", self.name, name)
            if ends_loop(error):
                raise


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
