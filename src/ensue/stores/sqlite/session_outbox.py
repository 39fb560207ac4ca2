"""The outbox of an SQLite file, for sessions of the user's: the `SessionOutbox` port.

Positions are given at once, as in `outbox.py`: under the lock for writing nobody else gives any.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.types import BigInteger, Double, LargeBinary, Text, TypeEngine

from ensue.embedded.connection import parse_sqlite_url
from ensue.embedded.wakeup import announce
from ensue.errors import UsageError
from ensue.message import OutboxRecord
from ensue.ports import OutboxOwner
from ensue.stores.identity import Identity, check_tables
from ensue.stores.numbering import Place, number
from ensue.stores.session_outbox import SessionTables, shown
from ensue.stores.sqlite.store import CHANGED

# It changes nothing, and takes the lock. The driver begins a transaction for it, if it has not yet.
_LOCK = text("UPDATE ensue_meta SET one = one WHERE one = 0")
_OWNER = text("SELECT schema_version, service, epoch, published_from FROM ensue_meta")
_LAST = text("SELECT coalesce(max(position), 0), (SELECT published_from FROM ensue_meta) FROM ensue_outbox")
_HEADS = text("SELECT topic, partition, position FROM ensue_outbox_head")
_SET_HEAD = text(
    "INSERT INTO ensue_outbox_head (topic, partition, position) VALUES (:topic, :partition, :position) "
    "ON CONFLICT (topic, partition) DO UPDATE SET position = excluded.position"
)
_COLUMNS = ("position", "previous", "topic", "partition", "key", "envelope", "data", "written_at")
_TYPES: Sequence[TypeEngine[Any]] = (
    BigInteger(),
    BigInteger(),
    Text(),
    BigInteger(),
    Text(),
    LargeBinary(),
    LargeBinary(),
    Double(),
)


class OwnSessionOutbox(SessionTables):
    """url: of the service's database."""

    def __init__(self, url: str, service: str) -> None:
        path, _ = parse_sqlite_url(url)
        if path == ":memory:":
            raise UsageError(
                f"service {service}: its database is one in memory, sqlite://, of a single connection, so no session "
                "of yours can be one of it: give the service a file"
            )
        super().__init__(service, path, ("sqlite",))
        self._path = path
        self._add = self.insert("ensue_outbox", _COLUMNS, _TYPES)

    def check_savepoint(self, connection: Connection) -> None:
        """Python's driver by itself begins no transaction for a SAVEPOINT, whose release then is a commit: of rows
        whose event is not written yet, or not even published."""
        raw = connection.connection.dbapi_connection
        by_itself = getattr(raw, "isolation_level", "") is not None
        if by_itself and getattr(raw, "autocommit", -1) not in (True, False):
            raise UsageError(
                f"service {self.service}: an event was published in a transaction with begin_nested(), on SQLite, "
                "where Python's driver may commit at the end of a savepoint. Let your engine begin transactions: "
                'event.listen(engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None)) '
                'and event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE")); '
                "for an async engine on engine.sync_engine"
            )

    def look(self, connection: Connection) -> OutboxOwner:
        version, owner, epoch, published_from = self.one(connection, _OWNER, _LOCK)
        check_tables(shown(connection), version, owner, self.service, "another file")
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:  # although it was just told to write
            raise UsageError(
                f"service {self.service}: this session's connection begins no transaction, so each statement is one of "
                'its own: with isolation_level=None an engine needs event.listen(engine, "begin", lambda connection: '
                'connection.exec_driver_sql("BEGIN IMMEDIATE")) as well',
                found="no transaction",
            )
        return OutboxOwner(Identity(self.service, epoch, published_from).source, time.time())

    def add(self, connection: Connection, records: Sequence[OutboxRecord], now: float) -> None:
        heads: dict[Place, int] = {(topic, partition): each for topic, partition, each in connection.execute(_HEADS)}
        written, published_from = connection.execute(_LAST).one()
        moved: dict[Place, int] = {}
        number(records, max(written, published_from, *heads.values()), heads, moved)
        rows = [
            (each.position, each.previous, each.topic, each.partition, each.key, each.envelope, each.data, now)
            for each in records
        ]
        connection.execute(self._add, [{f"p{at}": each for at, each in enumerate(row)} for row in rows])
        connection.execute(
            _SET_HEAD,
            [{"topic": topic, "partition": at, "position": each} for (topic, at), each in moved.items()],
        )

    def committed(self) -> None:
        announce(self._path, CHANGED)
