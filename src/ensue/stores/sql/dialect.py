"""What PostgreSQL and MariaDB write differently. Everything else in `stores/sql` is the same for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ensue.errors import UsageError
from ensue.message import Checkpoint, OutboxRecord, Partition
from ensue.ports import Table
from ensue.stores.sql.link import Link, Rows

#: Columns of the outbox in the order of OutboxRecord's fields.
OUTBOX = "topic, partition_no, record_key, envelope, data, position, previous"


class Dialect(Protocol):
    """One database's SQL. types: what the tables' texts are filled with (see `schema.py`).

    outbox_tables: the outbox, and what giving positions needs. exists: a query that tells whether `ensue_meta` is
    there. clock: a query for the database's clock, epoch seconds. lock_meta: takes the lock that heartbeats share.
    read_only: what opens a reader's transaction.
    """

    types: Mapping[str, str]
    outbox_tables: Sequence[str]
    exists: str
    clock: str
    lock_meta: str
    read_only: str

    def text(self, statement: str) -> str:
        """Return the statement with `?` as this driver's placeholders."""

    def upsert(self, table: str, keys: Sequence[str], others: Sequence[str]) -> str:
        """INSERT one row, or set `others` where `keys` are there already; values in the order keys, others."""

    def insert_new(self, table: str, columns: Sequence[str]) -> str:
        """INSERT one row unless a unique key is taken; then the count of rows is 0."""

    async def prune(
        self, link: Link, table: str, key: str, time: str, before_s: float, limit: int, through: int | None = None
    ) -> int:
        """Delete those of the first `limit` rows by `key` (up to `through`) that are older; return how many.

        Looks at no more rows than that, whatever their age, so its cost is bounded without an index on the time.
        Waits for nobody's uncommitted row.
        """

    def refused_write(self, error: BaseException) -> UsageError | None:
        """Return the error for a reader that tried to write; None: it was something else."""

    async def hindrances(self, link: Link) -> Sequence[str]:
        """What holds things back in the database: transactions held open, settings under which commits are lost."""

    # --- the outbox

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        """Insert records with no position, in order, by one statement."""

    # --- in bulk

    async def save_checkpoint(
        self, link: Link, partition: Partition, checkpoint: Checkpoint, sources: Sequence[str], texts: tuple[str, str]
    ) -> bool:
        """Save under the revision that was loaded; False: the stored one is another. texts: counters, gaps."""

    async def claim(self, link: Link, digests: Sequence[bytes], now: float) -> set[bytes]:
        """Insert the digests that are not in the inbox yet; return those."""

    async def add_letters(self, link: Link, columns: str, rows: Sequence[Sequence[Any]]) -> list[int]:
        """Insert dead letters in order; return their ids."""

    async def load_rows(self, link: Link, table: Table, ids: Sequence[Any]) -> Rows: ...

    async def insert_rows(self, link: Link, table: Table, rows: Sequence[Sequence[Any]]) -> None: ...

    async def update_rows(self, link: Link, table: Table, rows: Sequence[Sequence[Any]]) -> int:
        """Update rows by id; return how many are there. No id comes twice."""
