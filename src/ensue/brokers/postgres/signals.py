"""Wake-up over the database: NOTIFY after an append's commit, one listening connection a process, a poll beside it.

NOTIFY inside the transaction of an append would make all such transactions of the database commit one after the other,
each with a sync of its own; so it follows in a transaction that writes nothing worth a sync. Whoever dies between the
two costs the waiting readers one poll interval, nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from random import Random
from typing import TYPE_CHECKING

from ensue.brokers.postgres.failures import FAILURES
from ensue.brokers.postgres.sql import Statements
from ensue.embedded.wakeup import Wakeup
from ensue.texts import logger

if TYPE_CHECKING:
    import asyncpg

    Connection = asyncpg.Connection[asyncpg.Record]

#: How often the heads of the partitions that somebody waits for are looked at: as a backstop, and without LISTEN.
BACKSTOP_S = 1.0
POLL_S = 0.05
#: Between two NOTIFYs of a process lies at least this: a row of quick appends pays for few. The first goes at once.
TELL_PAUSE_S = 0.002
_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 5.0
#: A payload holds less than 8,000 bytes; with more ids than this it says "everything".
_IDS_MAX = 300
_EVERYTHING = "*"

_log = logger(__name__)


class Signals:
    """Tells who waits for a partition that something was appended, by this process or another.

    connect: makes the connection. gone: called when a partition that is waited for is not there any more.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        statements: Statements,
        place: str,
        *,
        listen: bool,
        gone: Callable[[], None],
        random: Random,
    ) -> None:
        self._connect = connect
        self._sql = statements
        self._place = place
        self._listen = listen
        self._gone = gone
        self._random = random
        self._wakeup = Wakeup(None)
        self._to_tell: set[int] = set()
        #: partition id -> the offsets after which somebody waits
        self._waiting: dict[int, list[int]] = {}
        self._work = asyncio.Event()
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        if self._task is None:
            await self._wakeup.open()
            self._task = asyncio.create_task(self._run(), name="ensue postgres broker signals")

    async def close(self) -> None:
        """End at once; all who wait are woken."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._wakeup.close()

    def appended(self, ids: Iterable[int]) -> None:
        """Wake who waits for these partitions: here at once, elsewhere soon."""
        ids = tuple(ids)
        self._wakeup.notify(ids)
        self._to_tell.update(ids)
        self._work.set()

    def sequence(self, partition_id: int) -> int:
        """As `Wakeup.sequence`."""
        return self._wakeup.sequence(partition_id)

    async def wait(self, partition_id: int, after: int, seen: int, timeout_s: float) -> None:
        """Return when something may have been appended to the partition, after timeout_s, or at close."""
        waiting = self._waiting.setdefault(partition_id, [])
        waiting.append(after)
        self._work.set()
        try:
            await self._wakeup.wait(partition_id, seen, timeout_s)
        finally:
            waiting.remove(after)
            if not waiting and self._waiting.get(partition_id) is waiting:
                del self._waiting[partition_id]

    # --- the connection

    async def _run(self) -> None:
        pause = _PAUSE_FIRST_S
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._begin(connection)
                    pause = _PAUSE_FIRST_S
                    await self._serve(connection)
                finally:
                    connection.terminate()
            except FAILURES as error:
                _log.info("%s: no wake-up (%s: %s); again in %.1f s", self._place, type(error).__name__, error, pause)
            await asyncio.sleep(pause * self._random.uniform(0.5, 1.0))
            pause = min(pause * 2, _PAUSE_MAX_S)
            # Whoever waits would notice that the server is gone, or that it is back with news.
            self._wakeup.notify(tuple(self._waiting))

    async def _begin(self, connection: Connection) -> None:
        self._lost = False
        connection.add_termination_listener(self._ended)
        if self._listen:
            await connection.add_listener(self._sql.schema, self._heard)
        self._wakeup.notify(tuple(self._waiting))  # what came before we listened

    async def _serve(self, connection: Connection) -> None:
        """Tell and poll until the connection ends."""
        clock = asyncio.get_running_loop().time
        every = BACKSTOP_S if self._listen else POLL_S
        poll_at = clock() + every
        tell_at = 0.0
        while not self._lost:
            if self._to_tell:
                await asyncio.sleep(max(tell_at - clock(), 0))
                await self._tell(connection)
                tell_at = clock() + TELL_PAUSE_S
            if self._waiting and clock() >= poll_at:
                await self._poll(connection)
                poll_at = clock() + every
            if self._to_tell or self._lost:
                continue
            self._work.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(poll_at - clock(), 0) if self._waiting else None):
                    await self._work.wait()

    async def _tell(self, connection: Connection) -> None:
        """One NOTIFY for all appends since the last one: while it is under way, the next ones gather."""
        ids, self._to_tell = self._to_tell, set()
        payload = ",".join(map(str, sorted(ids))) if len(ids) <= _IDS_MAX else _EVERYTHING
        # One message, so one transaction, also behind a pooler.
        await connection.execute(
            f"BEGIN; SET LOCAL synchronous_commit = off; NOTIFY {self._sql.channel}, '{payload}'; COMMIT"
        )

    async def _poll(self, connection: Connection) -> None:
        ids = list(self._waiting)
        async with connection.transaction():
            heads: dict[int, int] = {row[0]: row[1] for row in await connection.fetch(self._sql.heads, ids)}
        for each in ids:
            if each not in heads:
                self._gone()
                self._wakeup.notify((each,))
            elif any(after < heads[each] for after in self._waiting.get(each, ())):
                self._wakeup.notify((each,))

    def _heard(self, connection: object, pid: int, channel: str, payload: object) -> None:
        text = str(payload)
        numbers = text.split(",")
        if all(number.isdecimal() and number.isascii() and len(number) < 20 for number in numbers):
            self._wakeup.notify(map(int, numbers))
        else:
            self._wakeup.notify(tuple(self._waiting))  # many at once, or somebody else's words

    def _ended(self, connection: object) -> None:
        self._lost = True
        self._work.set()
