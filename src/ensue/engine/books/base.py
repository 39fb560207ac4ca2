"""What all books share: their store, their subscription, pages of rows, revisions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from random import Random
from typing import Any

import msgspec

from ensue.engine.schema import SCHEMA, Schema
from ensue.message import Partition
from ensue.ports import Lookup, Row, StepTransaction, Store, Table
from ensue.tables import LEASES

#: Rows read in one query before it is known how large they are; then up to _GROWTH times as many as the last time, as
#: long as one query brings no more bytes than that: a letter may have a megabyte.
FIRST_PAGE, _GROWTH, _PAGE_MAX, _PAGE_BYTES = 32, 4, 500, 16 << 20

AlsoOfIds = Callable[[StepTransaction, Sequence[str]], Awaitable[None]]

encode = msgspec.json.Encoder().encode


class Base:
    """The state of one subscription, which is a service, in the service's own store. random: for revisions. schema:
    what this process works with."""

    def __init__(self, store: Store, subscription: str, random: Random | None = None, schema: Schema = SCHEMA) -> None:
        self._store = store
        self.subscription = subscription
        self._random = random or Random()
        self.schema = schema

    def _next(self, revision: int) -> int:
        """Return a greater revision, by a step that chance takes: a database that was put back from an older copy and
        went on from there must not come to a number again under which somebody still knows another history."""
        return revision + 1 + self._random.getrandbits(24)

    async def _all(
        self,
        table: Table,
        lookup: Lookup,
        equal: Sequence[Any] = (),
        limit: int | None = None,
        *,
        since: Sequence[Any] = (),
        after: Sequence[Any] = (),
        backward: bool = False,
    ) -> AsyncIterator[Row]:
        """The rows of one place of a lookup, page by page. since, after: where to begin; backward: from the end; see
        `RowReader.find`."""
        reader = self._store.rows()
        columns = [table.columns.index(name) for name in lookup.order]
        left, fitting = limit, FIRST_PAGE
        while left is None or left > 0:
            page = fitting if left is None else min(fitting, left)
            begin = () if after and not backward else since
            rows = await reader.find(table, lookup, equal, since=begin, after=after, limit=page, backward=backward)
            fitting = next_page(rows, fitting)
            for row in rows:
                yield row
            if len(rows) < page:
                return
            after = [rows[-1][at] for at in columns]
            left = None if left is None else left - page

    async def _prune(
        self,
        table: Table,
        before_s: float,
        limit: int,
        lookup: Lookup,
        equal: Sequence[Any] = (),
        also: AlsoOfIds | None = None,
    ) -> int:
        at = table.columns.index(lookup.order[0])
        rows = await self._store.rows().find(table, lookup, equal, limit=limit)
        old = [row[0] for row in rows if row[at] < before_s]
        if old:
            async with self._store.transaction(upkeep=True) as transaction:
                await transaction.delete_rows(table, old)
                if also is not None:
                    await also(transaction, old)
        return len(old)

    async def _write(self, transaction: StepTransaction, name: str, found: Row | None, state: object) -> None:
        """Write a row of LEASES as it is to be after `found`. Raises RowConflict when it is not that any more."""
        revision = found[1] if found else 0
        row = (name, self._next(revision), encode(state).decode())
        if found:
            await transaction.update_rows(LEASES, [row], expect=[revision])
        else:
            await transaction.insert_rows(LEASES, [row])

    def _partition(self, place: str) -> Partition:
        topic, _, number = place.rpartition("/")
        return Partition(self.subscription, topic, int(number))


def next_page(rows: Sequence[Row], page: int) -> int:
    """How many rows to ask for next, after a read of up to `page`: more, as long as they are small.

    >>> next_page([(b"small",)] * 32, 32), next_page([(bytes(1_000_000),)] * 32, 32)
    (128, 16)
    """
    size = sum([len(value) for row in rows for value in row if isinstance(value, bytes | memoryview | str)])
    return max(1, min(_PAGE_MAX, page * _GROWTH, _PAGE_BYTES * len(rows) // max(size, 1) if rows else page))
