"""Stores with one fault each, wrapped around a healthy one. The conformance suite must reject every one of them.

They show that the suite can fail, and how such faults look from outside: each is a mistake that is easily made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from ensue.message import Checkpoint, DeadLetterState, Lease, LeaseTable, OutboxRecord, Partition
from ensue.ports import Lookup, RowReader, StepTransaction, Store, Table


class WrappedTransaction:
    """Hands everything on to a healthy transaction; a subclass spoils one thing."""

    def __init__(self, healthy: StepTransaction) -> None:
        self.healthy = healthy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.healthy, name)


class WrappedStore:
    """Hands everything on to a healthy store; a subclass spoils one thing. wrapper: what its transactions are."""

    wrapper: type[WrappedTransaction] = WrappedTransaction

    def __init__(self, healthy: Store) -> None:
        self.healthy = healthy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.healthy, name)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.healthy.transaction() as healthy:
            yield self.wrapper(healthy)


# ---------------------------------------------------------------------------------------------------------- the steps


class _Remembering(WrappedTransaction):
    """Knows what was done in it, for the store to do again outside of it."""

    def __init__(self, healthy: StepTransaction) -> None:
        super().__init__(healthy)
        self.checkpoints: list[tuple[Partition, Checkpoint, list[str]]] = []
        self.claims: list[tuple[str, Sequence[tuple[str, str]]]] = []
        self.published: list[OutboxRecord] = []

    async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
        self.checkpoints.append((partition, checkpoint, list(sources)))
        await self.healthy.save_checkpoint(*self.checkpoints[-1])

    async def inbox_claim(self, subscription: str, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        self.claims.append((subscription, messages))
        return await self.healthy.inbox_claim(subscription, messages)

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self.published += records
        await self.healthy.outbox_add(records)


class _KeepsAfterRollback(WrappedStore):
    """A step that rolled back leaves something behind, as when it was written through another connection."""

    wrapper = _Remembering

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        remembering: Any = None
        try:
            async with super().transaction() as remembering:
                yield remembering
        except BaseException:
            if remembering is not None:
                async with self.healthy.transaction() as healthy:
                    await self.keep(remembering, healthy)
            raise

    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        raise NotImplementedError


class KeepsACheckpointAfterARollback(_KeepsAfterRollback):
    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        for partition, checkpoint, sources in rolled_back.checkpoints:
            stored = await self.healthy.checkpoint_load(partition)
            if stored.revision == checkpoint.revision:
                await healthy.save_checkpoint(partition, checkpoint, sources)


class KeepsAnInboxClaimAfterARollback(_KeepsAfterRollback):
    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        for subscription, messages in rolled_back.claims:
            await healthy.inbox_claim(subscription, messages)


class PublishesBeforeTheCommit(_KeepsAfterRollback):
    """The dual write: what a step published goes out although the step rolled back."""

    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        await healthy.outbox_add(rolled_back.published)


class CommitsWhatWasCancelled(WrappedStore):
    """Takes a cancelled block for one that has ended."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        cancelled: asyncio.CancelledError | None = None
        async with self.healthy.transaction() as healthy:
            try:
                yield healthy
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled


class LosesUpdates(WrappedStore):
    """Loads entities from a cache that nobody keeps up: two steps find the same balance."""

    def __init__(self, healthy: Store) -> None:
        super().__init__(healthy)
        self._stale: dict[Any, Sequence[Any]] = {}

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.healthy.transaction() as healthy:
            yield _Caching(healthy, self._stale)


class _Caching(WrappedTransaction):
    def __init__(self, healthy: StepTransaction, stale: dict[Any, Sequence[Any]]) -> None:
        super().__init__(healthy)
        self._stale = stale

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Sequence[Any]]:
        return [self._stale.setdefault(row[0], row) for row in await self.healthy.load_rows(table, ids)]


# --------------------------------------------------------------------------------------------------------- the outbox


class LosesTheTail(WrappedStore):
    """Loses the last record of a batch."""

    class wrapper(WrappedTransaction):
        async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
            await self.healthy.outbox_add(records[:-1] if len(records) > 1 else records)


class Reorders(WrappedStore):
    """Writes the records of a batch in another order."""

    class wrapper(WrappedTransaction):
        async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
            await self.healthy.outbox_add([*records[:-2], *reversed(records[-2:])])


class SkipsALateCommit(WrappedStore):
    """Shows a record after it has shown a later one, as `WHERE id > last` does when ids are taken before the commit."""

    def __init__(self, healthy: Store) -> None:
        super().__init__(healthy)
        self._late: set[int] = set()

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        found = await self.healthy.outbox_after(position, limit)
        late = {each.position for each in found[:-1] if each.position % 10 == 0} - self._late
        self._late |= late
        return [each for each in found if each.position not in late]


class BreaksTheChain(WrappedStore):
    """Numbers each step's records as if nothing had come before."""

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        found = await self.healthy.outbox_after(position, limit)
        return [OutboxRecord(e.topic, e.partition, e.key, e.envelope, e.data, e.position, 0) for e in found]


class ForgetsHeadsWhenPruned(WrappedStore):
    """Takes the last position of a partition from the records that are left."""

    async def outbox_heads(self) -> dict[tuple[str, int], int]:
        found = await self.healthy.outbox_after(0, 1_000_000)
        return {(each.topic, each.partition): each.position for each in found}


