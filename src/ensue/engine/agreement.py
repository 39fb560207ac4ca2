"""Whether the rows of a view are what follows from its events, and the view as it was at a time.

The fold ends exactly where the rows were: both the rows and the watermarks are of one state of the database. First the
sums of buckets are compared; where they differ, rows and watermarks are read again, the same fold goes on up to those,
and the rows of these buckets are compared one by one. A second fold tells columns that no event decides.
"""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.config import Settings
from ensue.definition import ServiceDefinition
from ensue.engine.books import Books
from ensue.engine.fold import check_foldable, fold
from ensue.engine.lookup import each_between
from ensue.engine.snapshot import Compared, Found, Snapshot, snapshot, tables_of
from ensue.errors import StoreConflict, UsageError
from ensue.message import Checkpoint, DeadLetter, Message, Partition
from ensue.ports import Broker, Store
from ensue.views.bounded import Bound, Where
from ensue.views.moments import Moments
from ensue.views.sums import Difference, Rows, Sums, canonical, differences, row_bytes

if TYPE_CHECKING:
    from sqlalchemy import MetaData

#: So often rows that move while they are read are read again.
_READS_MAX = 5


class Verdict(msgspec.Struct, frozen=True):
    """rows: how many were compared, by table. differences: what is not as the events have it. unsteady: columns that
    two folds of the same events do not agree on, `table.column`. set_aside: how many messages are left out on both
    sides, since they have taken no effect."""

    rows: Mapping[str, int]
    differences: Sequence[Difference] = ()
    unsteady: Sequence[str] = ()
    set_aside: int = 0

    @property
    def agrees(self) -> bool:
        return not self.differences and not self.unsteady


