"""Entries of a stream and messages: a CloudEvent in binary mode, one field for each attribute.

Fields: `ce_<attribute>` as the Kafka binding names them, `content-type`, `data` (the body, untouched) and
`ensueappended` (milliseconds since the epoch, for retention; no attribute). Anyone may write an entry with
`ce_specversion`, `ce_id`, `ce_source`, `ce_type` and `data`. Redis has no CloudEvents binding of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from sys import intern

import msgspec

from ensue.codec import KAFKA, decode_envelope, from_attributes, garbage, is_ours, within_bounds
from ensue.errors import BadMessage
from ensue.message import JSON, Envelope, Garbage, Message
from ensue.ports import Entry

#: Redis unpacks and packs these with cmsgpack, which has text only: data goes beside it.
pack = msgspec.msgpack.Encoder().encode
unpack_heads = msgspec.msgpack.Decoder(list[list[str]]).decode

#: What our own entries may have beside extensions.
_KNOWN = frozenset(
    {
        "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type", "ce_partitionkey",
        "ce_correlationid", "ce_causationid", "ce_traceparent", "ce_ensuepartition", "ce_ensueposition",
        "ce_ensueprevious", "ce_ensuecrc", "ce_ensuesignature", "ensueappended",
    }
)  # fmt: skip


def fields_of(entry: Entry, source: str, partition: str, appended_ms: str) -> list[str]:
    """Return the fields of an entry, names and values in turn, without its data. Raises BadMessage."""
    envelope = decode_envelope(entry.envelope)
    fields = [
        "ce_specversion", "1.0", "ce_id", envelope.id, "ce_source", source, "ce_type", envelope.type,
        "content-type", envelope.content_type, "ensueappended", appended_ms,
    ]  # fmt: skip
    if entry.position:
        fields += (
            "ce_ensuepartition", partition,
            "ce_ensueposition", str(entry.position), "ce_ensueprevious", str(entry.previous),
        )  # fmt: skip
    if entry.key:
        fields += "ce_partitionkey", entry.key
    if envelope.time:
        fields += "ce_time", envelope.time
    if envelope.correlation_id:
        fields += "ce_correlationid", envelope.correlation_id
    if envelope.causation_id:
        fields += "ce_causationid", envelope.causation_id
    if envelope.traceparent:
        fields += "ce_traceparent", envelope.traceparent
    if envelope.crc:
        fields += "ce_ensuecrc", envelope.crc
    if envelope.signature:
        fields += "ce_ensuesignature", envelope.signature
    for name, value in (envelope.extensions or {}).items():
        fields += f"ce_{name}", value
    return fields


def message_of(topic: str, partition: int, offset: int, head: Sequence[str], data: bytes) -> Message | Garbage:
    """Read one entry. head: its fields without `data`, names and values in turn."""
    fields = dict(zip(head[::2], head[1::2], strict=True))
    get = fields.get
    position = get("ce_ensueposition", "")
    previous = get("ce_ensueprevious", "")
    source, id_, type_ = get("ce_source", ""), get("ce_id", ""), get("ce_type", "")
    try:
        if (
            get("ce_specversion") == "1.0" and source and id_ and type_
            and position.isdecimal() and previous.isdecimal() and position.isascii() and previous.isascii()
            and fields.keys() <= _KNOWN and len(position) < 20 and len(previous) < 20
        ):  # fmt: skip
            # One of ours without extensions, the usual case; everything else goes the general way below.
            envelope = Envelope(
                id_, type_, get("ce_time", ""), get("ce_correlationid", ""), get("ce_causationid", ""),
                get("ce_traceparent", ""), intern(get("content-type", "")) or JSON,
                None, get("ce_ensuesignature", ""), get("ce_ensuecrc", ""),
            )  # fmt: skip
            where = (topic, partition, offset, get("ce_partitionkey", ""), source, int(position), int(previous))
            return within_bounds(Message(*where, envelope, data))
        return from_attributes(fields, data, topic=topic, partition=partition, offset=offset, binding=KAFKA)
    except BadMessage as error:
        return garbage(topic, partition, offset, get("ce_partitionkey", ""), error, data, ours=is_ours(fields))


def message_of_bytes(topic: str, partition: int, id_: bytes, fields: Mapping[bytes, bytes]) -> Message | Garbage:
    """As `message_of`, of an entry as redis-py's XRANGE gives it, whose bytes may be no text."""
    data = fields.get(b"data", b"")
    offset = int(id_.decode().partition("-")[2])
    try:
        head = [each.decode() for pair in fields.items() if pair[0] != b"data" for each in pair]
    except UnicodeDecodeError as error:
        key = fields.get(b"ce_partitionkey", b"").decode(errors="replace")
        ours = is_ours(name.decode(errors="replace") for name in fields)
        return garbage(topic, partition, offset, key, f"a field is no UTF-8 text: {error}", data, ours=ours)
    return message_of(topic, partition, offset, head, data)
