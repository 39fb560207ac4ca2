"""Waking by MariaDB's binary log: what is committed anywhere is seen at once, without a look into the tables.

A hint and no source: positions come from the outbox (ADR 18), so a purged or unreadable log costs nothing but speed.
mysql-replication reads in a thread; its connection is shut down to stop it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import threading
from collections.abc import Mapping
from typing import Any

from ensue.stores.mariadb.url import MariaDbUrl
from ensue.stores.sql.pool import Pool
from ensue.stores.sql.wakeup import Polling, Wakeup

log = logging.getLogger("ensue.store")

#: Inserts there, and operators' decisions, are what others wait for.
TABLES = ("ensue_outbox", "ensue_relay")
RETRY_S = 1.0


class Binlog:
    """`News` from the binary log. Needs log_bin, and REPLICATION SLAVE for the user; without them it looks."""

    def __init__(self, url: MariaDbUrl, desk: Pool, wakeup: Wakeup) -> None:
        self._url = url
        self._wakeup = wakeup
        self._polling = Polling(desk, wakeup)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stream: Any = None
        self._hears = False
        self._stopped = threading.Event()

    def announce(self) -> None:
        self._wakeup.changed()

    def saw(self, last: int, changes: int) -> None:
        self._polling.saw(last, changes)

    async def wait(self, timeout_s: float) -> None:
        if self._thread is None and not self._stopped.is_set():
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(target=self._run, name="ensue-binlog", daemon=True)
            self._thread.start()
        if self._hears:
            await self._wakeup.wait(timeout_s)
        else:
            await self._polling.wait(timeout_s)

    async def close(self) -> None:
        self._stopped.set()
        thread, self._thread = self._thread, None
        while thread is not None and thread.is_alive():
            self._hang_up()
            await asyncio.to_thread(thread.join, 0.1)

    def _hang_up(self) -> None:
        connection = getattr(self._stream, "_stream_connection", None)
        raw = getattr(connection, "_sock", None)
        if raw is not None:
            try:
                raw.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # closed meanwhile

    # --- in the thread

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                self._follow()
            except Exception as error:  # whatever it is: it costs speed alone
                if not self._stopped.is_set():
                    log.warning("%s: the binary log cannot be followed (%s): looking now and then", self._place, error)
            self._hears = False
            self._tell()
            self._stopped.wait(RETRY_S)

    def _follow(self) -> None:
        from pymysqlreplication import BinLogStreamReader  # type: ignore[import-untyped]
        from pymysqlreplication.row_event import UpdateRowsEvent, WriteRowsEvent  # type: ignore[import-untyped]

        stream = self._stream = BinLogStreamReader(
            connection_settings=dict(self._connection()),
            server_id=random.randint(1 << 20, (1 << 32) - 1),  # only apart from those of other readers
            is_mariadb=True,
            blocking=True,
            only_schemas=[self._url.arguments["database"]],
            only_tables=list(TABLES),
            only_events=[WriteRowsEvent, UpdateRowsEvent],
            slave_heartbeat=10,
        )
        try:
            self._hears = True
            self._tell()  # what was committed before
            for _ in stream:
                self._tell()
                if self._stopped.is_set():
                    return
        finally:
            self._stream = None
            stream.close()

    def _connection(self) -> Mapping[str, Any]:
        names = {"host": "host", "port": "port", "user": "user", "password": "password", "unix_socket": "unix_socket"}
        settings = {theirs: self._url.arguments[ours] for ours, theirs in names.items() if ours in self._url.arguments}
        tls = self._url.arguments.get("ssl")
        return settings | ({"ssl": tls} if tls is not None else {})

    def _tell(self) -> None:
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wakeup.changed)

    @property
    def _place(self) -> str:
        return self._url.place
