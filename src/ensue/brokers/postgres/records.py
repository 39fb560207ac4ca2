"""From rows of the log to messages, and to garbage where a row is none."""

from __future__ import annotations

import asyncpg

from ensue.codec import decode_envelope
from ensue.errors import BadMessage
from ensue.message import Garbage, Message


def message_of(topic: str, partition: int, row: asyncpg.Record) -> Message | Garbage:
    """Return the row of `Statements.read` as a message."""
    offset, position, previous, key, source, envelope, data = row
    try:
        return Message(
            topic, partition, offset, key.decode(), source.decode(), position, previous, decode_envelope(envelope), data
        )
    except (BadMessage, UnicodeDecodeError) as error:
        return Garbage(topic, partition, offset, key.decode(errors="replace"), str(error), data)