@dataclasses.dataclass(frozen=True, slots=True)
class Folds:
    """What is folded. scratch: makes a store that is not open at a scratch place, by its number, always the same one;
    live: one of the rows that are compared, not open. broker: makes the log, not open. read: see `fold`."""

    definition: ServiceDefinition
    live: Callable[[], Store]
    scratch: Callable[[int], Store]
    broker: Callable[[], Broker]
    settings: Settings
    tables: MetaData | None
    read: Callable[[int, int], None] = lambda done, total: None

    @asynccontextmanager
    async def opened(self, make: Callable[[], Store]) -> AsyncIterator[tuple[Store, Books]]:
        store = make()
        await store.open()
        try:
            yield store, Books(store, self.definition.name)
        finally:
            await store.close()

    async def into(self, number: int, bounds: Mapping[Where, Bound], like: Mapping[Where, Checkpoint]) -> None:
        await fold(
            self.definition, self.scratch(number), self.broker(), self.settings, bounds, tables=self.tables, like=like,
            read=self.read,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------------------- checking

    async def check(self, ignore: Collection[str] = ()) -> Verdict:
        """Compare. ignore: columns that are left out, `table.column` or `table`. Raises UsageError for one that there
        is not, and FoldFailed."""
        check_foldable(self.definition)
        async with self.opened(self.live) as (store, books):
            compared = left_out(tables_of(self.definition, self.tables, store), ignore)
            secret, whole = secrets.token_bytes(32), store.capabilities.transactions
            stood, sums = await _read(store, books, lambda found: _sums(found, compared, secret))
        await self.into(0, stood.bounds, stood.checkpoints)
        async with self.opened(lambda: self.scratch(0)) as (scratch, of_scratch):
            _, folded = await _read(scratch, of_scratch, lambda found: _sums(found, compared, secret))
        counts = {each.name: sums[each.name].count for each in compared}
        buckets = {each.name: sums[each.name].differing(folded[each.name]) for each in compared}
        if not any(buckets.values()):
            return Verdict(counts, set_aside=stood.set_aside)
        found, unsteady, set_aside = await self._apart(compared, buckets, secret)
        if found and not whole:
            # Of a batch that is written one document after the other, some may have been there; now all of it is.
            named = {(each.table, each.key) for each in found}
            found, unsteady, set_aside = await self._apart(compared, buckets, secret)
            found = [each for each in found if (each.table, each.key) in named]
        return Verdict(counts, found, sorted(unsteady), set_aside)

    async def _apart(
        self, compared: Sequence[Compared], buckets: Mapping[str, Collection[int]], secret: bytes
    ) -> tuple[list[Difference], set[str], int]:
        """Compare the rows of these buckets, read anew; return what differs, columns that two folds do not agree on,
        and how many messages are set aside."""
        async with self.opened(self.live) as (store, books):
            stood, rows = await _read(store, books, lambda found: _rows(found, compared, buckets, secret))
        folds = []
        for number in (0, 1):
            await self.into(number, stood.bounds, stood.checkpoints)
        for number in (0, 1):
            async with self.opened(lambda number=number: self.scratch(number)) as (scratch, of_scratch):  # type: ignore[misc]
                folds.append((await _read(scratch, of_scratch, lambda f: _rows(f, compared, buckets, secret)))[1])
        first, second = folds
        unsteady = {
            f"{each.name}.{column}"
            for each in compared
            for difference in differences(each.name, first[each.name], second[each.name])
            for column in difference.columns or ("*",)
        }
        found = [each for table in compared for each in differences(table.name, rows[table.name], first[table.name])]
        return [each for each in found if not _explained(each, unsteady)], unsteady, stood.set_aside

    # -------------------------------------------------------------------------------------------------- time travel

    async def at(self, moment: float, key: str | None = None) -> dict[Where, Bound]:
        """Fold into scratch place 0 what was published up to a time, seconds since the epoch; return how far that is.

        key: of the messages of this key alone. By the clocks of those who published, which are not one clock.
        """
        check_foldable(self.definition)
        async with self.opened(self.live) as (_, books):
            checkpoints = {(each.topic, each.number): found for each, found in (await books.checkpoints()).items()}
            letters = await books.letters(limit=2**31 - 1)
        bounds: dict[Where, Bound] = {}
        broker = self.broker()
        await broker.open()
        try:
            for where, checkpoint in checkpoints.items():
                end = (await broker.bounds(*where)).last
                moments = Moments(moment)
                async for record in each_between(broker, *where, 0, end):
                    if isinstance(record, Message):
                        moments.add(record)
                through = {
                    source: min(position, checkpoint.watermarks[source])
                    for source, position in moments.positions.items()
                    if source in checkpoint.watermarks
                }
                offset = min(moments.offset, checkpoint.offset)
                bounds[where] = Bound(through=through, offset=offset, without=_aside(letters, where), key=key)
        finally:
            await broker.close()
        await self.into(0, bounds, checkpoints)
        return bounds

    @asynccontextmanager
    async def folded(self) -> AsyncIterator[tuple[Snapshot, list[Compared]]]:
        """What is in scratch place 0."""
        async with self.opened(lambda: self.scratch(0)) as (store, books), snapshot(store, books) as found:
            yield found, tables_of(self.definition, self.tables, store)


@dataclasses.dataclass(frozen=True, slots=True)
class Stood:
    """How far the rows had come when they were read."""

    checkpoints: Mapping[Where, Checkpoint]
    bounds: Mapping[Where, Bound]
    set_aside: int


def stood(checkpoints: Mapping[Partition, Checkpoint], letters: Sequence[DeadLetter]) -> Stood:
    """Raises UsageError where a part of the log is being read again, since then the rows are of no one position."""
    found = {(each.topic, each.number): checkpoint for each, checkpoint in checkpoints.items()}
    again = sorted(f"{topic}/{number}" for (topic, number), each in found.items() if each.catching_up is not None)
    if again:
        raise UsageError(
            f"{', '.join(again)} is being read again for handlers that came later: what is applied is of no one "
            "position until that is done; check it then"
        )
    bounds = {
        where: Bound(through=each.watermarks, offset=each.offset, without=_aside(letters, where))
        for where, each in found.items()
    }
    return Stood(found, bounds, len([each for each in letters if each.source]))


def _aside(letters: Sequence[DeadLetter], where: Where) -> frozenset[tuple[str, int]]:
    return frozenset(
        (each.source, each.position or -each.offset)
        for each in letters
        if (each.partition.topic, each.partition.number) == where
    )


def left_out(compared: Sequence[Compared], ignore: Collection[str]) -> list[Compared]:
    """Without what is to be ignored. Raises UsageError for what is not there, and for a column of a key."""
    left = set(ignore)
    found: list[Compared] = []
    for each in compared:
        if each.name in left:
            left.discard(each.name)
            continue
        mine = {name for name in each.columns if f"{each.name}.{name}" in left}
        left -= {f"{each.name}.{name}" for name in mine}
        keys = mine & set(each.key)
        if keys and each.key != each.columns:
            raise UsageError(f"--ignore {each.name}.{min(keys)}: it tells one row from another and cannot be left out")
        key = tuple(name for name in each.key if name not in mine)
        found.append(dataclasses.replace(each, key=key, left_out=frozenset(mine)))
    if left:
        there = ", ".join(f"{each.name}.{name}" for each in compared for name in each.columns)
        raise UsageError(f"--ignore {min(left)}: there is no such table or column; there are {there}")
    if compared and not found:
        raise UsageError(f"--ignore {', '.join(ignore)}: no table is left to be compared")
    return found


def _explained(difference: Difference, unsteady: Collection[str]) -> bool:
    """Whether it is in nothing but columns that no event decides."""
    if not difference.columns:
        return f"{difference.table}.*" in unsteady
    return all(f"{difference.table}.{each}" in unsteady for each in difference.columns)


async def _read(store: Store, books: Books, work: Callable[[Snapshot], Any]) -> tuple[Stood, Any]:
    """What `work` makes of one state of a database, and which that was."""
    for attempt in range(_READS_MAX):
        try:
            async with snapshot(store, books) as found:
                made = await work(found)
            return stood(found.checkpoints, found.letters), made
        except StoreConflict:
            if attempt == _READS_MAX - 1:
                raise
            await asyncio.sleep(0)
    raise AssertionError("not reached")


def _kept(compared: Compared, row: Mapping[str, Any]) -> Mapping[str, Any]:
    return {name: value for name, value in row.items() if name not in compared.left_out} if compared.left_out else row


def _key(compared: Compared, row: Mapping[str, Any]) -> tuple[tuple[Any, ...], bytes]:
    key = tuple(row[name] for name in compared.key)
    return key, b"".join(map(canonical, key))


async def _sums(found: Snapshot, compared: Sequence[Compared], secret: bytes) -> dict[str, Sums]:
    sums: dict[str, Sums] = {}
    for each in compared:
        mine = sums[each.name] = Sums(secret)
        async for _, row in found.rows(each):
            mine.add(_key(each, row)[1], row_bytes(_kept(each, row)))
    return sums


async def _rows(
    found: Snapshot, compared: Sequence[Compared], buckets: Mapping[str, Collection[int]], secret: bytes
) -> dict[str, Rows]:
    """The rows of some buckets."""
    sums = Sums(secret)
    rows: dict[str, Rows] = {}
    for each in compared:
        mine: dict[bytes, list[Found]] = {}
        if buckets[each.name]:
            async for _, row in found.rows(each):
                key, written = _key(each, row)
                if sums.bucket(written) in buckets[each.name]:
                    mine.setdefault(written, []).append((key, _kept(each, row)))
        rows[each.name] = mine
    return rows
