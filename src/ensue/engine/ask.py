"""How a subscriber asks a source to send again, and says what it has applied; and how the source reads it.

Requests go through the broker, in a control topic of one partition. They need no durability: the subscriber repeats
them until its chain closes, and the relay reads only those that come while it runs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Annotated

import msgspec

from ensue.codec import encode_envelope
from ensue.engine.clock import rfc3339
from ensue.engine.context import Context
from ensue.message import CONTROL_TOPIC, Checkpoint, Envelope, Gap, Message, OutboxRecord, Partition
from ensue.plan import Position

REQUEST = "ensue.resend"
#: Says what was applied and wants nothing.
SEEN = "ensue.seen"


class ResendRequest(msgspec.Struct, frozen=True):
    """Send (after, ...] of this partition again, under `source`. needed: the last one known to exist; with `after` for
    it nothing is known to be missing. id: of the message at `after`, which was applied; empty: not known."""

    source: str
    topic: str
    partition: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    after: Position
    needed: Position
    subscriber: str
    id: str = ""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ResendRequest).decode


async def ask_again(context: Context, partition: Partition, gap: Gap, known: str = "") -> None:
    """Append one request. known: id of the message at the gap's watermark. Raises BrokerUnavailable; the caller's loop
    tries again."""
    request = ResendRequest(
        gap.source, partition.topic, partition.number, gap.watermark, gap.needed, partition.subscription, known
    )
    await _append(context, REQUEST, [request])


async def say_seen(context: Context, partition: Partition, checkpoint: Checkpoint, sources: Collection[str]) -> None:
    """Tell these sources what was applied of them, where that is anything. Raises as `ask_again` does."""
    said = [
        ResendRequest(
            source, partition.topic, partition.number, watermark, watermark, partition.subscription,
            checkpoint.ids.get(source, ""),
        )
        for source, watermark in checkpoint.watermarks.items()
        if source in sources
    ]  # fmt: skip
    await _append(context, SEEN, said)


async def _append(context: Context, kind: str, requests: Sequence[ResendRequest]) -> None:
    if not requests:
        return
    time = rfc3339(context.clock.now())
    records = [
        OutboxRecord(
            CONTROL_TOPIC, 0, each.source, encode_envelope(Envelope(context.ids.next(), kind, time)), _encode(each)
        )
        for each in requests
    ]
    await context.broker.append(CONTROL_TOPIC, 0, requests[0].subscriber, records)


def read_request(message: Message, *kinds: str) -> ResendRequest | None:
    """Return what a record of one of these kinds says, None of any other one (a newer version's, or nonsense)."""
    if message.type not in kinds:
        return None
    try:
        return _decode(message.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
