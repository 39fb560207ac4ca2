"""The ports: what the engine asks of a database and of a broker, with the guarantees that adapters must keep.

Every sentence here that promises something is checked by `ensue.conformance`; those of `SessionOutbox`, which is used
through sessions of the user's alone, by `tests/sessions`. An adapter knows these protocols and
the values of `ensue.message`; it never knows the engine or another adapter.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

from ensue.message import Bounds, Garbage, Message, OutboxRecord

if TYPE_CHECKING:
    from sqlalchemy import Connection, MetaData
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What an adapter can do, as data. Conformance suites and the engine ask this, never an adapter's name.

    sessions: steps carry an SQLAlchemy session. survives_restart: what was committed is there after close and open.
    several_processes: more than one process may open it at once. power_loss_safe: a commit survives a power cut.
    publishes: steps may publish; False: a store for views, without an outbox.
    locks: `load_rows` locks what it loads; False: of two transactions that change one entity at once, one raises
    StoreConflict at its commit.
    concurrent_writers: several transactions are open and write at once; False: one after the other.
    transactions: a step changes any number of entities at once; False: each entity is a document of its own, which
    holds what it published and how far each source was applied to it.
    may_forget: the server may come back with less than it had acknowledged while this process lives, all of a step or
    nothing of it, often: whoever remembers how far it was looks at each turn. (Any store may go back by a restore or a
    failover; that is looked for more seldom.)
    takes_over: an empty store can go on with another one's history: its transactions are a `Successor`.
    prunes: a broker that deletes old records when it is asked; False: its own retention does, by a setting of the log.
    """

    sessions: bool = True
    survives_restart: bool = True
    several_processes: bool = True
    power_loss_safe: bool = True
    publishes: bool = True
    locks: bool = True
    concurrent_writers: bool = False
    transactions: bool = True
    may_forget: bool = False
    takes_over: bool = False
    prunes: bool = True


