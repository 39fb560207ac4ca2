"""From rows of the embedded log to messages, and to garbage where a row is none."""

from __future__ import annotations

import sqlite3

from ensue.brokers import embedded_sql as sql
from ensue.codec import garbage, is_ours, read_message
from ensue.errors import BadMessage
from ensue.message import Garbage, Message

#: A read stops after this much data, so that 500 records of 10 MB do not come at once.
READ_BYTES_MAX = 8 * 1024 * 1024


def read_rows(
    reader: sqlite3.Connection, topic: str, partition: int, key_range: tuple[int, int], limit: int
) -> list[Message | Garbage]:
    """Return up to `limit` records, or fewer when they are big, with keys in (low, high]; leaves no read open."""
    try:
        return _decoded(reader, topic, partition, key_range, limit)
    except sqlite3.OperationalError as error:
        if not str(error).startswith("Could not decode to UTF-8"):
            raise
    # A damaged key or source: once more, with text as bytes, to find out whose.
    reader.text_factory = bytes
    try:
        return _decoded(reader, topic, partition, key_range, limit)
    finally:
        reader.text_factory = str


def _decoded(
    reader: sqlite3.Connection, topic: str, partition: int, key_range: tuple[int, int], limit: int
) -> list[Message | Garbage]:
    found: list[Message | Garbage] = []
    size = 0
    mask = sql.OFFSET_MASK
    cursor = reader.execute(sql.READ, (*key_range, limit))
    try:
        for id_, key, source, position, previous, envelope, data in cursor:
            try:
                if type(key) is bytes:
                    key, source = key.decode(), source.decode()
                found.append(
                    read_message(topic, partition, id_ & mask, key, source, position, previous, envelope, data)
                )
            except (BadMessage, UnicodeDecodeError) as error:
                readable = key.decode(errors="replace") if type(key) is bytes else key
                ours = position != 0 or is_ours((envelope.decode(errors="replace"),))
                found.append(garbage(topic, partition, id_ & mask, readable, error, data, ours=ours))
            size += len(data)
            if size > READ_BYTES_MAX:
                break
    finally:
        cursor.close()
    return found
