"""From rows of the log to messages, and to garbage where a row is none."""

from __future__ import annotations

import asyncpg

from ensue.codec import garbage, is_ours, read_message
from ensue.errors import BadMessage
from ensue.message import Garbage, Message


def message_of(topic: str, partition: int, row: asyncpg.Record) -> Message | Garbage:
    """Return the row of `Statements.read` as a message."""
    offset, position, previous, key, source, envelope, data = row
    try:
        return read_message(topic, partition, offset, key.decode(), source.decode(), position, previous, envelope, data)
    except (BadMessage, UnicodeDecodeError) as error:
        ours = position != 0 or is_ours((envelope.decode(errors="replace"),))
        return garbage(topic, partition, offset, key.decode(errors="replace"), error, data, ours=ours)
