"""A replication connection: SQL and replication commands on it, then the log as it comes.

psycopg makes the connection (hosts, TLS, passwords, time limits are its business); its libpq wrapper reads the log,
since the driver itself does not speak COPY BOTH.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Self

import psycopg
from psycopg import pq
from psycopg.abc import Query
from psycopg.conninfo import make_conninfo

from ensue.errors import StoreUnavailable, UsageError
from ensue.stores.postgres import failures
from ensue.stores.postgres.pgoutput import Keepalive, WalData, feedback, unwrap
from ensue.stores.postgres.refusal import ready, sqlstate
from ensue.texts import logger

log = logger("ensue.postgres.tail")

CONNECT_TIMEOUT_S = 10
#: Bytes of the log taken from the socket in one turn of the event loop.
_TURN_BYTES = 1 << 20
#: protocol_violation, feature_not_supported: what no server answers to it.
_OF_A_POOLER = ("08P01", "0A000")


class ReplicationConnection:
    """Not for use by two tasks at once. Every method raises StoreUnavailable when the server does not answer."""

    def __init__(self, connection: psycopg.AsyncConnection[tuple[object, ...]]) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._reading = False
        self._socket = -1
        self._received: Callable[[WalData | Keepalive], None] | None = None
        self._broken: Callable[[Exception], None] | None = None

    @classmethod
    async def connect(cls, conninfo: str) -> Self:
        """Connect to one database as a WAL sender. Raises UsageError when the server, or what stands before it, does
        not allow that."""
        try:
            connection = await psycopg.AsyncConnection.connect(
                conninfo,
                autocommit=True,
                replication="database",
                application_name="ensue tail",
                connect_timeout=CONNECT_TIMEOUT_S,
                client_encoding="utf8",  # what is read is decoded as that, whatever the database keeps it in
            )
        except psycopg.Error as error:
            raise refused(error, failures.code_of(error) or await sqlstate(_replicating(conninfo))) from error
        return cls(connection)

    @property
    def backend_pid(self) -> int:
        return self._pgconn.backend_pid

    async def execute(self, command: Query) -> list[tuple[object, ...]]:
        """Run one command and return its rows. psycopg's errors come out as they are: the caller knows what they say
        about its command."""
        cursor = await self._connection.execute(command)
        return await cursor.fetchall() if cursor.description else []

    async def start(
        self,
        slot: str,
        publication: str,
        *,
        received: Callable[[WalData | Keepalive], None],
        broken: Callable[[Exception], None],
    ) -> None:
        """Begin to stream from where the slot stands. Raises psycopg's errors as `execute` does.

        received: called for each piece, in the event loop. broken: called once, when no more will come.
        """
        command = (
            f'START_REPLICATION SLOT "{slot}" LOGICAL 0/0 '
            f"(proto_version '1', publication_names '\"{publication}\"', binary 'true')"
        )
        self._received, self._broken = received, broken
        pgconn = self._pgconn
        pgconn.send_query(command.encode())
        while pgconn.flush():
            await ready(pgconn.socket, writing=True)
        while pgconn.is_busy():
            await ready(pgconn.socket)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None or result.status != pq.ExecStatus.COPY_BOTH:
            if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
                raise psycopg.errors.error_from_result(result)
            raise StoreUnavailable("the server did not begin to stream its log")
        self.resume()
        self._take()  # what came together with the answer makes no socket readable

    # --- streaming

    def pause(self) -> None:
        """Read no more: the server waits as soon as the network's buffers are full."""
        if self._reading:
            self._reading = False
            asyncio.get_running_loop().remove_reader(self._socket)

    def resume(self) -> None:
        if not self._reading:
            self._reading = True
            # Kept: a connection that is lost tells it no more, and a reader that stays would be called for ever.
            self._socket = self._pgconn.socket
            asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def _readable(self) -> None:
        try:
            self._pgconn.consume_input()
        except psycopg.Error as error:
            self._end(StoreUnavailable(f"the connection to the log broke: {_first_line(error)}"))
            return
        self._take()

    def _take(self) -> None:
        pgconn, received = self._pgconn, self._received
        assert received is not None
        taken = 0
        try:
            while True:
                size, data = pgconn.get_copy_data(1)
                if size > 0:
                    received(unwrap(data))
                    taken += size
                    if taken > _TURN_BYTES and self._reading:  # let others have a turn
                        asyncio.get_running_loop().call_soon(self._again)
                        return
                elif size == 0:
                    return
                else:
                    result = pgconn.get_result()
                    text = "" if result is None else result.get_error_message()
                    self._end(StoreUnavailable(f"the server ended the stream of its log: {text or 'it shuts down'}"))
                    return
        except psycopg.Error as error:
            self._end(StoreUnavailable(f"the connection to the log broke: {_first_line(error)}"))
        except StoreUnavailable as error:
            self._end(error)
        except Exception as error:
            # Called by the loop, which would log it and go on behind the piece that was not understood: never.
            log.exception("the log of the server holds what cannot be read")
            self._end(StoreUnavailable(f"a piece of the log cannot be read: {error!r}"))

    def _again(self) -> None:
        if self._reading:
            self._take()

    def _end(self, error: Exception) -> None:
        self.pause()
        broken, self._broken = self._broken, None
        if broken is not None:
            broken(error)

    def send_feedback(self, through_lsn: int, *, reply: bool = False) -> None:
        """Say that everything up to `through_lsn` may be forgotten. reply: ask how far the server has sent."""
        try:
            self._pgconn.put_copy_data(feedback(through_lsn, time.time_ns() // 1000, reply=reply))
            self._pgconn.flush()  # a few bytes, seldom: what is left over goes with the next
        except psycopg.Error as error:
            self._end(StoreUnavailable(f"the connection to the log broke: {_first_line(error)}"))

    async def close(self) -> None:
        if not self._connection.closed:
            self.pause()
        self._broken = None
        await self._connection.close()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _replicating(conninfo: str) -> str:
    return make_conninfo(conninfo, replication="database")


def refused(error: psycopg.Error, code: str) -> UsageError | StoreUnavailable:
    """What a refused replication connection means, and what to set. code: the SQLSTATE."""
    text = _first_line(error)
    if code in _OF_A_POOLER:
        return UsageError(
            f"no replication connection: {text}. A connection pooler stands before the server: give the server's own "
            "address by ?replication_host=HOST&replication_port=PORT, or use ?outbox=poll"
        )
    if code == "42501":
        return UsageError(
            f"no replication connection: {text}. The user may not read the log: run as a superuser "
            "ALTER ROLE <user> REPLICATION, or use ?outbox=poll"
        )
    if code in ("28000", "28P01", "3D000"):
        return UsageError(
            f"no replication connection: {text}. See user, password and database in the URL; allow it in pg_hba.conf "
            "for this user and database, or use ?outbox=poll"
        )
    if code == "53300":
        return StoreUnavailable(f"no replication connection: {text}. Raise max_wal_senders, now in use by others")
    return StoreUnavailable(f"no replication connection: {text}")
