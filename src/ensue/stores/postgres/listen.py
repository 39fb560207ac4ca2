"""LISTEN and NOTIFY: processes wake each other. Outside of users' transactions, and at most every few milliseconds.

A NOTIFY inside each step's transaction makes commits wait for one lock of the whole server (1.4 times slower,
measured). So the process that has committed sends it afterwards, once for everything since the last one.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from ensue.errors import RetryableError
from ensue.stores.postgres.polled import WAITING
from ensue.stores.sql.link import Link
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.wakeup import Polling, Wakeup
from ensue.texts import logger

log = logger("ensue.store")

#: Between two notifications of one process.
DEBOUNCE_S = 0.005
#: The same in a process that commits so many transactions a second: who reads has enough to do, and each notification
#: costs what a statement costs.
BUSY_PER_S = 1000
DEBOUNCE_BUSY_S = 0.02
#: After a connection that listened was lost.
RETRY_S = 0.5


def channel_of(schema: str) -> str:
    """Where processes of one service tell each other. schema: of the URL; empty: the server's default."""
    return f"ensue_{zlib.crc32(schema.encode()):08x}"


class Listening:
    """`Notifier` by LISTEN on a connection of its own, made with the first wait; else by looking now and then."""

    def __init__(self, connect: Callable[[], Awaitable[Link]], relay_pool: Pool, wakeup: Wakeup, channel: str) -> None:
        self._connect = connect
        self._relay_pool = relay_pool
        self._wakeup = wakeup
        self._channel = channel
        self._polling = Polling(relay_pool, wakeup, WAITING)
        self._listener: asyncio.Task[None] | None = None
        self._hears = asyncio.Event()
        self._sender: asyncio.Task[None] | None = None
        self._unsent = 0  # commits that others were not told of
        self._closed = False
        self._said: tuple[str, str, str] | None = None  # the last warning

    def announce(self) -> None:
        self._wakeup.changed()
        self._unsent += 1
        if self._sender is None and not self._closed:
            self._sender = asyncio.create_task(self._send())

    def saw(self, last: int) -> None:
        self._polling.saw(last)

    async def wait(self, timeout_s: float) -> None:
        if self._listener is None and not self._closed:
            self._listener = asyncio.create_task(self._listen())
        if self._hears.is_set():
            await self._wakeup.wait(timeout_s)
        else:  # not yet, or not any more
            await self._polling.wait(timeout_s)

    async def _send(self) -> None:
        pause = DEBOUNCE_S
        try:
            while self._unsent:
                pause = DEBOUNCE_BUSY_S if self._unsent >= BUSY_PER_S * pause else DEBOUNCE_S
                self._unsent = 0
                try:
                    await self._relay_pool.read(self._notify)
                except RetryableError as error:
                    log.debug("a notification was not sent (%s): others look by themselves", error)
                except Exception as error:
                    self._warn("a notification was not sent (%s: %s): others look by themselves", error)
                await asyncio.sleep(pause)
        finally:
            self._sender = None

    async def _notify(self, link: Link) -> None:
        await link.fetch("SELECT pg_notify($1, '')", self._channel)

    async def _listen(self) -> None:
        while True:
            try:
                link = await self._connect()
                try:
                    await self._hear(link)
                finally:
                    self._hears.clear()
                    link.terminate()
            except RetryableError as error:
                log.debug("the connection that listens was lost (%s): looking now and then", error)
            except Exception as error:  # a password that is being changed, a driver's own words for a lost connection
                self._warn("nothing is heard of other processes (%s: %s): looking now and then", error)
            self._wakeup.changed()  # what was announced meanwhile
            await asyncio.sleep(RETRY_S)

    async def _hear(self, link: Link) -> None:
        """Listen until the connection is lost."""
        raw: Any = link.raw
        lost = asyncio.Event()
        await link.script(f"LISTEN {self._channel}")
        if hasattr(raw, "add_listener"):  # asyncpg
            raw.add_termination_listener(lambda _: lost.set())
            await raw.add_listener(self._channel, self._heard)
            self._now_hearing()
            await lost.wait()
            return
        try:
            self._now_hearing()
            async for _ in raw.notifies():
                self._heard()
        except Exception as error:
            link.failed(error)
            raise

    def _warn(self, text: str, error: Exception) -> None:
        """Once for the same words in a row: it is tried again every RETRY_S."""
        said = (text, type(error).__name__, str(error))
        log.log(logging.DEBUG if said == self._said else logging.WARNING, text, *said[1:])
        self._said = said

    def _now_hearing(self) -> None:
        self._said = None
        self._hears.set()
        self._wakeup.changed()  # what was announced before we listened

    def _heard(self, *_: Any) -> None:
        self._wakeup.changed()

    async def close(self) -> None:
        self._closed = True
        if self._sender is not None:
            await asyncio.wait((self._sender,))
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
            self._listener = None
