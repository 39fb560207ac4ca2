"""An event that its service has withdrawn, since the broker would never take it: an empty record goes out at its place.

The stand-in has the place in the chain and the id of the event, so that no subscriber sees a gap, and whoever compares
the log with the outbox finds what was written. Its type is nobody's: it is passed over. See docs/adr/0065.
"""

from __future__ import annotations

from collections.abc import Sequence

from ensue.codec import decode_envelope, encode_envelope
from ensue.engine.books import Books
from ensue.message import WITHDRAWN, Envelope, OutboxRecord


def stand_in(record: OutboxRecord) -> OutboxRecord:
    """What goes out instead: nothing of the record that a broker could refuse."""
    envelope = decode_envelope(record.envelope)
    empty = encode_envelope(Envelope(envelope.id, WITHDRAWN, envelope.time))
    return OutboxRecord(record.topic, record.partition, "", empty, b"", record.position, record.previous)


async def to_send(books: Books, records: Sequence[OutboxRecord]) -> Sequence[OutboxRecord]:
    """These records, with stand-ins for those that are withdrawn. Asks the database: for what is sent seldom."""
    ids = [decode_envelope(each.envelope).id for each in records]
    withdrawn = await books.withdrawn(ids)
    if not withdrawn:
        return records
    return [stand_in(each) if message_id in withdrawn else each for each, message_id in zip(records, ids, strict=True)]
