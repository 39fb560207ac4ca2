"""The outbox: numbering records as they are written, and reading them for the relay.

SQLite has one writer, so the next position is the last one plus one, taken inside the write transaction: positions
appear in commit order, and none appears late.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ensue.message import OutboxRecord
from ensue.stores.numbering import Place, number
from ensue.stores.sqlite import schema

_COLUMNS = "topic, partition, key, envelope, data, position, previous"  # in the order of OutboxRecord's fields

_INSERT = (
    "INSERT INTO ensue_outbox (position, previous, topic, partition, key, envelope, data, written_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_SET_HEAD = (
    "INSERT INTO ensue_outbox_head (topic, partition, position) VALUES (?, ?, ?) "
    "ON CONFLICT DO UPDATE SET position = excluded.position"
)
_HEADS = "SELECT topic, partition, position FROM ensue_outbox_head"
_AFTER = f"SELECT {_COLUMNS} FROM ensue_outbox WHERE position > ? ORDER BY position LIMIT ?"
_LAST = "SELECT max(position) FROM ensue_outbox"
_OF = (
    f"SELECT {_COLUMNS} FROM ensue_outbox "
    "WHERE position > ? AND position <= ? AND topic = ? AND partition = ? ORDER BY position LIMIT ?"
)
_NEXT = "SELECT min(position) FROM ensue_outbox WHERE position > ?"
# Only the oldest `limit` rows are looked at, whatever their age: the cost is bounded without an index on the time.
_PRUNE = (
    "DELETE FROM ensue_outbox WHERE position IN (SELECT position FROM (SELECT position, written_at FROM ensue_outbox "
    "WHERE position <= ? ORDER BY position LIMIT ?) WHERE written_at < ?)"
)
#: Positions looked at in one window: a few milliseconds at most.
_WINDOW = 10_000


class Tail:
    """The end of the outbox as the write connection knows it: the last position, and the last of each partition.

    Kept between transactions, since reading it costs more than writing a record. It is read anew after a rollback and
    when another connection has committed (`PRAGMA data_version` tells, and within a write transaction nobody can).
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._version = -1  # data_version that the rest belongs to; -1: nothing is known
        self._last = 0
        self._heads: dict[Place, int] = {}
        self._touched: dict[Place, int] = {}

    @property
    def touched(self) -> bool:
        """Whether this transaction added records."""
        return bool(self._touched)

    def add(self, records: Sequence[OutboxRecord], now: float) -> None:
        """Number the records and insert them, inside the write transaction."""
        if not self._touched:
            self._look()
        self._last = number(records, self._last, self._heads, self._touched)
        rows = [
            (each.position, each.previous, each.topic, each.partition, each.key, each.envelope, each.data, now)
            for each in records
        ]
        self._connection.executemany(_INSERT, rows)

    def take_over(self, epoch: str, position: int, heads: Mapping[Place, int]) -> bool:
        """Go on with another store's history, inside the write transaction; False: there is one already."""
        self._look()
        if self._last:
            return False
        self._connection.execute("UPDATE ensue_meta SET epoch = ?, published_from = ?", (epoch, position))
        self._connection.executemany(_SET_HEAD, [(*place, head) for place, head in heads.items()])
        self._last, self._heads = position, dict(heads)
        return True

    def write_heads(self) -> None:
        """Store the heads that moved: once per partition and transaction, right before the commit."""
        self._connection.executemany(_SET_HEAD, [(*place, position) for place, position in self._touched.items()])
        self._heads |= self._touched
        self._touched.clear()

    def forget(self) -> None:
        """After a rollback, or a change of epoch: what is known here did not happen."""
        self._version = -1
        self._touched.clear()

    def _look(self) -> None:
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        if version == self._version:
            return
        self._heads = heads(self._connection)
        (written,) = self._connection.execute(_LAST).fetchone()
        published_from = schema.identity(self._connection).published_from
        self._last = max(written or 0, published_from, *self._heads.values())
        self._version = version


def heads(connection: sqlite3.Connection) -> dict[Place, int]:
    return {(topic, partition): position for topic, partition, position in connection.execute(_HEADS)}


def after(connection: sqlite3.Connection, position: int, limit: int) -> list[OutboxRecord]:
    return [OutboxRecord(*row) for row in connection.execute(_AFTER, (position, limit)).fetchall()]


class Window(NamedTuple):
    """Records found, and how far was looked."""

    records: list[OutboxRecord]
    through: int


def window(connection: sqlite3.Connection, topic: str, partition: int, after: int, through: int, limit: int) -> Window:
    """Look for records of one partition in (after, through], in one window of bounded cost; call again from its end."""
    (begin,) = connection.execute(_NEXT, (after,)).fetchone()  # over what was pruned in one leap
    if begin is None or begin > through:
        return Window([], through)
    end = min(begin - 1 + _WINDOW, through)
    rows = connection.execute(_OF, (begin - 1, end, topic, partition, limit)).fetchall()
    return Window([OutboxRecord(*row) for row in rows], end)


def prune(connection: sqlite3.Connection, before_s: float, through: int, limit: int) -> int:
    return connection.execute(_PRUNE, (through, limit, before_s)).rowcount


def begin_epoch(connection: sqlite3.Connection, epoch: str, published_through: int) -> None:
    """Start a new source after `published_through`: its first record of each partition follows on nothing."""
    connection.execute("UPDATE ensue_meta SET epoch = ?, published_from = ?", (epoch, published_through))
    connection.execute(
        "UPDATE ensue_outbox SET previous = 0 WHERE position IN "
        "(SELECT min(position) FROM ensue_outbox WHERE position > ? GROUP BY topic, partition)",
        (published_through,),
    )
    connection.execute("DELETE FROM ensue_outbox_head")
    connection.execute(
        "INSERT INTO ensue_outbox_head SELECT topic, partition, max(position) FROM ensue_outbox "
        "WHERE position > ? GROUP BY topic, partition",
        (published_through,),
    )
