"""What PostgreSQL's `pgoutput` plugin says, as values: pure functions from bytes.

Protocol version 1 (whole transactions, in commit order, sent after their commit). Columns come as text or binary.
Source: PostgreSQL's manual, "Logical Replication Message Formats" and "Streaming Replication Protocol".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from ensue.errors import StoreUnavailable

#: Microseconds between PostgreSQL's year 2000 and the Unix epoch.
EPOCH_US: Final = 946_684_800_000_000

_BEGIN = struct.Struct(">QqI")
_COMMIT = struct.Struct(">BQQq")
_LENGTH = struct.Struct(">I")
_INSERT = struct.Struct(">IcH")
_COUNT = struct.Struct(">H")
_COLUMN = struct.Struct(">Ii")
_WAL_DATA = struct.Struct(">QQq")
_KEEPALIVE = struct.Struct(">QqB")
_FEEDBACK = struct.Struct(">cQQQqB")


class Begin(NamedTuple):
    """A transaction begins. commit_lsn: the place of its commit in the log, known already; time: epoch microseconds."""

    commit_lsn: int
    time_us: int
    xid: int


class Commit(NamedTuple):
    """The transaction is complete. end_lsn: where the log goes on after it."""

    commit_lsn: int
    end_lsn: int


class Relation(NamedTuple):
    """What a table's number means from here on."""

    oid: int
    namespace: str
    name: str
    columns: tuple[str, ...]


class Insert(NamedTuple):
    """A row was inserted. values: in the order of the relation's columns; None is NULL.

    binary: whether each value is in the type's binary format (else text).
    """

    oid: int
    values: Sequence[bytes | None]
    binary: Sequence[bool]


class Other(NamedTuple):
    """An update, a delete, a truncate, a type or an origin: nothing that an outbox is made of."""

    kind: str


Decoded = Begin | Commit | Relation | Insert | Other


def decode(data: bytes) -> Decoded:
    """Decode one message. Raises StoreUnavailable for bytes that are none: the connection is not to be trusted."""
    try:
        match data[:1]:
            case b"I":
                return _insert(data)
            case b"B":
                commit_lsn, time_us, xid = _BEGIN.unpack_from(data, 1)
                return Begin(commit_lsn, time_us + EPOCH_US, xid)
            case b"C":
                _, commit_lsn, end_lsn, _ = _COMMIT.unpack_from(data, 1)
                return Commit(commit_lsn, end_lsn)
            case b"R":
                return _relation(data)
            case b"U" | b"D" | b"T" | b"O" | b"Y":
                return Other(chr(data[0]))
    except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
        raise StoreUnavailable(f"pgoutput message {data[:1]!r} of {len(data)} bytes is cut off or malformed") from error
    raise StoreUnavailable(f"pgoutput message {data[:1]!r}: expected one of B C R I U D T O Y")


def _string(data: bytes, start: int) -> tuple[str, int]:
    end = data.index(0, start)
    return data[start:end].decode(), end + 1


def _relation(data: bytes) -> Relation:
    (oid,) = _LENGTH.unpack_from(data, 1)
    namespace, at = _string(data, 5)
    name, at = _string(data, at)
    (count,) = _COUNT.unpack_from(data, at + 1)  # one byte of replica identity before it
    at += 3
    columns = []
    for _ in range(count):
        column, at = _string(data, at + 1)  # one byte of flags before it
        _COLUMN.unpack_from(data, at)
        at += _COLUMN.size
        columns.append(column)
    return Relation(oid, namespace or "pg_catalog", name, tuple(columns))


def _insert(data: bytes) -> Insert:
    oid, new, count = _INSERT.unpack_from(data, 1)
    if new != b"N":
        raise ValueError(new)
    at = 8
    values: list[bytes | None] = []
    binary: list[bool] = []
    for _ in range(count):
        kind = data[at]
        if kind == 0x6E or kind == 0x75:  # n: NULL; u: unchanged and out of line, never in an insert
            values.append(None)
            binary.append(False)
            at += 1
            continue
        if kind != 0x74 and kind != 0x62:  # t: text, b: binary
            raise ValueError(kind)
        begin = at + 5
        at = begin + int.from_bytes(data[at + 1 : begin], "big")
        if at > len(data):
            raise ValueError(at)
        values.append(data[begin:at])
        binary.append(kind == 0x62)
    return Insert(oid, values, binary)


# --- around it: the streaming replication protocol


class WalData(NamedTuple):
    """A piece of the log. end_lsn: how far the server's log goes; payload: what the plugin says."""

    start_lsn: int
    end_lsn: int
    payload: bytes


class Keepalive(NamedTuple):
    """How far the server has sent. reply: it wants to hear from us now, or it hangs up."""

    end_lsn: int
    reply: bool


def unwrap(data: memoryview | bytes) -> WalData | Keepalive:
    """Decode what a replication connection yields. Raises StoreUnavailable for anything else."""
    kind = data[0] if len(data) else -1
    try:
        if kind == 0x77:  # w
            start, end, _ = _WAL_DATA.unpack_from(data, 1)
            return WalData(start, end, bytes(data[25:]))
        if kind == 0x6B:  # k
            end, _, reply = _KEEPALIVE.unpack_from(data, 1)
            return Keepalive(end, bool(reply))
    except struct.error as error:
        raise StoreUnavailable(f"replication message of {len(data)} bytes is cut off") from error
    raise StoreUnavailable(f"replication message {kind}: expected w or k")


def feedback(through_lsn: int, time_us: int, *, reply: bool = False) -> bytes:
    """What we tell the server: everything up to `through_lsn` is kept on our side. time_us: epoch microseconds."""
    return _FEEDBACK.pack(b"r", through_lsn, through_lsn, through_lsn, time_us - EPOCH_US, reply)
