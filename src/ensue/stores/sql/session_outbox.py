"""The outbox of an SQL server, for sessions of the user's: the `SessionOutbox` port, but for what differs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, text
from sqlalchemy.types import Double, Integer, LargeBinary, Text, TypeEngine

from ensue.errors import UsageError
from ensue.message import OutboxRecord
from ensue.ports import OutboxOwner
from ensue.stores.identity import Identity, check_tables
from ensue.stores.session_outbox import SessionTables, shown

_COLUMNS = ("topic", "partition_no", "record_key", "envelope", "data", "written_at")
_TYPES: Sequence[TypeEngine[Any]] = (Text(), Integer(), Text(), LargeBinary(), LargeBinary(), Double())
#: Those in which a record is a row of the table, whoever gives it its position.
_MODES = ("poll", "wal")


class SqlSessionOutbox(SessionTables):
    """clock: SQL for the database's clock, epoch seconds. first: SQL for what a transaction has to do before it takes
    an id of the outbox."""

    def __init__(
        self,
        service: str,
        place: str,
        names: Sequence[str],
        *,
        clock: str,
        first: str = "0",
        schema: str = "",
        quote: str = '"',
    ) -> None:
        super().__init__(service, place, names, schema=schema, quote=quote)
        self._owner = text(
            f"SELECT m.schema_version, m.service, m.outbox_mode, c.epoch, c.published_from, {clock}, {first} "
            f"FROM {self.table('ensue_meta')} m, {self.table('ensue_counter')} c"
        )
        self._add = self.insert("ensue_outbox", _COLUMNS, _TYPES)

    def look(self, connection: Connection) -> OutboxOwner:
        version, owner, mode, epoch, published_from, now, _ = self.one(connection, self._owner)
        where = "another database, or another schema (?schema=) in this one"
        check_tables(shown(connection), version, owner, self.service, where)
        if mode not in _MODES:
            raise UsageError(
                f"service {self.service}: its outbox is of mode {mode!r}, which a session of yours cannot write: "
                f"use ?outbox={' or '.join(_MODES)}, or publish with a step",
                expected=" or ".join(_MODES),
                found=mode,
            )
        return OutboxOwner(Identity(self.service, str(epoch), int(published_from)).source, float(now))

    def add(self, connection: Connection, records: Sequence[OutboxRecord], now: float) -> None:
        rows = [(each.topic, each.partition, each.key, each.envelope, each.data, now) for each in records]
        connection.execute(self._add, [{f"p{at}": each for at, each in enumerate(row)} for row in rows])

    def committed(self) -> None:
        """The database tells, or those who wait look now and then."""
