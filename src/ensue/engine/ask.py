"""How a subscriber asks a source to send again, and how the source reads the request.

Requests go through the broker, in a control topic of one partition. They need no durability: the subscriber repeats
them until its chain closes, and the relay reads only those that come while it runs.
"""

from __future__ import annotations

import msgspec

from ensue.codec import encode_envelope
from ensue.engine.clock import rfc3339
from ensue.engine.context import Context
from ensue.message import CONTROL_TOPIC, Envelope, Gap, Message, OutboxRecord, Partition
from ensue.plan import Position

REQUEST = "ensue.resend"


class ResendRequest(msgspec.Struct, frozen=True):
    """Send (after, ...] of this partition again, under `source`. needed: the last one known to exist; with `after` for
    it nothing is known to be missing."""

    source: str
    topic: str
    partition: int
    after: Position
    needed: Position
    subscriber: str


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ResendRequest).decode


async def ask_again(context: Context, partition: Partition, gap: Gap) -> None:
    """Append one request. Raises BrokerUnavailable; the caller's loop tries again."""
    request = ResendRequest(
        gap.source, partition.topic, partition.number, gap.watermark, gap.needed, partition.subscription
    )
    envelope = Envelope(context.ids.next(), REQUEST, rfc3339(context.clock.now()))
    record = OutboxRecord(CONTROL_TOPIC, 0, gap.source, encode_envelope(envelope), _encode(request))
    await context.broker.append(CONTROL_TOPIC, 0, partition.subscription, [record])


def read_request(message: Message) -> ResendRequest | None:
    """Return the request, or None when the record is something else (a newer version's, or nonsense)."""
    if message.type != REQUEST:
        return None
    try:
        return _decode(message.data)
    except (msgspec.DecodeError, RecursionError):
        return None
