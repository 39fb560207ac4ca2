"""What `pgoutput` sends is read as it was meant: against an encoder of our own, and never anything but our errors."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.postgres.pgoutput import (
    EPOCH_US,
    Begin,
    Commit,
    Decoded,
    Insert,
    Keepalive,
    Other,
    Relation,
    WalData,
    decode,
    feedback,
    unwrap,
)
from ensue.stores.postgres.tail_log import LogReader

lsns = st.integers(0, 2**63 - 1)
times = st.integers(0, 2**61)
oids = st.integers(0, 2**32 - 1)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)
values = st.one_of(st.none(), st.binary(max_size=50))


def encoded(message: Decoded) -> bytes:
    """What PostgreSQL's manual says that the server sends."""
    match message:
        case Begin(commit_lsn, time_us, xid):
            return b"B" + struct.pack(">QqI", commit_lsn, time_us - EPOCH_US, xid)
        case Commit(commit_lsn, end_lsn):
            return b"C" + struct.pack(">BQQq", 0, commit_lsn, end_lsn, 0)
        case Relation(oid, namespace, name, columns):
            head = b"R" + struct.pack(">I", oid) + namespace.encode() + b"\0" + name.encode() + b"\0d"
            body = b"".join(b"\1" + each.encode() + b"\0" + struct.pack(">Ii", 25, -1) for each in columns)
            return head + struct.pack(">H", len(columns)) + body
        case Insert(oid, row, binary):
            cells = (
                b"n" if value is None else (b"b" if raw else b"t") + struct.pack(">I", len(value)) + value
                for value, raw in zip(row, binary, strict=True)
            )
            return b"I" + struct.pack(">I", oid) + b"N" + struct.pack(">H", len(row)) + b"".join(cells)
        case Other(kind):
            return kind.encode() + b"\0\0\0\1"
    raise AssertionError(message)


inserts = st.builds(
    lambda oid, cells: Insert(oid, [value for value, _ in cells], [raw and value is not None for value, raw in cells]),
    oids,
    st.lists(st.tuples(values, st.booleans()), max_size=8),
)
messages = st.one_of(
    st.builds(Begin, lsns, times, oids),
    st.builds(Commit, lsns, lsns),
    st.builds(Relation, oids, names, names, st.lists(names, max_size=6).map(tuple)),
    inserts,
    st.sampled_from("UDTOY").map(Other),
)


@given(messages)
def test_every_message_comes_back_as_it_was_sent(message: Decoded) -> None:
    assert decode(encoded(message)) == message


@given(messages, st.data())
def test_a_message_that_is_cut_off_is_an_error_of_ours_or_a_shorter_one(message: Decoded, data: st.DataObject) -> None:
    whole = encoded(message)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        decode(cut)
    except StoreUnavailable:
        return
    assert isinstance(message, Other)  # of which only the first byte counts


@given(st.binary(max_size=60))
def test_bytes_of_any_kind_are_a_message_or_an_error_of_ours(data: bytes) -> None:
    for read in (decode, unwrap):
        try:
            read(data)
        except StoreUnavailable:
            continue


@given(lsns, lsns, st.binary(max_size=30), st.booleans())
def test_what_the_connection_yields_is_unwrapped(start: int, end: int, payload: bytes, reply: bool) -> None:
    assert unwrap(b"w" + struct.pack(">QQq", start, end, 0) + payload) == WalData(start, end, payload)
    assert unwrap(b"k" + struct.pack(">QqB", end, 0, reply)) == Keepalive(end, reply)


@given(lsns)
def test_what_the_server_is_told_is_one_place_and_a_time(lsn: int) -> None:
    assert feedback(lsn, EPOCH_US + 7, reply=True) == b"r" + struct.pack(">QQQqB", lsn, lsn, lsn, 7, 1)


# --- the collector


def wal(*decoded: Decoded) -> list[WalData]:
    return [WalData(0, 0, encoded(each)) for each in decoded]


COLUMNS = ("id", "topic", "partition_no", "record_key", "envelope", "data", "written_at")


def row(number: int) -> Insert:
    cells = [str(number).encode(), b"orders", b"3", b"key", b"\\x7b7d", b"\\x6f6e65", b"1.5"]
    return Insert(7, cells, [False] * len(cells))


async def test_the_collector_gives_places_in_commit_order_and_passes_over_what_is_not_ours() -> None:
    reader = LogReader("ensue_outbox")
    pieces = wal(
        Begin(100, EPOCH_US, 1),
        Relation(8, "public", "customers", ("id",)),
        Insert(8, [b"1"], [False]),
        Relation(7, "public", "ensue_outbox", COLUMNS),
        row(41),
        row(42),
        row(43),
        Commit(100, 110),
    )
    for piece in pieces:
        reader.received(piece)
    first, through = reader.take(1)
    assert through == 100, "its own transaction must be sent again until all of it is kept"
    rest, through = reader.take(10)
    assert through == 110
    found = first + rest
    assert [(*each.place, each.row_id) for each in found] == [(100, 1, 41), (100, 2, 42), (100, 3, 43)]
    assert found[0].record == OutboxRecord("orders", 3, "key", b"{}", b"one")
    assert reader.pending == reader.pending_bytes == 0
    reader.received(Keepalive(500, True))
    assert reader.reply_wanted
    assert reader.take(10) == ([], 500)


async def test_half_a_transaction_can_be_kept_but_not_be_forgotten_by_the_server() -> None:
    reader = LogReader("ensue_outbox")
    for piece in wal(Begin(200, EPOCH_US, 1), Relation(7, "public", "ensue_outbox", COLUMNS), row(1), row(2)):
        reader.received(piece)
    entries, through = reader.take(10)
    assert [each.row_id for each in entries] == [1, 2]
    assert through == 200 < 201, "the server skips a transaction only when told of a place after its commit"
    reader.received(wal(Commit(200, 230))[0])
    assert reader.take(10) == ([], 230)


async def test_an_outbox_of_another_shape_is_an_error_that_names_the_columns() -> None:
    reader = LogReader("ensue_outbox")
    with pytest.raises(StoreUnavailable, match="record_key"):
        reader.received(wal(Relation(7, "public", "ensue_outbox", ("id", "topic", "partition_no")))[0])