class PrunesWhatIsUnsent(WrappedStore):
    """Goes by age alone."""

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        return await self.healthy.outbox_prune(before_s, 1 << 62, limit)


class NeverWakes(WrappedStore):
    """Leaves a waiting relay asleep until its time is up."""

    async def outbox_wait(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)


class MissesWhatCameBeforeTheWait(WrappedStore):
    """Is woken only by what happens while it waits."""

    async def outbox_wait(self, timeout_s: float) -> None:
        await self.healthy.outbox_after(1 << 62, 1)  # what has happened by now is taken for seen
        await self.healthy.outbox_wait(timeout_s)


class MovesTheRelayBack(WrappedStore):
    """Stores whatever position it is given."""

    def __init__(self, healthy: Store) -> None:
        super().__init__(healthy)
        self._position = 0

    async def relay_save(self, position: int) -> None:
        self._position = position

    async def relay_load(self) -> int:
        return self._position


class SendsHistoryAgain(WrappedStore):
    """Begins a new epoch with everything that the old one had sent."""

    async def new_epoch(self, published_through: int) -> str:
        return await self.healthy.new_epoch(0)


# ------------------------------------------------------------------------------------------- consumer, letters, leases


class IgnoresTheRevision(WrappedStore):
    """Saves a checkpoint whoever else has moved it: the last one wins."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.healthy.transaction() as healthy:
            yield _Overwriting(healthy, self.healthy)


class _Overwriting(WrappedTransaction):
    def __init__(self, healthy: StepTransaction, store: Store) -> None:
        super().__init__(healthy)
        self._store = store

    async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
        stored = await self._store.checkpoint_load(partition)
        forced = Checkpoint(
            checkpoint.offset, stored.revision, checkpoint.watermarks, checkpoint.gaps, checkpoint.counters
        )
        await self.healthy.save_checkpoint(partition, forced, sources)


class SavesEveryWatermark(WrappedStore):
    """Writes the watermarks of all sources, also those that this batch knows nothing new of."""

    class wrapper(WrappedTransaction):
        async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
            await self.healthy.save_checkpoint(partition, checkpoint, list(checkpoint.watermarks))


class ClaimsForEverybody(WrappedStore):
    """Keeps one inbox for all subscriptions."""

    class wrapper(WrappedTransaction):
        async def inbox_claim(self, subscription: str, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
            return await self.healthy.inbox_claim("", messages)


class RemovesALetterTwice(WrappedStore):
    """Does not look whether the letter was still there."""

    class wrapper(WrappedTransaction):
        async def dead_letter_remove(self, ids: Sequence[int]) -> None:
            pass


class DecidesTwice(WrappedStore):
    """Lets an operator decide again on what was decided."""

    async def dead_letter_decide(self, letter_id: int, state: DeadLetterState) -> Any:
        stored = await self.healthy.dead_letter_get(letter_id)
        if stored is not None and stored.state is DeadLetterState.DISCARDED:
            return stored
        return await self.healthy.dead_letter_decide(letter_id, state)


class HandsOutTwoLeases(WrappedStore):
    """Looks whether a lease is free, and takes it later."""

    async def heartbeat(self, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]) -> LeaseTable:
        before = {lease.name for lease in (await self.healthy.leases()).leases}
        await asyncio.sleep(0)
        table = await self.healthy.heartbeat(worker, ttl_s, acquire, release)
        taken = set(acquire) - before
        leases = [Lease(each.name, worker, ttl_s) if each.name in taken else each for each in table.leases]
        return LeaseTable(table.workers, tuple(leases))


class NeverTakesOver(WrappedStore):
    """Keeps a lease for a worker that is long gone."""

    async def heartbeat(self, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]) -> LeaseTable:
        return await self.healthy.heartbeat(worker, 1e9, acquire, release)


# ----------------------------------------------------------------------------------------------------------- sessions


class LetsAHandlerCommit(WrappedStore):
    """Gives the session's own commit() to the handler, which ends the step in the middle."""

    class wrapper(WrappedTransaction):
        @property
        def session(self) -> Any:
            return _Committing(self.healthy.session)


class _Committing:
    def __init__(self, session: Any) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    async def commit(self) -> None:
        await self._session.flush()


class ReadsWhatIsNotCommitted(WrappedStore):
    """Reads through the connection of the step that is open."""

    open_session: Any = None

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        async with self.healthy.transaction() as healthy:
            if self.healthy.capabilities.sessions:
                self.open_session = healthy.session
            try:
                yield healthy
            finally:
                self.open_session = None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Any]:
        if self.open_session is not None:
            yield self.open_session
            return
        async with self.healthy.reading() as session:
            yield session


# ------------------------------------------------------------------------------------------------------- the queries


class _RowsOfPages:
    """Takes the first row of the next page for the last one of this page."""

    def __init__(self, healthy: RowReader) -> None:
        self.healthy = healthy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.healthy, name)

    async def find(
        self,
        table: Table,
        lookup: Lookup,
        equal: Sequence[Any],
        *,
        since: Sequence[Any] = (),
        after: Sequence[Any] = (),
        limit: int,
    ) -> Sequence[Sequence[Any]]:
        found = await self.healthy.find(table, lookup, equal, since=since, after=after, limit=limit + bool(after))
        return found[1:] if after else found


class SkipsARowBetweenPages(WrappedStore):
    def rows(self) -> Any:
        return _RowsOfPages(self.healthy.rows())