class Clock(Protocol):
    """Time as an argument, so that tests and the simulator own it."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None: ...


class Ids(Protocol):
    """Message ids: unique across processes; cheap, since one is made for each published event."""

    def next(self) -> str: ...


# ------------------------------------------------------------------------------------------------------------ broker


class Entry(Protocol):
    """What is appended: an OutboxRecord has this shape."""

    key: str
    envelope: bytes
    data: bytes
    position: int
    previous: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class TopicTerms:
    """What a broker does with a topic's records, as far as it tells.

    record_bytes_max: a record that takes more than this, with all that goes with it, is refused. keeps_s: after so
    many seconds it deletes records by itself. drops: by what else it does, a setting and its value; empty: by nothing.
    todo: what to set instead of what deletes records.
    """

    record_bytes_max: int | None = None
    keeps_s: float | None = None
    drops: str = ""
    todo: str = ""

    def stricter(self, other: TopicTerms) -> TopicTerms:
        """What holds for a topic when these are the terms of one of its partitions, and the others of another."""
        sizes = [each.record_bytes_max for each in (self, other) if each.record_bytes_max is not None]
        worse = min(self, other, key=lambda each: (not each.drops, math.inf if each.keeps_s is None else each.keeps_s))
        return dataclasses.replace(worse, record_bytes_max=min(sizes, default=None))


class Reader(Protocol):
    """Reads one partition of a log on from a place, and keeps that place. For one task at a time.

    Any number of readers of one partition, at any places, each get everything; none takes anything away. Close it
    when it is no longer needed: it may hold a consumer at the broker.
    """

    @property
    def after(self) -> int:
        """The offset of the last record returned; until then what the reader was opened with."""

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        """Return up to `limit` records that follow the place, in offset order, none left out, and move it behind them.

        Returns at once when there is at least one (what is there now; it never waits to fill a batch), else waits up
        to `wait_s` for an append by anyone and returns then, or empty. Empty after a wait may also mean that something
        is on its way; a read with `wait_s` 0 asks the broker, and is empty only when there is nothing.
        A record that cannot be read as a message comes as Garbage with its offset, never as an error.
        What retention took is passed over. Where the log lost its end, so that the place lies beyond it, nothing comes:
        whoever goes by a checkpoint compares it with `bounds`, and opens another reader to go back.
        Raises BrokerUnavailable, also (once, where the broker can tell) when the log was replaced by another one. After
        an error, or a cancel, the place is the same and the next read tries again from there. Raises UsageError when
        there is no such partition.
        """

    async def close(self) -> None:
        """Let go of everything; safe to repeat, never raises. A read that waits ends at once with nothing; one that is
        begun later raises BrokerUnavailable."""


class Broker(Protocol):
    """A partitioned log and nothing more. Partitions are numbered from 0, offsets from 1.

    Raises BrokerUnavailable (retry) when it does not answer.
    """

    capabilities: Capabilities

    async def exists(self) -> bool:
        """Whether there is a log that `open` would find rather than make. Changes nothing; may be asked before open."""

    async def open(self) -> None:
        """Connect. Raises BrokerUnavailable within seconds when nobody answers; it may be called again then."""

    async def close(self) -> None:
        """Release everything, its readers too; safe to repeat. A read that waits ends at once with nothing."""

    async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms | None:
        """Create the topic, or check it. Safe to repeat and to race. Raises TopicMismatch on another count.

        Returns what the broker tells of it; None: it tells nothing that matters.
        """

    async def partitions(self, topic: str) -> int:
        """Return the topic's number of partitions, 0 when there is no such topic."""

    async def topics(self) -> Mapping[str, int]:
        """Return every topic with its number of partitions."""

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        """Append entries in order, all or a prefix; return the last offset. When it returns, they are in the log.

        On an error any prefix may have been appended: the caller sends again from the first one (the chain makes
        duplicates harmless). Raises RecordRefused for one that it will not take however often it is sent (too large, no
        permission), or for too many at once: they are sent in smaller parts then, and at last the one is known. Its
        partition is held, others go on.
        Offsets of one partition grow by at least 1 in append order and are never reused.
        """

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        """Append to several partitions as `append` does to each; cheaper where the broker can write them together.

        Order holds within each partition.
        """

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        """Return a reader of the records with offset > `after`. It asks nothing of the server before its first read."""

    async def bounds(self, topic: str, partition: int) -> Bounds:
        """First and last offset held. `last` never decreases unless the broker lost data: see G5 in
        docs/explanation/promises.md."""

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        """Delete up to `limit` of the oldest records appended before `before_s` (epoch seconds); return how many.

        The last offset does not change, even when nothing is left. Returns 0 when capabilities.prunes is false.
        """


# ------------------------------------------------------------------------------------------------------------- store


@dataclasses.dataclass(frozen=True, slots=True)
class Lookup:
    """Which rows can be found together: those with the same `equal` columns, in the order of the `order` columns.

    The id column belongs at the end of `order`, so that no two rows share a place.
    """

    equal: tuple[str, ...]
    order: tuple[str, ...]


#: In `table.columns` order: text, whole numbers, floats, bytes and None.
Row = Sequence[Any]


class Kind(enum.StrEnum):
    """What a column of a table that the store makes itself holds."""

    NAME = "name"
    """Text of at most 191 characters, which an index takes."""
    TEXT = "text"
    BYTES = "bytes"
    INT = "int"
    """A whole number of 64 bits."""
    FLOAT = "float"


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """A plain table: one row an entity (or one thing that Ensue keeps), loaded and saved in bulk by its id column."""

    name: str
    columns: tuple[str, ...]
    id_column: str
    lookups: tuple[Lookup, ...] = ()
    """How its rows are found besides by id. Stores without SQL keep them with the rows; in an SQL database those of a
    user's table are the user's own, like the table."""
    kinds: tuple[Kind, ...] = ()
    """What the columns hold, for a table that the store makes when it is opened: one of Ensue's own (`ensue.tables`).
    Empty: the user makes it."""
    revision: str = ""
    """The column that tells whether a row is still as it was loaded, see `update_rows`. Empty: there is none."""
    placed: tuple[str, ...] = ()
    """Columns of bytes, and of decimal numbers, which a row holds as text: stores without SQL find and sort the first
    byte by byte, the second by the number. In an SQL database a column's type does."""

    @property
    def own(self) -> bool:
        """Whether it is one of Ensue's own, which no session of the user knows."""
        return bool(self.kinds)


