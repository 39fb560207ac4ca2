"""`Service`: the declaration together with running it. What users import; it knows engine and adapters."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ensue.adapters import make_broker, make_store
from ensue.aggregate.aggregate import Aggregate
from ensue.aggregate.history import Happened, current, history, page
from ensue.aggregate.kind import kind_of
from ensue.command import Command, R_co
from ensue.config import EngineConfig, Settings, load_settings
from ensue.dependable import dependable
from ensue.engine.runtime import Runtime
from ensue.errors import UsageError
from ensue.ports import Store
from ensue.repository import TableRepository
from ensue.retry import Retry
from ensue.rows import Rows
from ensue.saga.ending import SagaEnd
from ensue.service import ServiceDefinition
from ensue.signatures import Trust
from ensue.step import Step
from ensue.texts import logger
from ensue.tls import exposed
from ensue.token import Token
from ensue.tracing import TraceMaker

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

log = logger("ensue.runtime")

T = TypeVar("T")
A = TypeVar("A", bound=Aggregate)


class Service(ServiceDefinition):
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

    def settings(self) -> Settings:
        """Arguments, else environment, else the embedded default; read when asked."""
        return load_settings(self.name, **self._given)  # type: ignore[arg-type]  # the keys are its parameters

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


def _metadata(name: str, tables: Any) -> MetaData | None:
    if tables is None:
        return None
    from sqlalchemy import MetaData

    if isinstance(tables, MetaData):
        return tables
    shown = getattr(tables, "__name__", type(tables).__name__)
    write = f"{shown}.metadata" if isinstance(getattr(tables, "metadata", None), MetaData) else "Base.metadata"
    raise UsageError(f"Service({name!r}): tables={shown} is no SQLAlchemy MetaData; write tables={write}")
