"""A worker: one process's share of a service. Keeps its leases alive and runs a loop for each.

Several workers of one service share its partitions; a worker that dies loses its leases after `lease_ttl_s`, or at
once when it was a process of this machine that is gone.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from random import Random

from ensue.engine.at_hand import AtHand
from ensue.engine.context import Context
from ensue.engine.endings import ends_loop
from ensue.engine.leases import fair_share, until_next
from ensue.engine.loops import RELAY, Loops
from ensue.engine.same_log import SameLog
from ensue.engine.upgrade import upgrade
from ensue.engine.watch import Watch
from ensue.errors import EnsueError, HandlerHung, OtherLog, RetryableError, StoreBehind, StoreOutdated
from ensue.message import LeaseTable, Message, Partition
from ensue.texts import Lines, logger

log = logger("ensue.worker")

#: Another one after each start of a kernel: that of a machine and its containers.
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
#: How long a stop waits for what was cancelled and does not end, and for a database that does not answer.
_GIVE_UP_S = 2.0
#: A relay that has met errors alone for so many lives of a lease is left to others, for so many.
_TROUBLE_LEASES, _REST_LEASES = 3, 10
#: How long a worker whose log is another one than that of the others tries to come in, in lives of a lease.
_JOIN_LEASES = 2
#: Of each reason why nothing is sent, with every heartbeat.
_TOLD_CHARS = 300


class Worker:
    """Runs relay and consumers of one service in this process. start, ready, stop; each safe to repeat.

    failed: set when it cannot go on (StoreRestored: the relay refuses; HandlerHung: it has given its leases up and
    works no more; StoreOutdated: it works no more, and leaves the tables alone, its leases too); its text tells an
    operator what to do. when_hung: is called, in another thread, when a handler hangs: the event loop may hang with it.
    """

    def __init__(self, context: Context, name: str | None = None) -> None:
        self.name = name or worker_name()
        self.failed: EnsueError | None = None
        self.when_hung: Callable[[], None] = lambda: None
        self._context = context
        self.loops = Loops(context, self.name, Random(context.random.random()), self.fail)
        self._beating: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        at_hand = [lane.at_hand for lane in self.loops.lanes]
        self._watch = Watch(at_hand, context.dispatcher.limit.seconds, self._hangs)
        self.same_log = SameLog(context.service, self.name, context.broker, context.config.lease_ttl_s)
        self._accused: tuple[Message | None, str, str] = (None, "", "")
        self._relay_again_at = 0.0  # by the monotonic clock; until then others may try
        self._ready = asyncio.Event()
        self._failing = asyncio.Event()
        topics = context.dispatcher.definition.subscribed_topics
        self._handles = {topic: sorted(context.dispatcher.definition.wanted(topic)) for topic in topics}
        self._names = [f"{topic}/{number}" for topic in topics for number in range(context.partitions)]

    async def start(self) -> None:
        """Begin to work. Raises UsageError when the store cannot be written at all, or others live on it with another
        log: trying again would not help; RetryableError when the broker does not answer."""
        if self._beating is None:
            await self.same_log.look()
            try:
                await self._join()
            except RetryableError as error:
                log.warning("%s: no heartbeat: %s", self.name, error)
            self._event_loop = asyncio.get_running_loop()
            self._watch.start()
            self._beating = asyncio.create_task(self._beat_forever(), name=f"ensue {self._context.service} worker")

    async def _join(self) -> None:
        """The first heartbeat. Raises OtherLog when those who live stay with another log than this worker's.

        Not at once: they look whether theirs is another one now, and those that are dead live for a while.
        """
        clock, ttl_s = self._context.clock, self._context.config.lease_ttl_s
        until = clock.monotonic() + _JOIN_LEASES * ttl_s
        while self.name not in (table := await self._without_dead(await self._heartbeat(busy=None))).workers:
            self.same_log.agrees(table)
            error = self.same_log.error()
            if clock.monotonic() >= until:
                raise error
            log.warning("%s: %s", self.name, error)
            await clock.sleep(ttl_s / 3)
            await self.same_log.look()

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
        hung, outdated = isinstance(self.failed, HandlerHung), isinstance(self.failed, StoreOutdated)
        stopped = list(self.loops.consumers)
        left = await self.loops.end(None if hung or outdated else self._context.config.stop_limit_s, _GIVE_UP_S)
        self._beating.cancel()
        await asyncio.wait((self._beating,), timeout=_GIVE_UP_S)
        try:
            async with asyncio.timeout(_GIVE_UP_S):
                if hung:
                    await self._accuse()
                    await self._context.books.bury(self.name)
                elif outdated:
                    log.info("%s: leases are not given up, they end by themselves: the tables are too new", self.name)
                elif left:
                    log.error("%s: leases are not given up, they end by themselves: %s", self.name, left)
                else:
                    for each in stopped:
                        await each.gave_up()
                    await self._context.books.resign(self.name)
        except (RetryableError, StoreOutdated, TimeoutError) as error:
            log.info("%s: leases are not given up (%s); they end by themselves", self.name, error)

    # ------------------------------------------------------------------------------------------------------- hanging

    def _hangs(self, at_hand: AtHand, error: HandlerHung) -> None:
        """In the watching thread: a handler does not return, and perhaps the event loop does not turn."""
        log.critical("%s: %s", self.name, Lines(error))
        self._accused = (at_hand.message, at_hand.target, str(error))
        if not self._event_loop.is_closed():
            self._event_loop.call_soon_threadsafe(self._give_up, error)
        self.when_hung()

    def _give_up(self, error: EnsueError) -> None:
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
            except (StoreOutdated, OtherLog) as error:
                log.critical("%s: %s", self.name, error)
                self._give_up(error)
                return
            except RetryableError as error:
                log.warning("%s: no heartbeat: %s", self.name, error)
            except BaseException as error:
                if ends_loop(error):
                    raise
                log.exception("%s: unexpected in the heartbeat; going on", self.name)
            await self._rest(pause, self.loops.leaving if well else ())

    async def _rest(self, pause: float, leaving: Container[str]) -> None:
        """Until the next heartbeat is due, or a loop of `leaving` has ended, so that its lease can be given up."""
        tasks = self.loops.tasks(leaving)
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
        busy = self.loops.long_busy()
        try:
            table = await self._heartbeat(busy=busy)
        except StoreBehind as error:
            log.warning("%s: %s", self.name, error)
            await upgrade(self._context)
            table = await self._heartbeat(busy=busy)
        table = await self._without_dead(await self._agreed(table, busy))
        mine = {lease.name for lease in table.leases if lease.owner == self.name}
        if self._stopping is None:
            table = await self._share(table, mine, busy)
            mine = {lease.name for lease in table.leases if lease.owner == self.name}
        self._context.faults.point("lease.beaten")
        self.loops.leave([name for name in self.loops.names if name not in mine])
        for name in sorted(mine):
            self.loops.begin(name, suspect=name in table.suspects)
        return table

    async def _agreed(self, table: LeaseTable, busy: tuple[float, str] | None) -> LeaseTable:
        """Where somebody has another log, look whether this worker's is another one by now. Raises OtherLog when this
        worker does not count as living any more, because of one that does."""
        same = self.same_log
        if same.agrees(table) and self.name in table.workers:
            return table
        if await same.changed() or self.name not in table.workers:
            table = await self._heartbeat(busy=busy)
        if not same.agrees(table):
            if self.name not in table.workers:
                raise same.error()
            same.complain()
        return table

    async def _share(self, table: LeaseTable, mine: set[str], busy: tuple[float, str] | None) -> LeaseTable:
        """Take what is free and give up what is too much."""
        wish = fair_share([each for each in self._names if each not in table.paused], table, self.name)
        steered = [each for each in sorted(mine) if each in table.paused or each in table.released]
        held = {lease.name: lease.owner for lease in table.leases}
        # Another worker may try: it may see what this one did not, or have a way to the broker that this one has not.
        refused = self.failed is not None or (len(table.workers) > 1 and self._relays_nothing())
        self.loops.leave([*wish.release, *steered, *([RELAY] if held.get(RELAY) == self.name and refused else ())])
        release = self.loops.left()
        acquire = [*wish.acquire, *([RELAY] if RELAY not in held and not refused else ())]
        cleared = [name for name in table.suspects if name in mine and self.loops.is_cleared(name)]
        if acquire or release or cleared:
            table = await self._heartbeat(acquire, release, cleared=cleared, busy=busy)
        self.loops.forget(release)
        return table

    def _relays_nothing(self) -> bool:
        """Whether this worker's relay meets nothing but errors, or did so lately."""
        clock, ttl_s = self._context.clock, self._context.config.lease_ttl_s
        since = None if self.loops.relay is None else self.loops.relay.troubled_since
        if since is not None and clock.monotonic() - since > _TROUBLE_LEASES * ttl_s:
            self._relay_again_at = clock.monotonic() + _REST_LEASES * ttl_s
        return clock.monotonic() < self._relay_again_at

    async def _heartbeat(
        self,
        acquire: Sequence[str] = (),
        release: Sequence[str] = (),
        *,
        cleared: Sequence[str] = (),
        busy: tuple[float, str] | None,
    ) -> LeaseTable:
        ttl_s = self._context.config.lease_ttl_s
        trouble = self.loops.relay_trouble if self.failed is None else str(self.failed)
        return await self._context.books.heartbeat(
            self.name, ttl_s, acquire, release, self._handles, cleared=cleared, busy=busy, log=self.same_log.name,
            relay=[trouble[:_TOLD_CHARS]] if trouble else [],
        )  # fmt: skip

    async def _without_dead(self, table: LeaseTable) -> LeaseTable:
        """Bury killed processes of this machine, whose leases nobody will renew; return what is left."""
        gone = {name for name in (*table.workers, *(each.owner for each in table.leases)) if is_gone(name)}
        for owner in sorted(gone):
            log.info("%s: %s is gone; taking over", self.name, owner)
        return await self._context.books.bury(*gone) if gone else table


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
    """Host name, kernel, and where its processes have their numbers. Machines that are made from one image may have
    one host name, and all kernels number their first namespace alike."""
    try:
        boot = _BOOT_ID.read_text().strip().replace("-", "")[:12]
    except OSError:
        boot = ""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        namespace = 0
    return f"{socket.gethostname()}-{boot}-{namespace:x}"