class RowReader(Protocol):
    """Queries on tables of entities that every store can answer. They see committed rows only."""

    async def get(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        """Return the rows (in `table.columns` order) with these ids, in any order; missing ones are left out."""

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
        """Return up to `limit` rows of one place of the lookup, in its order: nothing (None) first, then by value.

        equal: values of `lookup.equal`. since: values of the first columns of `lookup.order`, where to begin
        (inclusive). after: values of all columns of `lookup.order`, of the last row of the page before (exclusive).
        backward: from the end of the order to its beginning, so that the last rows are found without the others:
        `after` stands before what is returned then, and `since` is where it ends.
        """

    async def count(self, table: Table, lookup: Lookup, equal: Sequence[Any]) -> int:
        """Return how many rows `find` would, without a limit."""


class StepTransaction(Protocol):
    """One open local transaction. Everything below becomes durable together at commit, or not at all.

    Not for use by two tasks at once.
    """

    @property
    def now(self) -> float:
        """The database's clock when the transaction began, seconds since the epoch."""

    @property
    def session(self) -> AsyncSession:
        """The user's SQLAlchemy session inside this transaction; the same one at each call.

        Its commit() and rollback() raise UsageError: the step commits. Flushed before the transaction commits.
        Raises UsageError when capabilities.sessions is false.
        """

    def sync_session(self) -> Session:
        """As `session`, for a handler that runs in a thread. Not together with `session` in one transaction."""

    async def flush(self, *, forget: bool = False) -> None:
        """Send what the session holds to the database; a no-op without a session.

        Raises UsageError when this transaction cannot commit any more: a statement has ended it, or an error of the
        database was caught. What statements have set for the rest of the transaction is put back.
        forget: and let it know nothing any more, so that objects are read anew as in a transaction of their own.
        """

    def follow(self, published: list[Any]) -> None:
        """From now on take out of this list what was appended to it since a savepoint, when the session goes back to
        that savepoint; a no-op without a session."""

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        """Return the rows (in `table.columns` order) whose id is in `ids`, locked for this transaction, any order.

        Any number of ids; missing ones are left out. Locks are taken in id order.
        """

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows (in `table.columns` order) in bulk.

        Of one of Ensue's own tables: raises RowConflict when an id is there already, here or at the commit, and this
        transaction cannot commit any more, whatever becomes of the error.
        """

    async def update_rows(self, table: Table, rows: Sequence[Row], *, expect: Sequence[Any] = ()) -> None:
        """Update rows (in `table.columns` order) by their id, in bulk.

        expect: for each row what its `table.revision` column holds now. When one holds something else, or is gone,
        this raises RowConflict, here or at the commit, and the transaction cannot commit any more.
        The session, if there is one, is flushed before and reads its objects anew after it (as with `insert_rows` and
        `delete_rows`; not for Ensue's own tables).
        """

    async def delete_rows(self, table: Table, ids: Sequence[Any], *, expect: Sequence[Any] = ()) -> None:
        """Delete rows by their id; without `expect` one that is not there is passed over. expect: see `update_rows`."""

    async def outbox_add(self, records: Sequence[OutboxRecord]) -> None:
        """Add records in order. Their positions, once visible to `outbox_after`, keep that order.

        Where the store numbers at once (SQLite), position and previous are set on the records when this returns.
        Raises UsageError when capabilities.publishes is false.
        """


class Successor(StepTransaction, Protocol):
    """A step where capabilities.takes_over is true."""

    async def take_over(self, source: str, position: int, heads: Mapping[tuple[str, int], int]) -> None:
        """Go on with the history of another store of this service: this store is that `source` from the commit on.

        What is added to the outbox after this, in the same transaction too, gets position + 1 and so on; what comes
        first in a partition follows on its position in `heads`, none of which is beyond `position`, or on nothing.
        Raises UsageError when this store has published something already.
        """


class DocumentTransaction(StepTransaction, Protocol):
    """A step where capabilities.transactions is false: each entity is a document, written by itself at the commit.

    In a step of messages a crash may leave some documents written; each remembers what took effect on it. After them
    come Ensue's own rows: all of them together with the one that is updated under `expect` or inserted with a revision
    (the checkpoint), or not at all. A step from outside (no `attach`) inserts or changes at most one document, with all
    that is published and with the rows of Ensue's own that it inserts; more, or publishing without one, raises
    UsageError at the commit before anything is written.
    """

    def took_effect(self, table: Table, row_id: Any, message: Message) -> bool:
        """Whether the message, or a later one of its key, has been attached to the document.

        The document must have been asked for by `load_rows`.
        """

    def attach(self, table: Table, row_id: Any, message: Message, outgoing: Sequence[OutboxRecord]) -> None:
        """The document remembers the message and carries what it published, from this commit on."""


class Store(Protocol):
    """A service's own database. Raises StoreUnavailable (retry) when it does not answer, has no room or is locked
    too long; StoreLost, one of them, for a transaction that it has ended, perhaps for what was done in it."""

    capabilities: Capabilities

    async def exists(self) -> bool:
        """Whether Ensue's tables are there, of whatever version. Changes nothing; may be asked before open."""

    async def open(self) -> None:
        """Connect; create Ensue's tables when there are none; raises StoreOutdated on tables of another version."""

    async def close(self) -> None: ...

    async def now(self) -> float:
        """The database's clock, seconds since the epoch. The cheapest way to ask whether it answers."""

    async def create_tables(self, metadata: MetaData, *, dry_run: bool = False) -> Sequence[str]:
        """Create the user's tables that do not exist (for development; migrations in production).

        Returns what is declared and not there afterwards, since a table that is there is never changed:
        `column <table>.<column>`, and with dry_run, which creates nothing, `table <name>`.
        Raises UsageError when capabilities.sessions is false.
        """

    async def make_own(self, own: Sequence[Table]) -> None:
        """Make those of these tables of Ensue's own that are not there, as `open` does with those that it knows. Raises
        UsageError when the user of the database may not do what a service does with Ensue's tables; who only looks
        does not call this.

        Safe to repeat and to race; a table that is there stays as it is, with its rows.
        """

    @property
    def source(self) -> str:
        """`<service>/<epoch>`: names this store's history. A new store, or a new epoch of it, is a new source.

        When another process begins an epoch, it is known here after the next call of an `outbox_` method.
        """

    async def new_epoch(self, published_through: int, ends: str) -> str:
        """Begin a new source: records after `published_through` are sent under it, its chain starts from nothing.

        ends: the source that it follows on. Of several processes that end one source at once, exactly one does.
        Returns the new source. Raises UsageError when the store has another source by now. See StoreRestored.
        """

    def transaction(
        self, *, upkeep: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[StepTransaction]:
        """Open a step transaction; commits when the block ends, rolls back when it raises (also when cancelled).

        Two transactions that touch one entity run one after the other, and so do their outbox records.
        upkeep: for what Ensue does beside the steps, heartbeats say: it does not wait behind them for a connection,
        its `now` is asked of the database, and a power cut may undo it.
        snapshot: what it reads does not change while it is open; writing a row that somebody else has changed since
        raises StoreConflict, so that no change is lost that was made to what was read.
        """

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        """A session for queries outside a step; sees committed data only; what it changes is rolled back.

        Raises UsageError when capabilities.sessions is false: there are `rows`.
        """

    def rows(self) -> RowReader:
        """Queries on entities' tables outside a step, in every store; an SQL store's users have `reading` as well."""

    # --- the relay's side

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        """Return committed records with a greater position, in position order, none left out: one at least if there is
        one, up to `limit`. Fewer than `limit` does not say that there are no more.

        Never returns past a position that may still commit: a record at or below one returned never appears later.
        """

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        """As `outbox_after`, one partition only, positions in (after, through]."""

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        """Last position of each (topic, partition) of this source, pruned records included. Survives pruning."""

    async def outbox_wait(self, timeout_s: float) -> None:
        """Return soon after a commit by any process added outbox records, or after `timeout_s`. May return early for
        nothing; never later than that after a commit."""

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        """Delete up to `limit` of the oldest records written before `before_s` and at or below `through`."""

    async def warnings(self) -> Sequence[str]:
        """What holds things back in this database, one line each for an operator; empty: nothing that it knows of."""


# ------------------------------------------------------------------------------------------------------------- places


@dataclasses.dataclass(frozen=True, slots=True)
class OutboxOwner:
    """Whose outbox a transaction writes. source: as `Store.source`. now: the database's clock, epoch seconds."""

    source: str
    now: float


class SessionOutbox(Protocol):
    """The outbox of a service's store, for transactions that the store has not begun: those of a session of the user's.

    It works on the SQLAlchemy connection of such a transaction and has none of its own. For any thread, and inside
    SQLAlchemy's greenlets. Begins and ends nothing: what it writes becomes durable with the transaction, or not at all.
    A statement that fails raises what SQLAlchemy raises; a part of the records may be in then, so the transaction must
    not commit.
    """

    def check(self, connection: Connection) -> None:
        """Raise UsageError where the connection's database is another one, as far as that can be told without asking
        it, and where its statements are in no transaction (AUTOCOMMIT)."""

    def check_savepoint(self, connection: Connection) -> None:
        """Raise UsageError where the driver may commit when a savepoint is released, or may have done so."""

    def look(self, connection: Connection) -> OutboxOwner:
        """Return whose outbox this is, after what positions need of the transaction (SQLite: the lock for writing).

        Raises UsageError when Ensue's tables are not there, or are another service's; StoreOutdated.
        """

    def load_rows(self, connection: Connection, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        """Return the rows of one of Ensue's own tables with these ids, not locked; missing ones are left out."""

    def insert_rows(self, connection: Connection, table: Table, rows: Sequence[Row]) -> None:
        """Insert rows into one of Ensue's own tables."""

    def add(self, connection: Connection, records: Sequence[OutboxRecord], now: float) -> None:
        """Add records in order, after `look`: as `StepTransaction.outbox_add`. now: when, by the database's clock.

        Tells those who wait in `Store.outbox_wait` at the commit, where the database can.
        """

    def committed(self) -> None:
        """A transaction with records has committed: tells those who wait, where the database does not. Must not
        wait."""


class Place(Protocol):
    """A place of its own for one version of a view, in the database that a URL names, with nothing else in it: a file,
    a schema, a database, a prefix. An adapter's class of it is called with (url, service, suffix, connect_args).

    service: the name of the store that lives there. url: by which a `Store` of that name opens it.
    """

    url: str
    service: str

    async def make(self) -> None:
        """Make what has to be there before a store can be opened at `url`. Safe to repeat and to race. Raises
        UsageError when the user of the database may not."""

    async def remove(self) -> None:
        """Remove the place with all that is in it; safe to repeat, also after a crash in the middle. Nobody may have it
        open."""
