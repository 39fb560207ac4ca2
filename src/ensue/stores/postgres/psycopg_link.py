"""A connection by psycopg 3."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.array import ListBinaryDumper

from ensue.errors import EnsueError, UsageError
from ensue.stores.postgres import failures, handshake, tls
from ensue.stores.postgres.handshake import PostgresLink
from ensue.stores.postgres.refusal import sqlstate
from ensue.stores.postgres.url import PostgresUrl
from ensue.stores.sql.driver import Rows, checked_arguments

CONNECT_S = 10
#: Of `connect_args`, what Ensue decides: when a transaction begins, and how it reads rows.
OWN = ("autocommit", "conninfo", "context", "cursor_factory", "row_factory")


class Array(list[Any]):
    """A list that goes as a binary array. As text, each of its values is searched for what needs a backslash.

    Only Ensue's own statements send one, and they say its type: a user's list in a session goes as it always does.
    """


class PsycopgLink(PostgresLink):
    raw: AsyncConnection[Any]

    @property
    def in_transaction(self) -> bool:
        return self.raw.pgconn.transaction_status != TransactionStatus.IDLE

    @property
    def closed(self) -> bool:
        return self.raw.closed

    async def _fetch(self, text: str, values: Sequence[Any]) -> Rows:
        cursor = AsyncRawCursor(self.raw)
        await cursor.execute(text, _bound(values), binary=True)
        return await cursor.fetchall()

    async def _execute(self, text: str, values: Sequence[Any]) -> int:
        cursor = AsyncRawCursor(self.raw)
        await cursor.execute(text, _bound(values), binary=True)
        return cursor.rowcount

    async def _script(self, text: str) -> None:
        await AsyncRawCursor(self.raw).execute(text)

    async def _commit(self) -> None:
        failed = self.raw.pgconn.transaction_status == TransactionStatus.INERROR
        await self.raw.commit()  # without a cursor: half of the work
        if failed:  # the server has answered with ROLLBACK, which psycopg does not tell
            handshake.check_commit("ROLLBACK")

    async def _rollback(self) -> None:
        await self.raw.rollback()

    def lost(self, error: BaseException) -> bool:
        if isinstance(error, psycopg.OperationalError | OSError) and (self.raw.closed or self.raw.broken):
            return True
        return failures.is_lost(failures.code_of(error))

    def _translated(self, error: BaseException) -> EnsueError | None:
        ours = failures.of_error(error, self.place)
        gone = isinstance(error, psycopg.OperationalError | psycopg.InternalError | OSError) and self.raw.closed
        if ours is None and gone:
            return failures.gone(error, self.place)
        return ours

    def terminate(self) -> None:
        self.raw.pgconn.finish()

    def hang_up(self) -> None:
        """Not `finish`: what waits for the socket would wait for ever, or for another one that got its number."""
        if not self.raw.closed:
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self.raw.fileno())) as same:
                same.shutdown(socket.SHUT_RDWR)


async def connect(url: PostgresUrl) -> PsycopgLink:
    """Return a fresh connection. Raises StoreUnavailable, UsageError."""
    options: dict[str, Any] = {"prepare_threshold": None if url.pgbouncer else 2, "connect_timeout": CONNECT_S}
    if not url.pgbouncer:
        options["application_name"] = url.application
    options |= url.connect_args
    try:
        with checked_arguments(url.place, url.connect_args, OWN):
            if not url.pgbouncer:
                options["options"] = _options(url)
            raw: AsyncConnection[Any] = await AsyncConnection.connect(url.dsn, autocommit=True, **options)
    except psycopg.ProgrammingError as error:  # an option that libpq does not know
        raise UsageError(f"{url.place}: options in the URL, or connect_args: {str(error).strip()}") from error
    except (psycopg.Error, OSError, TimeoutError) as error:
        ours = tls.explained(error, url)
        if ours is None:
            del options["prepare_threshold"]  # psycopg's, all others are libpq's
            code = failures.code_of(error) or await sqlstate(make_conninfo(url.dsn, **options))
            ours = failures.at_connecting(code, str(error), url.place)
        raise ours or failures.unreachable(error, url.place) from error
    raw.adapters.register_dumper(Array, ListBinaryDumper)
    return await handshake.settled(PsycopgLink(raw, url.place, "BEGIN"), url)


def _bound(values: Sequence[Any]) -> Sequence[Any] | None:
    return [Array(each) if type(each) is list else each for each in values] or None


def _options(url: PostgresUrl) -> str:
    """Settings as libpq's `options`, after what the URL, or connect_args, say there."""
    settings = handshake.session_settings(url)
    del settings["application_name"]
    given = str(url.connect_args.get("options") or conninfo_to_dict(url.dsn).get("options") or "")
    parts = [f"-c {name}={value.replace(chr(92), chr(92) * 2).replace(' ', chr(92) + ' ')}"
             for name, value in settings.items()]  # fmt: skip
    return " ".join([given, *parts]).strip()
