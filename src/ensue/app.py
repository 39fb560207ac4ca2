"""`Service`: the declaration together with running it. What users import; it knows engine and adapters."""

from __future__ import annotations

import datetime
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ensue.adapters import make_broker, make_store
from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.history import Happened, current, history, page
from ensue.aggregate.kind import kind_of
from ensue.command import Command, R_co
from ensue.config import EngineConfig, Settings, explain_settings, load_settings
from ensue.dependable import dependable
from ensue.engine.runtime import Runtime
from ensue.errors import UsageError
from ensue.ports import Store
from ensue.repository import TableRepository
from ensue.retry import Retry
from ensue.rows import Rows
from ensue.saga.ending import SagaEnd
from ensue.service import ServiceDeclaration
from ensue.sessions.aside import Aside
from ensue.sessions.sync_step import SyncStep, check_place, sync_step
from ensue.signatures import Trust
from ensue.step import Step
from ensue.texts import logger
from ensue.tls import exposed
from ensue.token import Token
from ensue.tracing import TraceMaker
from ensue.variables import Source

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
    from sqlalchemy.orm import Session, scoped_session

    from ensue.sessions.publisher import Publisher

    AnySession = Session | AsyncSession | scoped_session[Any] | async_scoped_session[Any]

log = logger("ensue.runtime")

T = TypeVar("T")
A = TypeVar("A", bound=Aggregate)


