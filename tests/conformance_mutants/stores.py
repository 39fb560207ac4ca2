"""Stores with one fault each, wrapped around a healthy one. The conformance suite must reject every one of them.

They show that the suite can fail, and how such faults look from outside: each is a mistake that is easily made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from ensue.errors import RowConflict
from ensue.message import OutboxRecord
from ensue.ports import Lookup, Row, RowReader, StepTransaction, Store, Successor, Table
from ensue.tables import CHECKPOINTS, CLAIMS, LEASES


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
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        async with self.healthy.transaction(upkeep=upkeep) as healthy:
            yield self.wrapper(healthy)


# ---------------------------------------------------------------------------------------------------------- the steps


class _Remembering(WrappedTransaction):
    """Knows what was done in it, for the store to do again outside of it."""

    def __init__(self, healthy: StepTransaction) -> None:
        super().__init__(healthy)
        self.inserted: list[tuple[Table, Sequence[Row]]] = []
        self.published: list[OutboxRecord] = []

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        self.inserted.append((table, rows))
        await self.healthy.insert_rows(table, rows)

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        self.published += records
        await self.healthy.outbox_add(records)


class _KeepsAfterRollback(WrappedStore):
    """A step that rolled back leaves something behind, as when it was written through another connection."""

    wrapper = _Remembering

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        remembering: Any = None
        try:
            async with super().transaction(upkeep=upkeep) as remembering:
                yield remembering
        except BaseException:
            if remembering is not None:
                async with self.healthy.transaction() as healthy:
                    await self.keep(remembering, healthy)
            raise

    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        raise NotImplementedError


class KeepsACheckpointAfterARollback(_KeepsAfterRollback):
    table = CHECKPOINTS

    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        for table, rows in rolled_back.inserted:
            known = {row[0] for row in await healthy.load_rows(table, [row[0] for row in rows])}
            if table is self.table:
                await healthy.insert_rows(table, [row for row in rows if row[0] not in known])


class KeepsAnInboxClaimAfterARollback(KeepsACheckpointAfterARollback):
    table = CLAIMS


class PublishesBeforeTheCommit(_KeepsAfterRollback):
    """The dual write: what a step published goes out although the step rolled back."""

    async def keep(self, rolled_back: _Remembering, healthy: StepTransaction) -> None:
        await healthy.outbox_add(rolled_back.published)


class CommitsWhatWasCancelled(WrappedStore):
    """Takes a cancelled block for one that has ended."""

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        cancelled: asyncio.CancelledError | None = None
        async with self.healthy.transaction(upkeep=upkeep) as healthy:
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
        self._stale: dict[Any, Row] = {}

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        async with self.healthy.transaction(upkeep=upkeep) as healthy:
            yield _Caching(healthy, self._stale)


class _Caching(WrappedTransaction):
    def __init__(self, healthy: StepTransaction, stale: dict[Any, Row]) -> None:
        super().__init__(healthy)
        self._stale = stale

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
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


class SendsHistoryAgain(WrappedStore):
    """Begins a new epoch with everything that the old one had sent."""

    async def new_epoch(self, published_through: int, ends: str) -> str:
        return await self.healthy.new_epoch(0, ends)


class EndsWhateverEpochThereIs(WrappedStore):
    """Looks who it is, and then begins a new epoch, without a look at what it ends."""

    async def new_epoch(self, published_through: int, ends: str) -> str:
        await self.healthy.outbox_after(0, 1)
        return await self.healthy.new_epoch(published_through, self.healthy.source)


class ForgetsWhatItFollowsOn(WrappedStore):
    """Goes on at the right position after another store, as if nothing had been in its partitions before."""

    class wrapper(WrappedTransaction):
        async def take_over(self, source: str, position: int, heads: Mapping[tuple[str, int], int]) -> None:
            await cast(Successor, self.healthy).take_over(source, position, {})


# ------------------------------------------------------------------------------------- rows of Ensue's own tables


class IgnoresTheRevision(WrappedStore):
    """Updates a row whoever else has changed it: the last one wins."""

    class wrapper(WrappedTransaction):
        async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
            await self.healthy.update_rows(table, rows)


class MakesATableAnew(WrappedStore):
    """Puts a new table in the place of one that another process has made, and filled, already."""

    async def make_own(self, own: Sequence[Table]) -> None:
        await self.healthy.make_own(own)
        async with self.healthy.transaction() as healthy:
            for table in own:
                [lookup] = table.lookups
                rows = await self.healthy.rows().find(table, lookup, ["here"], limit=100)
                await healthy.delete_rows(table, [row[0] for row in rows])


class DeletesWhatItDoesNotExpect(WrappedStore):
    """Does not look whether the row was still there, as it was loaded."""

    class wrapper(WrappedTransaction):
        async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
            await self.healthy.delete_rows(table, ids)


class InsertsOverARow(WrappedStore):
    """Puts an own row in the place of the one that is there, as an upsert does."""

    class wrapper(WrappedTransaction):
        async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
            if table.own:
                await self.healthy.delete_rows(table, [row[0] for row in rows])
            await self.healthy.insert_rows(table, rows)


class PassesOverARowThatIsThere(WrappedStore):
    """Leaves the own row that is there and says nothing, as `INSERT OR IGNORE` does."""

    class wrapper(WrappedTransaction):
        async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
            known = [row[0] for row in await self.healthy.load_rows(table, [row[0] for row in rows])]
            await self.healthy.insert_rows(table, [row for row in rows if not table.own or row[0] not in known])


class CommitsAfterACaughtConflict(WrappedStore):
    """Raises what it must, and commits the rest of the step if nobody passes the error on."""

    class wrapper(WrappedTransaction):
        async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
            await self._look(table, [row[0] for row in rows], expect)
            await self.healthy.update_rows(table, rows, expect=expect)

        async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
            await self._look(table, ids, expect)
            await self.healthy.delete_rows(table, ids, expect=expect)

        async def _look(self, table: Table, ids: Sequence[Any], expect: Sequence[Any]) -> None:
            if not expect:
                return
            at = table.columns.index(table.revision)
            found = {row[0]: row[at] for row in await self.healthy.load_rows(table, ids)}
            if [found.get(each) for each in ids] != list(expect):
                raise RowConflict("not as expected")


class DeletesNothing(WrappedStore):
    """Takes what was to be deleted for gone."""

    class wrapper(WrappedTransaction):
        async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
            pass


class HandsOutTwoLeases(WrappedStore):
    """Looks at a row before its turn has come, and overwrites what has become of it meanwhile."""

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        seen = await self.healthy.rows().get(LEASES, ["leases"])
        await asyncio.sleep(0)
        async with self.healthy.transaction(upkeep=upkeep) as healthy:
            yield _Late(healthy, seen)


class _Late(WrappedTransaction):
    def __init__(self, healthy: StepTransaction, seen: Sequence[Row]) -> None:
        super().__init__(healthy)
        self._seen = seen

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        return self._seen if table is LEASES else await self.healthy.load_rows(table, ids)

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        if table is LEASES:
            await self.healthy.delete_rows(table, [row[0] for row in rows])
        await self.healthy.insert_rows(table, rows)

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        await self.healthy.update_rows(table, rows)


class StandsStill(WrappedStore):
    """Tells each transaction the time of the first one: what holds until a moment holds for ever."""

    first: float | None = None

    @asynccontextmanager
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        async with self.healthy.transaction(upkeep=upkeep) as healthy:
            if self.first is None:
                self.first = healthy.now
            yield _At(healthy, self.first)


class _At(WrappedTransaction):
    def __init__(self, healthy: StepTransaction, now: float) -> None:
        super().__init__(healthy)
        self.now = now


class CountsAPage(WrappedStore):
    """Counts no further than a first page of rows."""

    def rows(self) -> Any:
        return _FirstPages(self.healthy.rows())


# ----------------------------------------------------------------------------------------------------------- sessions


class KeepsWhatASavepointTookBack(WrappedStore):
    """Rolls a savepoint's rows back, and not what was published in it."""

    class wrapper(WrappedTransaction):
        def follow(self, published: list[OutboxRecord]) -> None: ...


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
    async def transaction(self, *, upkeep: bool = False, snapshot: bool = False) -> AsyncIterator[Any]:
        async with self.healthy.transaction(upkeep=upkeep) as healthy:
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


