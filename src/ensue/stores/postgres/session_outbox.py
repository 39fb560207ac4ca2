"""The outbox in PostgreSQL, for sessions of the user's."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text

from ensue.message import OutboxRecord
from ensue.stores.postgres.listen import channel_of
from ensue.stores.postgres.url import parse
from ensue.stores.sql.session_outbox import SqlSessionOutbox

_NOTIFY = text("SELECT pg_notify(:channel, '')")


class OwnSessionOutbox(SqlSessionOutbox):
    """url: of the service's database.

    The relay is told inside the transaction, at whose commit the server does it: a session of the user's leaves no
    connection after its commit. With very many commits at once that costs some of their speed, see `listen.py`.
    """

    def __init__(self, url: str, service: str) -> None:
        known = parse(url)
        super().__init__(
            service, known.place, ("postgresql",),
            clock="CAST(extract(epoch FROM clock_timestamp()) AS double precision)",
            # As in `dialect.py`: a transaction has its own id before it takes one of the outbox.
            first="CAST(pg_current_xact_id() AS text)",
            schema=known.schema,
        )  # fmt: skip
        self._channel = channel_of(known.schema)
        self._listened = known.outbox == "poll" and not known.pgbouncer  # else the log tells, or they look

    def add(self, connection: Connection, records: Sequence[OutboxRecord], now: float) -> None:
        super().add(connection, records, now)
        if self._listened:
            connection.execute(_NOTIFY, {"channel": self._channel})
