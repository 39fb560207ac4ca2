"""SQLAlchemy on the stores' own connections: sessions inside a transaction that SQLAlchemy neither begins nor ends.

One engine for a store. Each connection of the store is handed to it once; a step gets an SQLAlchemy `Connection` of its
own over it, which is the only one that may send statements while the step is open (`Link.holder`): a session that
outlives its step writes nothing. What SQLAlchemy means by begin, commit, rollback and close does nothing; savepoints
work. A plain `Session` in the thread of a `def` handler sends its statements back to the event loop and waits.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

# SQLAlchemy 2.0 has `await_only` alone, 2.1 has `await_` as well.
from sqlalchemy.util.concurrency import await_only, greenlet_spawn, in_greenlet

from ensue.errors import UsageError
from ensue.stores import rules
from ensue.stores.sql.link import Link
from ensue.stores.step_dialect import StepDialect

if TYPE_CHECKING:
    from sqlalchemy.engine.interfaces import PoolProxiedConnection

T = TypeVar("T")
#: Where a raw connection's record keeps the link it belongs to.
_LINK = "ensue_link"


class LinkDialect(StepDialect):
    """Mixed into SQLAlchemy's dialect of a driver: the transaction is the step's, and the gate is at each statement."""

    loop: asyncio.AbstractEventLoop | None = None
    loop_thread = 0
    supports_statement_cache = True

    isolation = "it is set for all steps by the database URL, not by one session"

    def do_rollback_to_savepoint(self, connection: Connection, name: str) -> None:
        link = _link_of(connection)
        # Else all is rolled back, or committed, already; or it is to be: then what has ended it must come through.
        if link is None or (link.holder is connection and not link.ended):
            super().do_rollback_to_savepoint(connection, name)  # type: ignore[misc]

    def _run(self, call: Callable[..., Any], arguments: tuple[Any, ...], context: Any) -> None:
        root = None if context is None else context.root_connection
        link = None if root is None else _link_of(root)
        if link is None:  # SQLAlchemy itself, getting to know the database
            call(*arguments)
            return
        if in_greenlet():
            await_only(link.lock.acquire())
            try:
                _guarded(link, root, call, arguments)
            finally:
                link.lock.release()
            return
        self.on_loop(_locked, link, root, call, arguments)

    def on_loop(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """From a thread: call `work` on the event loop, inside SQLAlchemy's greenlet or as a coroutine, and wait."""
        if self.loop is None or threading.get_ident() == self.loop_thread:
            raise UsageError(
                "a plain session was used on the event loop, which would wait for itself: write the handler as a "
                "plain def (it runs in a thread), or as async def with step.session"
            )
        return asyncio.run_coroutine_threadsafe(work(*arguments), self.loop).result()


def _guarded(link: Link, root: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    if link.holder is not root or root is None:
        raise rules.session_ended()
    if not link.begun:  # tables are made, outside of any step
        call(*arguments)
        return
    link.check()
    watch = link.watch
    try:
        effect = watch.before(arguments[0])
        call(*arguments)
    except BaseException as error:
        if link.note(error) is not None or isinstance(error, UsageError):
            link.doomed = error  # whatever becomes of the error
        raise
    watch.after(effect)


async def _locked(link: Link, root: Any, call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    async with link.lock:
        await greenlet_spawn(_guarded, link, root, call, arguments)


def _link_of(connection: Connection) -> Link | None:
    try:
        return cast("Link | None", connection.connection.info.get(_LINK))
    except Exception:  # closed
        return None


class StepExecutionContext:
    """Mixed into a driver's execution context whose cursors must be made on the event loop."""

    def create_default_cursor(self) -> Any:
        return self._made(super().create_default_cursor)  # type: ignore[misc]

    def create_server_side_cursor(self) -> Any:
        return self._made(super().create_server_side_cursor)  # type: ignore[misc]

    def _made(self, make: Callable[[], Any]) -> Any:
        try:
            if in_greenlet():
                return make()
            return self.dialect.on_loop(greenlet_spawn, make)  # type: ignore[attr-defined]
        except Exception as error:  # the connection is closed
            link = _link_of(self.root_connection)  # type: ignore[attr-defined]
            if link is not None and link.note(error) is not None:
                link.doomed = error
            raise


class Engines:
    """SQLAlchemy's engine of one store. url: names the dialect only; connections are given to `attach`."""

    def __init__(self, url: str, **options: Any) -> None:
        self._handed: Any = None
        self._attaching = asyncio.Lock()
        self._engine: AsyncEngine = create_async_engine(
            url, poolclass=NullPool, pool_reset_on_return=None, async_creator=self._create, **options
        )
        dialect: Any = self._engine.dialect
        dialect.loop = asyncio.get_running_loop()
        dialect.loop_thread = threading.get_ident()

    async def _create(self, *_: Any, **__: Any) -> Any:
        return self._handed

    async def attach(self, link: Link) -> None:
        """Make this connection known to SQLAlchemy. The first one is asked what its database can do.

        Raises StoreUnavailable.
        """
        async with self._attaching:
            self._handed = link.raw
            try:
                connection = await self._engine.connect()
            except Exception as error:
                # The server went away while SQLAlchemy got to know it.
                ours = link.translated(error)
                if ours is None:
                    raise
                raise ours from error
            finally:
                self._handed = None
        sync = connection.sync_connection
        assert sync is not None
        fairy: PoolProxiedConnection = sync.connection
        fairy.info[_LINK] = link
        link.fairy = fairy
        link.detach = sync.close

    def connect(self, link: Link) -> AsyncConnection:
        """Return a connection for one transaction of `link`, the only one that may send statements from now on."""
        sync = self.connect_plain(link)
        return AsyncConnection(self._engine, sync)

    def connect_plain(self, link: Link) -> Connection:
        engine: Engine = self._engine.sync_engine
        connection = Connection(engine, link.fairy)
        link.holder = connection
        return connection
