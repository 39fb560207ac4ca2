"""One service, running: its store and broker open, its worker's loops going, steps for those who come from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from random import Random
from typing import TYPE_CHECKING

from ensue.config import Settings
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.context import Context
from ensue.engine.dispatch import Dispatcher
from ensue.engine.faults import Faults
from ensue.engine.worker import Worker
from ensue.errors import IdempotencyMismatch, UsageError
from ensue.event import event_type
from ensue.message import CONTROL_TOPIC
from ensue.origin import AlreadyAnswered, Origin, current_origin
from ensue.ports import Broker, Clock, Ids, Store
from ensue.retry import Retry
from ensue.service import ServiceDefinition
from ensue.step import Step

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession


class Runtime:
    """Owns store, broker and worker of one service in this process. start and stop, each safe to repeat.

    tables: the user's, created at start when they do not exist. work: False serves steps and queries only.
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
    ) -> None:
        ids = ids or UniqueIds()
        self.definition = definition
        self.store = store
        self.broker = broker
        self.settings = settings
        self.context = Context(
            service=definition.name,
            store=store,
            broker=broker,
            dispatcher=Dispatcher(definition, ids, settings.partitions),
            config=settings.engine,
            retry=retry or definition.retry or settings.engine.retry,
            clock=clock or SystemClock(),
            ids=ids,
            random=random or Random(),
            faults=Faults(settings.fault),
            partitions=settings.partitions,
            progress=progress,
        )
        self._tables = tables
        self._worker: Worker | None = None

    @property
    def worker(self) -> Worker | None:
        return self._worker

    async def start(self, *, work: bool = True) -> None:
        """Open everything, check the topics, begin to work. Raises what the adapters do; nothing is left open then."""
        if self._worker is not None:
            return
        await self.store.open()
        try:
            await self.broker.open()
            if self._tables is not None:
                await self._make_tables(self._tables)
            for topic in self._topics():
                await self.broker.ensure_topic(topic, self.settings.partitions)
            await self.broker.ensure_topic(CONTROL_TOPIC, 1)
            if work:
                self._worker = Worker(self.context)
                await self._worker.start()
        except BaseException:
            await self.stop()
            raise

    async def _make_tables(self, tables: MetaData) -> None:
        """Create what is missing. A table that is there is not changed: without a column each event would fail."""
        await self.store.create_tables(tables)
        if missing := await self.store.missing_tables(tables):
            raise UsageError(
                f"the database of service {self.definition.name} lacks {', '.join(missing)}; "
                "tables that are there are never changed: they want a migration (e.g. alembic)"
            )

    async def ready(self) -> None:
        """Return when the worker has its first share of the work."""
        if self._worker is not None:
            await self._worker.ready()

    async def stop(self) -> None:
        """Finish the batches at hand, give up the leases, close."""
        worker, self._worker = self._worker, None
        try:
            if worker is not None:
                await worker.stop()
        finally:
            await self.broker.close()
            await self.store.close()

    def _topics(self) -> list[str]:
        published = {event_type(cls).topic for cls in self.definition.publishes or ()}
        return sorted(published | set(self.definition.subscribed_topics))

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        return self.store.reading()

    @asynccontextmanager
    async def step(self) -> AsyncIterator[Step]:
        """A step that begins outside: HTTP, command line, test. Commits when the block ends, else rolls back."""
        origin = current_origin() or Origin()
        faults = self.context.faults
        async with self.store.transaction() as transaction:
            if origin.idempotency_key:
                stored = await transaction.response_load(origin.idempotency_key)
                if stored is not None:
                    if stored.fingerprint != origin.fingerprint:
                        raise IdempotencyMismatch(
                            f"Idempotency-Key {origin.idempotency_key!r} was used for another request: "
                            "send the same request again, or use a new key",
                            key=origin.idempotency_key,
                        )
                    raise AlreadyAnswered(stored)
            faults.point("step.begun")
            step = self.context.dispatcher.outside_step(
                transaction, origin.correlation_id, origin.traceparent, origin.idempotency_key
            )
            origin.step = step
            try:
                yield step
            finally:
                origin.step = None
            if origin.fingerprint and not origin.settled:
                raise UsageError(
                    f"Idempotency-Key {origin.idempotency_key!r}: this step would commit before the answer is known, "
                    "so a retry would do it again. Take the step as a dependency: "
                    f'Depends({self.definition.name}.step, scope="function")'
                )
            faults.point("step.handled")
            await transaction.flush()  # entities first: their row locks put the outbox records in order
            if records := step.outgoing.close():
                await transaction.outbox_add(records)
            faults.point("step.outbox_written")
        faults.point("step.committed")
