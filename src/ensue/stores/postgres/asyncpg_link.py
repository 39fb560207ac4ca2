"""A connection by asyncpg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import asyncpg

from ensue.errors import EnsueError, UsageError
from ensue.stores.postgres import failures, handshake, tls
from ensue.stores.postgres.handshake import PostgresLink
from ensue.stores.postgres.url import PostgresUrl
from ensue.stores.sql.driver import Rows, checked_arguments

CONNECT_S = 10.0
#: Of `connect_args`, what Ensue decides: how it reads rows, and on which loop.
OWN = ("connection_class", "dsn", "loop", "record_class")


class AsyncpgLink(PostgresLink):
    @property
    def in_transaction(self) -> bool:
        return bool(self.raw.is_in_transaction())

    @property
    def closed(self) -> bool:
        return bool(self.raw.is_closed())

    async def _fetch(self, text: str, values: Sequence[Any]) -> Rows:
        rows: Rows = await self.raw.fetch(text, *values)
        return rows

    async def _execute(self, text: str, values: Sequence[Any]) -> int:
        status: str = await self.raw.execute(text, *values)
        count = status.rpartition(" ")[2]  # e.g. "UPDATE 3"
        return int(count) if count.isdigit() else 0

    async def _script(self, text: str) -> None:
        await self.raw.execute(text)

    async def _commit(self) -> None:
        handshake.check_commit(await self.raw.execute("COMMIT"))

    async def _rollback(self) -> None:
        await self.raw.execute("ROLLBACK")

    def lost(self, error: BaseException) -> bool:
        gone = isinstance(error, OSError | asyncpg.InterfaceError) and self.closed
        return gone or isinstance(error, asyncpg.InternalClientError) or failures.is_lost(failures.code_of(error))

    def _translated(self, error: BaseException) -> EnsueError | None:
        gone = isinstance(error, OSError | asyncpg.InterfaceError | asyncpg.InternalServerError) and self.closed
        # asyncpg lost its place in the protocol: so it does, now and then, when the server is killed.
        if gone or isinstance(error, asyncpg.InternalClientError):
            return failures.gone(error, self.place)
        return failures.of_error(error, self.place)

    def terminate(self) -> None:
        self.raw.terminate()


async def connect(url: PostgresUrl) -> AsyncpgLink:
    """Return a fresh connection. Raises StoreUnavailable, UsageError."""
    given = dict(url.connect_args)
    settings = {} if url.pgbouncer else handshake.session_settings(url)
    settings |= given.pop("server_settings", None) or {}
    options = {"timeout": CONNECT_S, "statement_cache_size": 0 if url.pgbouncer else 200, **given}
    try:
        with checked_arguments(url.place, given, OWN):
            raw = await asyncpg.connect(url.dsn, server_settings=settings or None, **options)
    except asyncpg.UndefinedObjectError as error:  # an option that is neither asyncpg's nor the server's
        raise UsageError(f"{url.place}: options in the URL, or server_settings in connect_args: {error}") from error
    except asyncpg.PostgresError as error:
        ours = tls.explained(error, url) or failures.at_connecting(failures.code_of(error), str(error), url.place)
        raise ours or failures.unreachable(error, url.place) from error
    except (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise tls.explained(error, url) or failures.unreachable(error, url.place) from error
    return await handshake.settled(AsyncpgLink(raw, url.place, "BEGIN"), url)
