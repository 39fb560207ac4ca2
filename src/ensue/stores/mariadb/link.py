"""A connection by asyncmy."""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any

import asyncmy
from asyncmy import errors
from asyncmy.constants import CLIENT
from asyncmy.constants.SERVER_STATUS import SERVER_STATUS_NO_BACKSLASH_ESCAPES

from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.stores.mariadb import failures
from ensue.stores.mariadb.rows import chunks, quoted
from ensue.stores.mariadb.url import MariaDbUrl
from ensue.stores.mariadb.words import WORDS
from ensue.stores.sql.driver import Rows, checked_arguments
from ensue.stores.sql.link import Link
from ensue.texts import logger

log = logger("ensue.store")

#: MariaDB's own default, whatever the server is set to: other modes change what a statement means, Ensue's among them
#: ("position" is a function in IGNORE_SPACE, '' is NULL in EMPTY_STRING_IS_NULL), or cut values without a word.
SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
#: Of `connect_args`, what Ensue decides: what values and rows look like, and where the tables are.
OWN = (
    "autocommit", "binary_prefix", "charset", "client_flag", "conv", "cursor_cls", "database", "db", "init_command",
    "sql_mode", "use_unicode",
)  # fmt: skip
BINARY_LOG = "SELECT @@log_bin AND @@sql_log_bin, @@binlog_format"
#: Access denied; insecure transport is prohibited.
_PLAIN_REFUSED = frozenset({1045, 3159})


