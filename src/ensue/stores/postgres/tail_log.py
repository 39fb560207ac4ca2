"""From pieces of the log to outbox entries in commit order, each with its place in the log."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.pgoutput import Begin, Commit, Insert, Keepalive, Relation, WalData, decode

_COLUMNS = ("id", "topic", "partition_no", "record_key", "envelope", "data")


class Place(NamedTuple):
    """Where an entry stands: its transaction's commit, and which of that transaction's entries it is, from 1."""

    commit_lsn: int
    within: int


class Entry(NamedTuple):
    """A row of the outbox, found in the log."""

    place: Place
    row_id: int
    record: OutboxRecord


class _Columns:
    """Where the outbox's columns are in a row, and how to read them."""

    def __init__(self, relation: Relation) -> None:
        lacking = [name for name in _COLUMNS if name not in relation.columns]
        if lacking:
            raise StoreUnavailable(
                f"table {relation.namespace}.{relation.name} lacks {', '.join(lacking)}: expected Ensue's outbox"
            )
        self._at = [relation.columns.index(name) for name in _COLUMNS]

    def read(self, row: Insert) -> tuple[int, OutboxRecord]:
        """Return the row's id and record."""
        identity, topic, partition, key, envelope, data = self._at
        values, binary = row.values, row.binary
        topic_, key_ = values[topic], values[key]
        assert topic_ is not None
        assert key_ is not None
        return _whole(values[identity], binary[identity]), OutboxRecord(
            topic_.decode(),
            _whole(values[partition], binary[partition]),
            key_.decode(),
            _bytes(values[envelope], binary[envelope]),
            _bytes(values[data], binary[data]),
        )


def _whole(value: bytes | None, binary: bool) -> int:
    assert value is not None
    return int.from_bytes(value, "big", signed=True) if binary else int(value)


def _bytes(value: bytes | None, binary: bool) -> bytes:
    assert value is not None
    return value if binary else bytes.fromhex(value[2:].decode())


class LogReader:
    """Collects entries as they come; whoever keeps them takes them away. Pure but for its wake-up.

    table: the outbox's name.
    """

    def __init__(self, table: str) -> None:
        self._table = table
        self._columns: dict[int, _Columns] = {}
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._begin: Begin | None = None
        self._index = 0
        self._seen_lsn = 0
        self.reply_wanted = False
        self.error: Exception | None = None
        self.progress = asyncio.Event()

    @property
    def pending_bytes(self) -> int:
        """About the size of what nobody has taken yet."""
        return self._bytes

    @property
    def pending(self) -> int:
        return len(self._entries)

    @property
    def complete_lsn(self) -> int:
        """Every transaction that committed before it has been received. See also `take`."""
        return self._seen_lsn

    def received(self, piece: WalData | Keepalive) -> None:
        """Take in one piece. Raises StoreUnavailable for what cannot be understood."""
        if isinstance(piece, Keepalive):
            self._seen_lsn = max(self._seen_lsn, piece.end_lsn)
            self.reply_wanted |= piece.reply
            self.progress.set()
            return
        message = decode(piece.payload)
        if isinstance(message, Insert):
            columns = self._columns.get(message.oid)
            if columns is not None:
                self._add(*columns.read(message))
        elif isinstance(message, Begin):
            self._begin, self._index = message, 0
        elif isinstance(message, Commit):
            self._begin = None
            self._seen_lsn = max(self._seen_lsn, message.end_lsn)
            self.progress.set()
        elif isinstance(message, Relation) and message.name == self._table:
            self._columns[message.oid] = _Columns(message)

    def _add(self, row_id: int, record: OutboxRecord) -> None:
        begin = self._begin
        if begin is None:
            raise StoreUnavailable("an outbox entry stands outside of any transaction in the log")
        self._index += 1
        place = Place(begin.commit_lsn, self._index)
        self._entries.append(Entry(place, row_id, record))
        self._bytes += len(record.data) + len(record.envelope) + 200
        if self._index % 1000 == 0:
            self.progress.set()  # a huge transaction is kept piece by piece

    def broken(self, error: Exception) -> None:
        self.error = error
        self.progress.set()

    def take(self, limit: int) -> tuple[list[Entry], int]:
        """Return up to `limit` entries, and the place in the log that may be forgotten once they are kept."""
        entries = self._entries
        if len(entries) <= limit:
            taken = list(entries)
            entries.clear()
            self._bytes = 0
            if self._begin is None:
                return taken, self._seen_lsn
        else:
            taken = [entries.popleft() for _ in range(limit)]
            for each in taken:
                self._bytes -= len(each.record.data) + len(each.record.envelope) + 200
        # Its own transaction may go on: it would be sent again as a whole.
        return taken, taken[-1].place.commit_lsn if taken else 0
