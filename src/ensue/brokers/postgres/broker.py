"""The Broker port on PostgreSQL."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from random import Random
from typing import Any, TypeVar

import asyncpg

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers.postgres import sql
from ensue.brokers.postgres.address import parse_address
from ensue.brokers.postgres.batches import chunks, columns
from ensue.brokers.postgres.connections import Connections
from ensue.brokers.postgres.failures import FAILURES, GONE, translated
from ensue.brokers.postgres.making import make_tables, make_topic
from ensue.brokers.postgres.records import message_of
from ensue.brokers.postgres.signals import Signals
from ensue.brokers.reading import BaseBroker, LookingReader
from ensue.errors import BrokerUnavailable, EnsueError
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry

T = TypeVar("T")

#: Rows that one transaction of `prune` deletes, so that none is long.
PRUNE_ROWS = 2000


class PostgresBroker(BaseBroker):
    """A log in a PostgreSQL schema: `postgresql://user:password@host:port/database`.

    Options: `schema` (ensue_log), `prefix` (before each topic's name; empty), `pgbouncer=1` behind a pooler in
    transaction mode (no LISTEN: waiting readers poll every 50 ms; several round trips a statement instead of one),
    `pool_size` (10 connections at most), `timeout_s` (10 seconds for a connect or a statement); any other is the
    driver's (`sslmode`, `sslrootcert`, ...). The database may hold services' stores too: all is in the schema.

    An append of up to 8 MB is one transaction in one round trip, all of it or nothing, also when it is cancelled;
    more goes in several. What was appended survives a crash of the server and a power cut, as far as the server syncs
    at all (`fsync`, on by default; `synchronous_commit=off` is overruled).
    random: for the pauses between attempts to connect.
    """

    capabilities = Capabilities(sessions=False)

    def __init__(self, url: str, *, random: Random | None = None) -> None:
        super().__init__()
        self._address = parse_address(url)
        self._sql = sql.statements(self._address.schema)
        self._connections = Connections(self._address)
        self._random = random or Random()
        self._signals: Signals | None = None
        #: Ids of each topic's partitions by number. They never change while the log lives.
        self._ids: dict[str, list[int]] = {}
        self._replaced = False

    async def exists(self) -> bool:
        try:
            connection = await self._connections.single()
            try:
                return bool(await connection.fetchval(sql.EXISTS, self._address.schema))
            finally:
                connection.terminate()
        except asyncpg.InvalidCatalogNameError:
            return False  # no such database
        except FAILURES as error:
            raise translated(error, self._address.place, opening=True) from error

    async def open(self) -> None:
        """Connect; make the tables when there are none.

        Raises UsageError for a wrong password or database, missing rights, or tables of another version.
        """
        if self._signals is not None:
            return
        await self._connections.open()
        try:
            await make_tables(self._connections, self._sql, self._address)
        except BaseException:
            await self._connections.close()
            raise
        self._signals = Signals(
            self._connections.single,
            self._sql,
            self._address.place,
            listen=not self._address.pgbouncer,
            gone=self._gone,
            random=self._random,
        )
        await self._signals.open()

    async def close(self) -> None:
        await self._close_readers()
        signals, self._signals = self._signals, None
        self._ids = {}
        self._replaced = False
        try:
            if signals is not None:
                await signals.close()
        finally:
            await self._connections.close()

    # --- topics

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        check_partitions_wanted(topic, partitions)
        found = await self.partitions(topic)
        if not found:
            found = await make_topic(self._connections, self._sql, self._address, topic, partitions)
        check_partitions(topic, partitions, found)

    async def partitions(self, topic: str) -> int:
        return len(await self._partition_ids(topic))

    async def topics(self) -> Mapping[str, int]:
        prefix = self._address.prefix
        rows = await self._fetch(self._sql.topics)
        return {topic.removeprefix(prefix): count for topic, count in rows if topic.startswith(prefix)}

    # --- append

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        by_id = {await self._partition_id(*where): entries for where, entries in batches.items()}
        lasts: dict[int, int] = {}
        for chunk in chunks(by_id):
            rows = await self._fetch(self._sql.append, *columns(source.encode(), chunk))
            found: dict[int, int] = {row[0]: row[1] for row in rows}
            lasts |= found
            if self._signals is not None:
                self._signals.appended(found)
            if len(found) < len(chunk):
                self._gone()
                raise self._was_replaced()
        return [lasts[partition_id] for partition_id in by_id]

    # --- read

    def reader(self, topic: str, partition: int, after: int) -> PostgresReader:
        return PostgresReader(self, topic, partition, after)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        rows = await self._fetch(self._sql.bounds, await self._partition_id(topic, partition))
        if not rows:
            self._gone()
            raise self._was_replaced()
        first, last = rows[0]
        return Bounds(last + 1 if first is None else first, last)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        """As the port says, by the server's clock; in transactions of 2,000 records."""
        partition_id = await self._partition_id(topic, partition)
        pruned = 0
        while pruned < limit:
            chunk = min(PRUNE_ROWS, limit - pruned)
            status = await self._watched(self._connections.execute(self._sql.prune, partition_id, before_s, chunk))
            deleted = int(status.rpartition(" ")[2])
            pruned += deleted
            if deleted < chunk:
                break
        return pruned

    # --- partitions

    async def _partition_ids(self, topic: str) -> list[int]:
        """Ids of a topic's partitions by number, empty for no such topic."""
        if self._replaced:
            await self._begin_anew()
        ids = self._ids.get(topic)
        if ids is None:
            ids = [row[0] for row in await self._fetch(self._sql.partition_ids, self._address.prefix + topic)]
            if ids:
                self._ids[topic] = ids
        return ids

    async def _partition_id(self, topic: str, number: int) -> int:
        ids = await self._partition_ids(topic)
        check_partition(topic, number, len(ids))
        return ids[number]

    # --- a log that was dropped and made again while it was open

    def _gone(self) -> None:
        self._replaced = True

    def _was_replaced(self) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"the log in PostgreSQL at {self._address.place} was dropped or replaced by another: subscribers read it "
            "from its start, and what it does not hold is asked for again",
            place=self._address.place,
        )

    async def _begin_anew(self) -> None:
        """Make tables and the topics that are known."""
        known = dict(self._ids)
        await make_tables(self._connections, self._sql, self._address)
        for topic, ids in known.items():
            found = await make_topic(self._connections, self._sql, self._address, topic, len(ids))
            check_partitions(topic, len(ids), found)
        self._ids = {}
        self._replaced = False

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        return await self._watched(self._connections.fetch(statement, *arguments))

    async def _watched(self, running: Awaitable[T]) -> T:
        """Await a statement; when its tables are gone, say so and begin anew with the next call."""
        try:
            return await running
        except EnsueError as error:
            if isinstance(error.__cause__, GONE):
                self._gone()
                raise self._was_replaced() from error
            raise


class PostgresReader(LookingReader[PostgresBroker]):
    _id = _seen = 0

    async def _look(self, limit: int) -> Sequence[Message | Garbage]:
        broker = self._broker
        self._id = await broker._partition_id(self.topic, self.partition)
        if broker._signals is not None:
            self._seen = broker._signals.sequence(self._id)
        rows = await broker._fetch(broker._sql.read, self._id, self.after, limit)
        return [message_of(self.topic, self.partition, row) for row in rows]

    async def _woken(self, seconds: float) -> None:
        broker = self._broker
        if broker._signals is not None:
            await broker._signals.wait(self._id, self.after, self._seen, seconds)
        if broker._replaced:
            raise broker._was_replaced()
