"""What PostgreSQL and MariaDB write differently. Everything else in `stores/sql` is the same for both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ensue.errors import UsageError
from ensue.message import OutboxRecord
from ensue.ports import Row, Table
from ensue.stores.sql.driver import Rows
from ensue.stores.sql.link import Link
from ensue.stores.sql_rows import Catalog

#: Columns of the outbox in the order of OutboxRecord's fields.
OUTBOX = "topic, partition_no, record_key, envelope, data, position, previous"


class Dialect(Protocol):
    """One database's SQL."""

    types: Mapping[str, str]
    """Its names for what columns hold (`ensue.ports.Kind`); `begin` and `end`: what stands before the name and after
    the columns of a table that is made."""
    outbox_tables: Sequence[str]
    """The outbox, and what giving positions needs; filled with `types`."""
    outbox_rights: Mapping[str, str]
    """What a service does with these tables at work: `SELECT, INSERT`, by table."""
    inline_indexes: bool
    """Whether indexes are made with their table."""
    exists: str
    """A query that tells whether `{table}`, one of Ensue's own, is there."""
    clock: str
    """A query for the database's clock, epoch seconds."""
    read_only: str
    """What opens a reader's transaction."""
    no_database: frozenset[object]
    """Codes with which the server refuses a connection to a database that is not there."""
    catalog: Catalog
    """What it says of a table's columns, for queries."""

    def text(self, statement: str) -> str:
        """Return the statement with `?` as this driver's placeholders."""

    async def prune(
        self, link: Link, table: str, key: str, time: str, before_s: float, limit: int, through: int | None = None
    ) -> int:
        """Delete those of the first `limit` rows by `key` (up to `through`) that are older; return how many.

        Looks at no more rows than that, whatever their age, so its cost is bounded without an index on the time.
        Waits for nobody's uncommitted row.
        """

    def refused_write(self, error: BaseException) -> UsageError | None:
        """Return the error for a reader that tried to write; None: it was something else."""

    def denied(self, error: BaseException) -> bool:
        """Whether the user lacks a right."""

    async def warnings(self, link: Link) -> Sequence[str]:
        """What holds things back in the database: transactions held open, settings under which commits are lost."""

    # --- the outbox

    async def add(self, link: Link, records: Sequence[OutboxRecord], now: float) -> None:
        """Insert records with no position, in order, by one statement."""

    # --- in bulk

    async def load_rows(self, link: Link, table: Table, ids: Sequence[Any]) -> Rows: ...

    async def insert_rows(self, link: Link, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows. Raises RowConflict for an id that is there already in a table of Ensue's own."""

    async def update_rows(self, link: Link, table: Table, rows: Sequence[Row], expect: Sequence[Any]) -> int:
        """Update rows by id; return how many are there, as expected. No id comes twice."""

    async def delete_rows(self, link: Link, table: Table, ids: Sequence[Any], expect: Sequence[Any]) -> int:
        """Delete rows by id; return how many were there, as expected."""