class AsyncmyLink(Link):
    """settings: those of this connection, by name. database: where its tables are."""

    words = WORDS

    def __init__(self, raw: Any, place: str, begin_text: str, *, database: str, settings: Mapping[str, str]) -> None:
        super().__init__(raw, place, begin_text)
        self._database = database
        self._settings = settings

    def check(self) -> None:
        """Also refuse to send values where a backslash is no escape: asyncmy writes them into the text with it."""
        super().check()
        if self._without_escapes:
            raise UsageError(
                f"{self.place}: sql_mode NO_BACKSLASH_ESCAPES was set within the step, in which values cannot be sent "
                "safely: leave sql_mode as Ensue sets it"
            )

    @property
    def usable(self) -> bool:
        return super().usable and not self._without_escapes

    @property
    def _without_escapes(self) -> bool:
        """As the server's last answer said."""
        return bool(self.raw.server_status & SERVER_STATUS_NO_BACKSLASH_ESCAPES)

    @property
    def in_transaction(self) -> bool:
        return bool(self.raw.get_transaction_status())

    @property
    def closed(self) -> bool:
        return not self.raw.connected

    @property
    def snapshot_text(self) -> str:
        """With innodb_snapshot_isolation, writing a row that was changed since fails with 1020, as it should."""
        return f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; {self.begin_text}"

    async def _fetch(self, text: str, values: Sequence[Any]) -> Rows:
        async with self.raw.cursor() as cursor:
            await cursor.execute(text, values or None)
            rows: Rows = await cursor.fetchall()
        return rows

    async def _execute(self, text: str, values: Sequence[Any]) -> int:
        async with self.raw.cursor() as cursor:
            count: int = await cursor.execute(text, values or None)
        return count

    async def _script(self, text: str) -> None:
        for statement in text.split("; "):
            await self.raw.query(statement)

    async def execute_each(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        """Run a statement with `?` for each row, in few round trips where the server can; return the sum of rows."""
        self.check()
        try:
            return sum([await self._execute_each(text, chunk) for chunk in chunks(rows)])
        except BaseException as error:
            self.failed(error)
            raise

    async def _execute_each(self, text: str, rows: Sequence[Sequence[Any]]) -> int:
        try:
            async with await self.raw.prepare(text) as statement:
                result = await statement.execute_bulk([tuple(row) for row in rows])
                return int(result.affected_rows)
        except (errors.NotSupportedError, ValueError):  # MySQL, or a column of mixed types or of nothing but NULL
            plain = text.replace("%", "%%").replace("?", "%s")
            return sum([await self._execute(plain, row) for row in rows])

    async def restore(self) -> None:
        """What is set by DEFAULT gets the server's value, as on a new connection; then this connection's own."""
        watch = self.watch
        defaults = [f"{name} = DEFAULT" for name in sorted(watch.assigned - set(self._settings))]
        own = [f"{name} = {value}" for name, value in self._settings.items()]
        await self.script(f"SET SESSION {', SESSION '.join([*defaults, *own])}")
        await self.script("SET NAMES utf8mb4")
        await self.script(f"USE {quoted(self._database)}")
        for name in watch.made:
            await self.script(f"DROP TEMPORARY TABLE IF EXISTS {name}")

    async def _commit(self) -> None:
        await self.raw.query("COMMIT")

    async def _rollback(self) -> None:
        await self.raw.query("ROLLBACK")

    def lost(self, error: BaseException) -> bool:
        return failures.is_lost(error) or not self.raw.connected

    def is_interruption(self, error: Exception) -> bool:
        return failures.is_interruption(error)

    def _translated(self, error: BaseException) -> EnsueError | None:
        ours = failures.of_error(error, self.place)
        if ours is None and isinstance(error, errors.Error | RuntimeError | AttributeError) and not self.raw.connected:
            return failures.gone(error, self.place)
        return ours

    async def close(self) -> None:
        await self.raw.ensure_closed()

    def terminate(self) -> None:
        self.raw.close()


async def connect(url: MariaDbUrl) -> AsyncmyLink:
    """Return a fresh connection. Raises StoreUnavailable, UsageError."""
    try:
        with checked_arguments(url.place, url.connect_args, OWN):
            raw = await asyncmy.connect(
                **{**url.arguments, **url.connect_args},
                autocommit=True,
                client_flag=CLIENT.FOUND_ROWS,
                binary_prefix=True,
                init_command=f"SET SESSION sql_mode = '{SQL_MODE}'",
            )
    except (errors.Error, OSError, TimeoutError, RuntimeError) as error:  # RuntimeError: the server hung up at once
        raise _about_tls(error, url) or failures.at_connecting(error, url.place) from error
    settings = {"sql_mode": f"'{SQL_MODE}'", "innodb_lock_wait_timeout": str(url.lock_timeout_s)}
    link = AsyncmyLink(raw, url.place, "START TRANSACTION", database=url.arguments["database"], settings=settings)
    try:
        # READ COMMITTED: no gap locks, and a statement sees what is committed.
        await link.script("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        await link.script(f"SET SESSION innodb_lock_wait_timeout = {settings['innodb_lock_wait_timeout']}")
        await _refuse_lost_updates(link)
        await _log_rows(link)
    except BaseException:
        link.terminate()
        raise
    return link


async def _refuse_lost_updates(link: AsyncmyLink) -> None:
    """Where the server can: MariaDB since 10.6.18, 10.11.8, 11.0.6, 11.1.5, 11.2.4, 11.4.2; default since 11.6.2."""
    try:
        await link.script("SET SESSION innodb_snapshot_isolation = ON")
    except errors.Error as error:
        if failures.code_of(error) != failures.UNKNOWN_VARIABLE:
            raise
        log.warning(
            "%s: this server does not refuse to overwrite what was changed since it was read (it knows no "
            "innodb_snapshot_isolation): with several processes, handlers that read and change a row must lock it, or "
            "be entity steps",
            link.place,
        )


async def _log_rows(link: AsyncmyLink) -> None:
    """READ COMMITTED cannot be written to a binary log of statements: every step would fail, so log its rows.

    A step cannot change that, so it need not be put back. Raises UsageError when the user may not change it.
    """
    try:
        [(logs, how)] = await link.fetch(BINARY_LOG)
    except errors.Error as error:
        if failures.code_of(error) != failures.UNKNOWN_VARIABLE:  # a server that logs nothing but rows
            raise
        return
    if not logs or how != "STATEMENT":
        return
    try:
        await link.script("SET SESSION binlog_format = 'MIXED'")
    except errors.Error as error:
        if failures.code_of(error) != failures.DENIED:
            raise
        raise UsageError(
            f"{link.place}: the server's binary log has binlog_format=STATEMENT, with which it refuses steps (READ "
            "COMMITTED), and the user may not change that for its connections: set binlog_format=MIXED or ROW on the "
            "server, or GRANT BINLOG ADMIN ON *.* to the user",
            found="STATEMENT",
            expected="MIXED or ROW",
        ) from error


def _about_tls(error: BaseException, url: MariaDbUrl) -> EnsueError | None:
    """What a connection that did not come about over TLS means, and what to set; None: TLS is not the reason.

    A plain connection to a server (require_secure_transport) or of a user (REQUIRE SSL) that demands TLS is refused
    like one with a wrong password.
    """
    cause = error.__cause__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return StoreUnavailable(
            f"{url.place}: the server's certificate is not trusted: {cause.verify_message.rstrip('.')}. It must be "
            "signed by an authority in the file that ssl_ca in the URL names, and be for the host that the URL names"
        )
    if isinstance(cause, ssl.SSLError):
        return StoreUnavailable(
            f"{url.place}: no TLS with the server, which ssl_... in the URL demands: {cause}. Has it ssl_cert and "
            "ssl_key set?"
        )
    if failures.code_of(error) in _PLAIN_REFUSED and "ssl" not in {**url.arguments, **url.connect_args}:
        return UsageError(
            f"{url.place}: {', '.join(map(str, error.args))}: see user, password and database in the URL, and whether "
            "the server demands TLS: it does not get it without ssl_ca=FILE or ssl=1",
            code=failures.code_of(error),
        )
    return None
