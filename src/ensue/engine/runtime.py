"""One service, running: its store and broker open, its worker's loops going, steps for those who come from outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from logging import Logger
from random import Random
from typing import TYPE_CHECKING, Any

from ensue.addresses import scheme_of
from ensue.command import Command
from ensue.config import Settings
from ensue.definition import ServiceDefinition
from ensue.engine.arming import arm
from ensue.engine.books import Books
from ensue.engine.calls import call
from ensue.engine.caught_up import CaughtUp
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.context import Context
from ensue.engine.dispatch import Dispatcher
from ensue.engine.ended import ended
from ensue.engine.endings import ends_loop
from ensue.engine.faults import Faults
from ensue.engine.fits import check_entity_tables, check_fits, check_kept
from ensue.engine.hallmark import HallmarkedIds
from ensue.engine.home import Home
from ensue.engine.kept import warn_of_a_shorter_log, warn_of_what_is_kept_otherwise
from ensue.engine.metric import Measured
from ensue.engine.nesting import check_step, stepping
from ensue.engine.positions import Positions
from ensue.engine.readiness import Detailed, ReadyLimits, not_ready, remarks, store_reason
from ensue.engine.schema import SCHEMA, Schema
from ensue.engine.sealing import SealedBroker
from ensue.engine.timers import put
from ensue.engine.tokens import caught_up
from ensue.engine.upgrade import SchemaWatch, upgrade
from ensue.engine.worker import Worker
from ensue.errors import RetryableError, StoreOutdated, UsageError
from ensue.event import event_type
from ensue.message import CONTROL_TOPIC
from ensue.origin import AlreadyAnswered, Origin, current_origin
from ensue.ports import Broker, Clock, Ids, RowReader, Store
from ensue.retry import Retry
from ensue.saga.ending import SagaEnd
from ensue.step import Step
from ensue.texts import logger
from ensue.token import Token
from ensue.tracing import NO_TRACING, Carrier, TraceMaker, messaging_system

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

log = logger("ensue.runtime")

#: How long a start waits for the service's own database, in seconds; after that whoever started the process decides.
STORE_WAIT_S = 30.0
_PAUSE_FIRST_S = 0.1
_PAUSE_MAX_S = 5.0


class _Undone(Exception):
    """Rolls back the step of a request that was answered before, or that is answered 5xx."""


class Runtime:
    """Owns store, broker and worker of one service in this process. start and stop, each safe to repeat.

    A broker that is down at start is waited for while steps go on committing: the outbox grows, and is sent later.

    tables: the user's, created at start when they do not exist. work: False serves steps and queries only. schema: of
    Ensue's own tables, which are brought to it at start.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        store: Store,
        broker: Broker,
        settings: Settings,
        *,
        clock: Clock | None = None,
        ids: Ids | None = None,
        random: Random | None = None,
        tables: MetaData | None = None,
        progress: Callable[[], None] = lambda: None,
        retry: Retry | None = None,
        faults: Faults | None = None,
        schema: Schema = SCHEMA,
        tracing: TraceMaker | None = None,
    ) -> None:
        system = messaging_system(scheme_of(settings.broker))
        ids, random, clock = ids or UniqueIds(), random or Random(), clock or SystemClock()
        self._hallmarked = HallmarkedIds(ids, clock)
        self.definition = definition
        self.store = store
        self.broker = broker
        self.settings = settings
        books = Books(store, definition.name, random, schema)
        self.context = Context(
            service=definition.name,
            store=store,
            books=books,
            broker=SealedBroker(broker, definition.signs_as, settings.trust),
            dispatcher=Dispatcher(
                definition,
                ids,
                settings.partitions,
                settings.engine.record_bytes_max,
                hallmarked=self._hallmarked.of_now,
                documents=not store.capabilities.transactions,
                timers=store.capabilities.transactions and store.capabilities.publishes,
                sessions=store.capabilities.sessions,
                handler_limit_s=_first(definition.handler_limit_s, settings.engine.handler_limit_s),
                show_values=settings.engine.show_values,
            ),
            config=settings.engine,
            retry=retry or definition.retry or settings.engine.retry,
            clock=clock,
            ids=ids,
            random=random,
            faults=faults or Faults.of_this_process(),
            partitions=settings.partitions,
            caught_up=CaughtUp(
                definition.name, books, clock, settings.engine.waiters_max, settings.engine.poll_interval_s,
                forgets=store.capabilities.may_forget,
            ),
            progress=progress,
            tracing=NO_TRACING if tracing is None else tracing.of(definition.name, system),
            measured=Measured(system),
        )  # fmt: skip
        self.when_hung: Callable[[], None] = lambda: None  # of the worker, whichever it is by then
        self._positions = Positions(definition.name, store, settings.trust)
        self._tables = tables
        self._worker: Worker | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._watch: SchemaWatch | None = None
        self._watching: asyncio.Task[None] | None = None
        self._home: Home | None = None

    def _hung(self) -> None:
        self.when_hung()

    @property
    def worker(self) -> Worker | None:
        return self._worker

    async def start(self, *, work: bool = True) -> None:
        """Open everything, check the topics, begin to work. Raises what the adapters do; nothing is left open then.

        Does not wait for a broker that is down: see `ready`.
        """
        if self._worker is not None:
            return
        check_fits(self.definition, self.store.capabilities)
        self._home = Home(self.definition.name)
        self.context.waiting.ended = False
        self.context.caught_up.begin()
        try:
            await self._patiently(lambda: self._open_store(work=work))
            if work:
                self._worker = Worker(self.context)
                self._worker.when_hung = self._hung
            else:
                self._watch = SchemaWatch(self.context)
                self._watching = asyncio.create_task(self._watch.run(), name=f"ensue {self.definition.name} schema")
            try:
                await self._begin()
            except RetryableError as error:
                log.warning("%s: the broker: %s; waiting for it", self.definition.name, error)
                self._connecting = asyncio.create_task(self._begin_later(), name=f"ensue {self.definition.name} broker")
        except BaseException:
            await self.stop()
            raise

    async def _open_store(self, *, work: bool) -> None:
        await self.store.open()
        await self.store.make_own(())  # nothing by now, but this user may not be allowed to work here
        await upgrade(self.context)
        if self.store.capabilities.publishes:
            await self._hallmarked.begin(self.store)
        # Without sessions a table begins with its first row. The database may go away between the two.
        if self.store.capabilities.sessions:
            if self._tables is not None:
                await self._make_tables(self._tables)
            await check_entity_tables(self.definition, self.store, known=self._tables)
            await warn_of_what_is_kept_otherwise(self.definition, self.store)
        if work and self.context.dispatcher.timers:
            await arm(self.context)

    async def _patiently(self, work: Callable[[], Awaitable[None]], log: Logger = log) -> None:
        """Without its database a service is nothing: wait for one that is starting too, but not for ever."""
        clock = self.context.clock
        until, pause = clock.monotonic() + STORE_WAIT_S, _PAUSE_FIRST_S
        while True:
            try:
                await work()
                return
            except RetryableError as error:
                if clock.monotonic() + pause > until:
                    raise
                log.warning("%s: the database: %s; again in %.1f s", self.definition.name, error, pause)
            await clock.sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX_S)

    async def _begin(self) -> None:
        """Open the broker, check the topics, begin to work. Raises RetryableError when the broker is down."""
        await self.broker.open()
        for topic in self._topics():
            terms = await self.broker.ensure_topic(topic, self.settings.partitions)
            check_kept(topic, terms, self.settings.engine.retention_s)
            warn_of_a_shorter_log(self.definition, topic, terms)
            self.context.dispatcher.heed(topic, terms)
        await self.broker.ensure_topic(CONTROL_TOPIC, 1)
        if self._worker is not None:
            await self._worker.start()

    async def _begin_later(self) -> None:
        pause = _PAUSE_FIRST_S
        while True:
            await self.context.clock.sleep(pause * self.context.random.uniform(0.5, 1.0))
            pause = min(pause * 2, _PAUSE_MAX_S)
            try:
                await self._begin()
            except RetryableError as error:
                log.warning("%s: the broker: %s; again in %.1f s", self.definition.name, error, pause)
            except UsageError as error:
                log.critical("%s: the broker: %s", self.definition.name, error)
                if self._worker is not None:
                    self._worker.fail(error)
                return
            except BaseException as error:
                if ends_loop(error):
                    raise
                # A defect of ours or of an adapter: nobody waits for this task, so it must not end without a word.
                log.exception("%s: the broker: unexpected; again in %.1f s", self.definition.name, pause)
            else:
                log.info("%s: the broker answers", self.definition.name)
                return

    async def _make_tables(self, tables: MetaData) -> None:
        """Create what is missing. A table that is there is not changed: without a column each event would fail."""
        if missing := await self.store.create_tables(tables):
            raise UsageError(
                f"the database of service {self.definition.name} lacks {', '.join(missing)}; "
                "tables that are there are never changed: they want a migration (e.g. alembic)"
            )

    async def wait_failed(self) -> None:
        """Return when the worker cannot go on, see `Worker.failed`; without one, never."""
        if self._worker is None:
            await asyncio.Event().wait()
        else:
            await self._worker.wait_failed()

    async def ready(self) -> None:
        """Return when the worker has its first share of the work."""
        if self._worker is not None:
            await self._worker.ready()

    async def unhealthy(self, answer_s: float = 2.0) -> list[str]:
        """Why this process is of no use at all: its database does not answer within answer_s. Empty: it is."""
        reason = await store_reason(self.context, answer_s)
        return [reason] if reason else []

    async def readiness(self, limits: ReadyLimits | None = None) -> list[str]:
        """Why this process should not be given work now, each reason a line for people; empty when it is ready."""
        connecting = self._connecting is not None and not self._connecting.done()
        reasons = await not_ready(self.context, self._worker, connecting=connecting, limits=limits or ReadyLimits())
        refused = self._watch.refused if self._watch is not None else None
        return reasons if refused is None else [Detailed(str(refused), type(refused).__name__), *reasons]

    async def remarks(self, limits: ReadyLimits | None = None) -> list[str]:
        """What is worth a look, and no reason not to be given work: parked sagas, and those for which this process has
        no code."""
        return await remarks(self.context, (limits or ReadyLimits()).answer_s)

    async def stop(self) -> None:
        """Finish the batches at hand, give up the leases, close."""
        connecting, self._connecting = self._connecting, None
        watching, self._watching, self._watch = self._watching, None, None
        worker, self._worker = self._worker, None
        try:
            await self.context.waiting.end()
            await self.context.caught_up.end()
            if beside := [task for task in (connecting, watching) if task is not None]:
                for task in beside:
                    task.cancel()
                await asyncio.gather(*beside, return_exceptions=True)
            if worker is not None:
                await worker.stop()
        finally:
            self.context.dispatcher.threads.close()
            try:
                await self.broker.close()
            finally:
                await self.store.close()

    def _topics(self) -> list[str]:
        published = {event_type(cls).topic for cls in (*(self.definition.publishes or ()), *self.definition.calls)}
        return sorted(published | set(self.definition.subscribed_topics))

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop on which it was started in this process; None: it was not."""
        return self._home.loop if self._home is not None and self._home.here else None

    def check_process(self) -> None:
        """Raise UsageError in a fork of the process in which it was started."""
        if self._home is not None:
            self._home.check_process()

    def _check_home(self) -> None:
        if self._home is not None:
            self._home.check()

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        self._check_home()
        return self.store.reading()

    def rows(self) -> RowReader:
        self._check_home()
        return self.store.rows()

    @property
    def _refused(self) -> StoreOutdated | None:
        """Why this process must not write to its database any more."""
        if self._watch is not None:
            return self._watch.refused
        failed = self._worker.failed if self._worker is not None else None
        return failed if isinstance(failed, StoreOutdated) else None

    async def call(self, command: Command[Any], timeout_s: float) -> Any:
        """See `Service.call`."""
        self._check_home()
        return await call(self.context, self.step, command, timeout_s)

    async def ended(self, saga: Callable[..., Any], saga_id: object, timeout_s: float) -> SagaEnd[Any]:
        """See `Service.ended`."""
        self._check_home()
        return await ended(self.context, saga, saga_id, timeout_s)

    async def caught_up(self, token: Token | str, timeout_s: float) -> None:
        """See `Service.caught_up`."""
        self._check_home()
        await caught_up(self.context, token, timeout_s, self.settings.trust)

    async def token_at(self, places: Iterable[tuple[str, int]]) -> Token:
        """For all that is committed in these places, (topic, partition), by now: for an answer that is given again."""
        self._check_home()
        return await self._positions.of_heads(places)

    @asynccontextmanager
    async def step(self) -> AsyncIterator[Step]:
        """A step that begins outside: HTTP, command line, test. Commits when the block ends, else rolls back.

        Raises StoreOutdated when a newer Ensue has made the database its own.
        """
        self._check_home()
        if (refused := self._refused) is not None:
            raise refused
        requested = current_origin()
        await check_step(self.definition.name, requested=requested is not None)
        origin = requested or Origin()
        keyed = bool(origin.idempotency_key)  # a task that outlives the request has its origin, without the key
        if keyed and self.definition.name in origin.answered:
            raise UsageError(
                f"a second step of {self.definition.name} in a request with an Idempotency-Key, whose answer is kept "
                "with the first one: what this one does would be done again each time the request is sent again. Do it "
                "in the first one, or in a handler of an event that the first one publishes"
            )
        faults, books = self.context.faults, self.context.books
        with self.context.tracing.step(Carrier(origin.traceparent, origin.tracestate)) as trace, self._measured():
            try:
                with stepping(self.definition.name):
                    async with self.store.transaction() as transaction:
                        if keyed:
                            stored = await books.answer(transaction, origin.idempotency_key)
                            if stored is not None:
                                origin.met(stored)
                        faults.point("step.begun")
                        step = self.context.dispatcher.outside_step(
                            transaction, origin.correlation_id, origin.traceparent, origin.idempotency_key
                        )
                        step.outgoing.trace = trace
                        with origin.holding(step, partial(books.keep_answer, transaction)):
                            yield step
                            if (keyed and origin.earlier is not None) or (origin.refused and step in origin.steps):
                                raise _Undone
                        if origin.fingerprint and not origin.settled:
                            raise UsageError(
                                "a request with an Idempotency-Key: this step would commit before the answer is known, "
                                "so a retry would do it again. Take the request's own step: with FastAPI "
                                f'Depends({self.definition.name}.step, scope="function"), with Starlette '
                                f"@in_step({self.definition.name})"
                            )
                        faults.point("step.handled")
                        await transaction.flush()  # entities first: their row locks put the outbox records in order
                        await step.outgoing.streams.save(transaction)
                        timers = await put(transaction, step.outgoing.close())
                        faults.point("step.outbox_written")
                faults.point("step.committed")
                step.outgoing.positions = self._positions.of_records
                if origin.committed is not None:
                    origin.committed.append(step)
                if timers:
                    self.context.timer_set.set()
            except _Undone:  # the request gets its answer all the same
                if origin.refused:
                    self.context.measured.rolled_back(None)
                return

    @contextmanager
    def _measured(self) -> Iterator[None]:
        """A step is open in this block."""
        clock, measured = self.context.clock, self.context.measured
        began = clock.monotonic()
        try:
            yield
        except BaseException as error:
            if not isinstance(error, AlreadyAnswered):
                measured.rolled_back(error)
            raise
        finally:
            measured.stepped(clock.monotonic() - began)


def _first(*given: float | None) -> float:
    return next((each for each in given if each is not None), 0.0)
