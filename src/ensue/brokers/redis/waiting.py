"""One connection that waits for all partitions of a process at once (XREAD BLOCK), and wakes who waits for which."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from redis.asyncio import Connection
from redis.exceptions import RedisError, ResponseError

from ensue.brokers.redis.client import Client
from ensue.errors import BrokerUnavailable
from ensue.texts import logger

#: After this long the connection looks whether the log is still the same one, and waits again.
_ROUND_MS = 1000
#: Where CLIENT UNBLOCK is not allowed: how long a new waiter may have to wait for its turn.
_SHORT_ROUND_MS = 20

_log = logger(__name__)


class Waiting:
    """`await wait(key, after, seconds)` returns when the stream may have an entry after that, or the time is over.

    It may return early for nothing. name_key: where the log keeps its name; `seen` is told what it is in every round.
    """

    def __init__(self, client: Client, name_key: str, seen: Callable[[bytes | None], None]) -> None:
        self._client = client
        self._name_key = name_key
        self._seen = seen
        self._waiters: dict[str, dict[asyncio.Future[None], int]] = {}
        self._someone = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._nudging: asyncio.Task[None] | None = None
        self._watched: dict[str, int] = {}  # what the connection is blocked on; empty: it is not
        self._round = 0
        self._round_ms = min(_ROUND_MS, int(client.timeout_s * 500))  # an answer comes well before timeout_s
        self._connection_id = 0

    async def wait(self, key: str, after: int, timeout_s: float) -> None:
        """Raises BrokerUnavailable when the connection breaks meanwhile."""
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(key, {})
        waiters[future] = after
        self._someone.set()
        if self._watched and self._watched.get(key, after + 1) > after:
            self._nudge()
        try:
            await asyncio.wait((future,), timeout=timeout_s)
            if future.done():
                future.result()
        finally:
            waiters.pop(future, None)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]

    async def close(self) -> None:
        """End the connection. Nobody waits any more: the readers are closed."""
        tasks = [each for each in (self._task, self._nudging) if each is not None]
        self._task = self._nudging = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def wake_all(self) -> None:
        self._wake(list(self._waiters))

    # --- the connection's side

    async def _run(self) -> None:
        """Serve rounds until it is cancelled, or the connection breaks: then all who wait are told."""
        connection: Connection | None = None
        try:
            connection = await self._client.connection()
            with self._client.ours():
                await connection.send_command("CLIENT", "ID")
                self._connection_id = int(await connection.read_response())
            while True:
                await self._someone.wait()
                await asyncio.sleep(0)  # others of this turn of the loop may come in as well
                with self._client.ours():
                    await self._serve(connection)
        except BrokerUnavailable as error:
            self._fail(error)
        finally:
            self._watched = {}
            if connection is not None:
                with contextlib.suppress(RedisError, OSError):
                    await connection.disconnect(nowait=True)

    async def _serve(self, connection: Connection) -> None:
        watched = {key: min(waiters.values()) for key, waiters in self._waiters.items() if waiters}
        if not watched:
            self._someone.clear()
            return
        self._round += 1
        ids = [f"0-{after}" for after in watched.values()]
        # The name is asked for in front of the wait, in the same message.
        commands: list[tuple[str | int, ...]] = [
            ("GET", self._name_key),
            ("XREAD", "COUNT", 1, "BLOCK", self._round_ms, "STREAMS", *watched, *ids),
        ]
        await connection.send_packed_command(connection.pack_commands(commands))
        self._watched = watched
        name_read = False
        try:
            self._seen(await connection.read_response())
            name_read = True
            found = await connection.read_response()
        except ResponseError as error:
            if not name_read:
                raise
            # One of the streams is refused, and it is not said which: whoever waits looks for itself, round by round.
            _log.warning("%s", self._client.unavailable(error))
            await asyncio.sleep(self._round_ms / 1000)
            found = [(key.encode(),) for key in watched]
        finally:
            self._watched = {}
        keys = [entry[0].decode() for entry in found or ()]
        self._wake(keys)

    def _nudge(self) -> None:
        if self._nudging is None or self._nudging.done():
            self._nudging = asyncio.create_task(self._unblock())

    async def _unblock(self) -> None:
        """End the wait at hand, so that the next one has the newcomers too."""
        round_ = self._round
        try:
            # The first attempts may come before the server has begun that wait.
            while self._round == round_ and self._watched:
                if await self._client.call("CLIENT", "UNBLOCK", self._connection_id):
                    return
                await asyncio.sleep(0.001)
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, ResponseError):
                _log.warning("%s; waiting in rounds of %d ms instead", error, _SHORT_ROUND_MS)
                self._round_ms = _SHORT_ROUND_MS
            # Else the connection that waits is broken as well, and its waiters are told there.

    # --- the waiters' side

    def _wake(self, keys: list[str]) -> None:
        for key in keys:
            for future in self._waiters.pop(key, {}):
                if not future.done():
                    future.set_result(None)

    def _fail(self, error: BrokerUnavailable) -> None:
        waiting, self._waiters = self._waiters, {}
        for waiters in waiting.values():
            for future in waiters:
                if not future.done():
                    future.set_exception(error.again())
