"""The pairs of database and broker that are compared, with the durability that each has in these figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from servers import MariaDbServer, MeasuredKafkaServer, NatsServer, PostgresServer, RedisServer

from benchmarks.engines.bare_kafka import BareKafka
from benchmarks.engines.bare_loop import Apply, Database, Log
from benchmarks.engines.bare_mariadb import BareMariaDb
from benchmarks.engines.bare_nats import BareNats
from benchmarks.engines.bare_postgres import BarePostgres
from benchmarks.engines.bare_redis import BareRedis
from benchmarks.engines.bare_table import BareTable


@dataclasses.dataclass(frozen=True, slots=True)
class Pair:
    """broker: its server; None: the database is the log too. opens: the bare side's database and log by their URLs.

    durability: what is on the disk when a commit, and when an append, is acknowledged.
    """

    name: str
    store: type[PostgresServer] | type[MariaDbServer]
    broker: type[NatsServer] | type[MeasuredKafkaServer] | type[RedisServer] | None
    open_database: Callable[[str], Awaitable[Any]]
    open_log: Callable[[str], Awaitable[Any]]
    durability: str

    @property
    def missing(self) -> str:
        """One line that says which server is not installed; empty: both are."""
        return self.store.missing() or (self.broker.missing() if self.broker else "")


_POSTGRES = "PostgreSQL syncs each commit"
PAIRS = {
    "nats": Pair(
        "PostgreSQL + NATS", PostgresServer, NatsServer, BarePostgres.open, BareNats.open,
        f"{_POSTGRES}; NATS acknowledges before its periodic sync (its default)",
    ),
    "kafka": Pair(
        "PostgreSQL + Kafka", PostgresServer, MeasuredKafkaServer, BarePostgres.open, BareKafka.open,
        f"{_POSTGRES}; Kafka, one broker with acks=all, does not sync (its default)",
    ),
    "redis": Pair(
        "MariaDB + Redis", MariaDbServer, RedisServer, BareMariaDb.open, BareRedis.open,
        "MariaDB syncs each commit; Redis keeps the log in memory (no append-only file)",
    ),
    "postgres": Pair(
        "PostgreSQL alone", PostgresServer, None, BarePostgres.open, BareTable.open,
        f"{_POSTGRES} and each append",
    ),
}  # fmt: skip


class Servers:
    """A pair's servers, running. Databases are made for a round and dropped after it."""

    def __init__(self, pair: Pair, store: PostgresServer | MariaDbServer, log_url: str) -> None:
        self.pair = pair
        self.log_url = log_url
        self._store = store
        self._rounds = 0

    @contextmanager
    def database(self) -> Iterator[str]:
        """The URL of an empty database."""
        self._rounds += 1
        name = f"round_{self._rounds}"
        try:
            yield self._store.url(name)
        finally:
            self._store.drop(name)

    def settle(self) -> None:
        """What was written before the clock starts is not written to the files while it runs."""
        if isinstance(self._store, PostgresServer):
            self._store.psql("postgres", "CHECKPOINT")

    def ask(self, url: str, statement: str) -> list[str]:
        """Return the columns of the one row of a query."""
        name = url.rpartition("/")[2]
        if isinstance(self._store, PostgresServer):
            return self._store.psql(name, statement).split("|")
        return self._store.sql(statement, name).split("\t")


@contextmanager
def running(pair: Pair) -> Iterator[Servers]:
    with pair.store(durable=True) as store:
        if pair.broker is None:
            yield Servers(pair, store, store.url("log"))
        else:
            with pair.broker() as broker:
                yield Servers(pair, store, broker.url())


__all__ = ["PAIRS", "Apply", "Database", "Log", "Pair", "Servers", "running"]