class Service(ServiceDeclaration):
    """A service: `orders = Service("orders")`. Its database and broker come from settings, not from code.

    name: lower-case letters, digits, - and _. publishes: events it may publish, and commands it may send; leave it out
    and it may publish any (then `ensue topology` cannot show them). calls: commands that it sends and waits for, see
    `call`: its workers read their answers. repositories: how entities that are dataclasses are stored.
    aggregates: event-sourced ones, besides those that its handlers take.
    tables: SQLAlchemy metadata whose missing tables are created at start (for development; use migrations later).
    prunes: topics that this service reads and nobody who uses Ensue publishes: it takes old records out of them.
    lanes: how many transactions of handlers may be open at once in one process. With one they never race with each
    other; more are for handlers that wait for something else, another service say, and partitions are shared out.
    handler_limit_s: how long one call of a handler may take, else as EngineConfig says; 0: any time.
    outside_max: how many outside functions of sagas one process calls at once; the others wait for their turn.
    retry, database, broker, partitions, engine, trust: override the environment (see `ensue.config`).
    connect_args: what the database's driver takes for a connection and no URL can say, as SQLAlchemy's engines have it:
    `connect_args={"ssl": context}` for asyncpg. For PostgreSQL, MariaDB and MySQL.
    tracing: draws traces of what it does, `ensue.integrations.opentelemetry.OpenTelemetry()`; may be set until it runs.
    """

    def __init__(
        self,
        name: str,
        *,
        publishes: Iterable[type] | None = None,
        calls: Iterable[type] = (),
        repositories: Iterable[TableRepository[Any]] = (),
        aggregates: Iterable[type[Aggregate]] = (),
        retry: Retry | None = None,
        prunes: Iterable[str] = (),
        lanes: int = 1,
        handler_limit_s: float | None = None,
        outside_max: int = 50,
        tables: MetaData | None = None,
        database: str | None = None,
        broker: str | None = None,
        partitions: int | None = None,
        engine: EngineConfig | None = None,
        trust: Trust | None = None,
        connect_args: Mapping[str, Any] | None = None,
        tracing: TraceMaker | None = None,
    ) -> None:
        super().__init__(
            name,
            publishes=publishes,
            calls=calls,
            repositories=repositories,
            aggregates=aggregates,
            retry=retry,
            prunes=prunes,
            lanes=lanes,
            handler_limit_s=handler_limit_s,
            outside_max=outside_max,
        )
        self.tables = _metadata(name, tables)
        self._given = {
            "database": database, "broker": broker, "partitions": partitions, "engine": engine, "trust": trust,
        }  # fmt: skip
        self._connect_args = connect_args
        self.tracing = tracing
        self._runtime: Runtime | None = None
        self._aside = Aside(name, self.make_runtime)
        self._publisher: Publisher | None = None
        _declared[name] = self

    def settings(self) -> Settings:
        """Arguments, else environment, else the embedded default; read when asked."""
        return load_settings(self.name, **self._given)  # type: ignore[arg-type]  # the keys are its parameters

    def setting_sources(self) -> Mapping[str, Source]:
        """Where each of `settings` comes from, by field, `database` or `engine.batch_s`: for `ensue config show`."""
        return explain_settings(self.signs_as, **self._given)[1]  # type: ignore[arg-type]  # as in `settings`

    async def make_place(self) -> None:
        """Make what has to be there before its store is opened. A service's store makes all by itself."""

    def make_store(self) -> Store:
        """Its database by the settings, not open."""
        return make_store(self.settings().database, self.name, self._connect_args)

    def make_runtime(self) -> Runtime:
        """A new runtime by the settings, not started."""
        settings = self.settings()
        self._warn_of_exposed(settings)
        return Runtime(
            self, self.make_store(), make_broker(settings.broker), settings, tables=self.tables, tracing=self.tracing
        )

    def _warn_of_exposed(self, settings: Settings) -> None:
        in_code = {"ssl", "sslmode"} & set(self._connect_args or ())
        for said in (
            "" if in_code else exposed("database URL", settings.database),
            exposed("broker URL", settings.broker),
        ):
            if said:
                log.warning("%s: %s", self.name, said)

    @property
    def runtime(self) -> Runtime:
        """The running one; raises UsageError when the service does not run in this process."""
        if self._runtime is None:
            code = self.signs_as  # of a view, its name without the version, as in code
            raise UsageError(
                f"service {self.name} does not run here: use install(app, {code}) with FastAPI "
                f"(the outermost app, mounted ones are not started), `async with {code}.running():`, "
                "ensue.testing.run(...) or `ensue run`"
            )
        return self._runtime

    @asynccontextmanager
    async def running(self, runtime: Runtime | None = None, *, work: bool = True) -> AsyncIterator[Runtime]:
        """Run inside this block: steps and queries, and with `work` its share of relay and handlers."""
        if self._runtime is not None:
            self._runtime.check_process()
            raise UsageError(
                f"service {self.name} runs in this process already; an app that it is installed in starts it by itself"
            )
        self._runtime = runtime = runtime or self.make_runtime()
        try:
            await runtime.start(work=work)
            yield runtime
        finally:
            try:
                await runtime.stop()  # its last batch may still ask this service for a reading
            finally:
                self._runtime = None

    @dependable
    async def step(self) -> AsyncIterator[Step]:
        """One local transaction: `async with orders.step() as step:`, in FastAPI `Annotated[Step, step_of(orders)]`.

        Commits when the block ends; an exception rolls everything back, events included.
        """
        async with self.runtime.step() as step:
            yield step

    def publish(
        self,
        session: AnySession,
        event: object,
        *more: object,
        extensions: Mapping[str, str] | None = None,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> None:
        """Publish events in a session of your own: `orders.publish(session, OrderPlaced(...))`, and then its commit.

        session: any SQLAlchemy session of this service's database, sync or async; this begins its transaction, as
        `session.add` does. The events go out if and only if that commits: they are written at its outermost commit,
        and what was published inside of a savepoint goes with it. The service need not run in this process.
        extensions, after, at: as for `Step.publish`, for each of these events. Their ids are made as they are written.
        Raises UsageError as `Step.publish` does; for what is no session, one of a step, and inside of a handler. The
        commit raises UsageError when Ensue's tables are not in the session's database, or are another service's, and
        StoreOutdated when a newer Ensue has made them its own.
        """
        from ensue.sessions.publisher import Publisher
        from ensue.sessions.publishing import publish  # SQLAlchemy is imported with the first session

        if self._publisher is None:
            self._publisher = Publisher(self, self.settings, self._told_limits, lambda: self.tracing, self.tables)
        publish(self._publisher, session, (event, *more), extensions, after, at)

    def _told_limits(self) -> Mapping[str, int]:
        """What the broker has said of the size of records, where this process has asked it."""
        return {} if self._runtime is None else self._runtime.context.dispatcher.limits

    @contextmanager
    def sync_step(self) -> Iterator[SyncStep]:
        """One local transaction of code that is not async: `with orders.sync_step() as step:`. `step.session` is a
        plain SQLAlchemy Session; the rest is as with `step`.

        Where the service does not run in this process, its connections are opened with the first such step, on an event
        loop in a thread of its own, and closed at the end of the process, or by `close`. Raises UsageError on an event
        loop, in a handler and in another step of this service; else what `step` raises.
        """
        check_place(self.name)
        runtime = self._runtime
        loop = None if runtime is None else runtime.loop
        if runtime is None or loop is None:
            runtime, loop = self._aside.runtime()
        with sync_step(runtime, loop) as step:
            yield step

    def close(self) -> None:
        """Close what `sync_step` has opened in this process. Safe to repeat; the next such step opens it again."""
        self._aside.close()

    async def call(self, command: Command[R_co], *, timeout: float) -> R_co:
        """Send a command in a step of its own and wait for its answer: `await orders.call(ReserveCredit(...),
        timeout=5)`. Returns the reply; raises the Failure that the command was answered with, `Discarded` when an
        operator gave it up.

        timeout: in seconds. When they are over, or the service stops, this raises ReplyTimeout; the command goes on.
        It is one of those in `calls`. Not inside of a step or a handler, which would wait for what they have not
        committed: send it with `step.send`. Raises UsageError then.
        """
        reply: R_co = await self.runtime.call(command, timeout)
        return reply

    async def ended(self, saga: Callable[..., Awaitable[T]], id: object, *, timeout: float) -> SagaEnd[T]:
        """Wait for the end of a saga: `end = await orders.ended(place_order, order_id, timeout=5)`. Returns how it has
        ended: `end.status`, `end.result`, `end.failure`.

        timeout: in seconds. When they are over this raises ReplyTimeout, which says what the saga waits for; that
        goes on. Not inside of the step that starts it, which is not committed then.
        """
        found: SagaEnd[T] = await self.runtime.ended(saga, id, timeout)
        return found

    async def caught_up(self, token: Token | str, *, timeout: float) -> None:
        """Wait until what a token stands for has taken effect here: `await history.caught_up(token, timeout=2)`; then a
        query sees it. In whichever process of this service, with or without its workers.

        token: the text of one, or of several with commas between, as a client sends it, which is checked; or a Token,
        which is taken as it is. What it says of topics that this service does not read is ignored, and an empty one
        waits for nothing. timeout: in seconds.
        Raises NotCaughtUp when they are over; HeldBack when a dead letter is in the way; TokenEnded, TokenInvalid;
        TooManyWaiters. Not inside of a step or a handler of this service, which it would wait for: UsageError.
        """
        await self.runtime.caught_up(token, timeout)

    async def current(self, cls: type[A], id: object) -> A | None:
        """An aggregate as it is committed, for queries: `await customers.current(Customer, id)`; None: there is none.

        Nothing is locked, so what is decided by it may be late: to change it, `step.load` it.
        """
        return await current(self.runtime.rows(), kind_of(cls), id)

    async def page(self, cls: type[A], *, after: object | None = None, limit: int = 100) -> list[A]:
        """Up to `limit` aggregates as they are committed, in the order of their ids as text.

        after: the id of the last one of the page before.
        """
        return await page(self.runtime.rows(), kind_of(cls), after, limit)

    async def history(self, cls: type[Aggregate], id: object, *, after: int = 0) -> list[Happened]:
        """What has happened to an aggregate, in order, with when and why: `await customers.history(Customer, id)`.

        Committed events alone. after: the version behind which to begin. Empty: there is none.
        """
        return await history(self.runtime.rows(), kind_of(cls), id, after)

    @dependable
    async def query(self) -> AsyncIterator[AsyncSession]:
        """A session for queries: `async with orders.query() as session:`, or `Depends(orders.query)`.

        Sees committed data; what it changes is rolled back.
        """
        async with self.runtime.reading() as session:
            yield session

    @dependable
    async def rows(self) -> AsyncIterator[Rows]:
        """Queries that every store can answer: `rows: Annotated[Rows, Depends(orders.rows)]`, or `async with`.

        See `Rows`: entities by id, and by the lookups that their TableRepository declares.
        """
        yield Rows(self.runtime.rows(), self.repositories)


#: Those of this process; of one name the latest, as of an application that is made anew for each test.
_declared: weakref.WeakValueDictionary[str, Service] = weakref.WeakValueDictionary()


def publish(
    session: AnySession,
    event: object,
    *more: object,
    extensions: Mapping[str, str] | None = None,
    after: datetime.timedelta | None = None,
    at: datetime.datetime | None = None,
) -> None:
    """As `Service.publish`, of the one service in this process whose declaration has this event: `publishes=[...]`.

    All others are told of by name: `orders.publish(session, event)`. Raises UsageError where none has it, or several,
    and where several events have different ones; then none of them is published.
    """
    services = {_publisher_of(type(each)) for each in (event, *more)}
    if len(services) > 1:
        names = sorted(each.name for each in services)
        raise UsageError(
            f"these events are published by several services ({', '.join(names)}), each with a database of its own, "
            "and so an outbox: no transaction of a session has both",
            found=names,
        )
    # In one call, so that when one of them is refused none is published.
    services.pop().publish(session, event, *more, extensions=extensions, after=after, at=at)


def _publisher_of(cls: type) -> Service:
    known = sorted((name, each) for name, each in _declared.items() if not each.is_view)
    mine = [(name, each) for name, each in known if each.publishes is not None and cls in each.publishes]
    if len(mine) == 1:
        return mine[0][1]
    if names := [name for name, _ in mine]:
        raise UsageError(
            f"{cls.__qualname__} is published by {len(names)} services of this process ({', '.join(names)}): say which "
            f"one, {names[0]}.publish(session, {cls.__name__}(...))",
            found=names,
        )
    raise UsageError(
        f"no service of this process declares that it publishes {cls.__qualname__}: add it to "
        "Service(..., publishes=[...]), import the module that has it, or say which service does it, "
        f"service.publish(session, {cls.__name__}(...))",
        found=[name for name, _ in known],
    )


def _metadata(name: str, tables: Any) -> MetaData | None:
    if tables is None:
        return None
    from sqlalchemy import MetaData

    if isinstance(tables, MetaData):
        return tables
    shown = getattr(tables, "__name__", type(tables).__name__)
    write = f"{shown}.metadata" if isinstance(getattr(tables, "metadata", None), MetaData) else "Base.metadata"
    raise UsageError(f"Service({name!r}): tables={shown} is no SQLAlchemy MetaData; write tables={write}")