class _FirstPages:
    def __init__(self, healthy: RowReader) -> None:
        self.healthy = healthy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.healthy, name)

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        return min(await self.healthy.count(table, lookup, equal), 50)


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
        backward: bool = False,
    ) -> Sequence[Row]:
        limit += bool(after)
        where: dict[str, Any] = {"since": since, "after": after, "limit": limit, "backward": backward}
        found = await self.healthy.find(table, lookup, equal, **where)
        return found[1:] if after else found


class _RowsAfterNothing(_RowsOfPages):
    """Compares with nothing as SQL does: no row comes after it."""

    async def find(self, table: Table, lookup: Lookup, equal: Sequence[Any], **where: Any) -> Sequence[Row]:
        return [] if None in where.get("after", ()) else await self.healthy.find(table, lookup, equal, **where)


class EndsAfterNothing(WrappedStore):
    def rows(self) -> Any:
        return _RowsAfterNothing(self.healthy.rows())


class _RowsForwardAlone(_RowsOfPages):
    async def find(self, table: Table, lookup: Lookup, equal: Sequence[Any], **where: Any) -> Sequence[Row]:
        return await self.healthy.find(table, lookup, equal, **{**where, "backward": False})


class NeverReadsBackward(WrappedStore):
    def rows(self) -> Any:
        return _RowsForwardAlone(self.healthy.rows())


class _RowsAsText(_RowsOfPages):
    async def find(self, table: Table, lookup: Lookup, equal: Sequence[Any], **where: Any) -> Sequence[Row]:
        found = await self.healthy.find(table, lookup, equal, **where)
        if table.placed != lookup.order[:1]:
            return found
        return sorted(found, key=lambda row: str(row[table.columns.index(lookup.order[0])]))


class SortsNumbersAsText(WrappedStore):
    def rows(self) -> Any:
        return _RowsAsText(self.healthy.rows())


class SkipsARowBetweenPages(WrappedStore):
    def rows(self) -> Any:
        return _RowsOfPages(self.healthy.rows())
