"""Messages of a stream queue: a CloudEvent in binary mode, by the CloudEvents AMQP protocol binding.

Each attribute is a header `cloudEvents:<attribute>`, the content type is the message's own, the body is the data,
untouched. A reader that speaks AMQP 1.0 sees the headers as application properties, as that binding asks.
Headers with `cloudEvents_` are read as well, as its 1.0.2 allows.
"""

from __future__ import annotations

from collections.abc import Mapping
from sys import intern

from ensue.brokers.rabbitmq.frames import Value, properties, text_field
from ensue.codec import Binding, decode_envelope, from_attributes, garbage, is_ours, within_bounds
from ensue.errors import BadMessage
from ensue.message import JSON, Envelope, Garbage, Message
from ensue.ports import Entry

PREFIX = "cloudEvents:"
#: Header names are compared in lower case.
AMQP = Binding(PREFIX.lower(), percent=False)
#: A record that only marks a place: the first of each stream, so that none is ever empty. No reader sees it.
MARKER = b"ensuemarker"
#: Where the server says the place of a message in its stream.
OFFSET = b"x-stream-offset"

_SPECVERSION = text_field(PREFIX + "specversion", "1.0")
_KNOWN = frozenset(
    PREFIX.encode() + name
    for name in (
        b"specversion", b"id", b"source", b"type", b"time", b"partitionkey", b"correlationid", b"causationid",
        b"traceparent", b"ensuepartition", b"ensueposition", b"ensueprevious", b"ensuecrc", b"ensuesignature",
    )
) | {OFFSET}  # fmt: skip


def head_of(entry: Entry, chain_start: bytes, message_id: str = "") -> bytes:
    """Return the properties of an entry. chain_start: from `source_fields`. Raises BadMessage."""
    envelope = decode_envelope(entry.envelope)
    fields = [chain_start, text_field("cloudEvents:id", envelope.id), text_field("cloudEvents:type", envelope.type)]
    if entry.position:
        fields.append(text_field("cloudEvents:ensueposition", str(entry.position)))
        fields.append(text_field("cloudEvents:ensueprevious", str(entry.previous)))
    for name, value in (
        ("cloudEvents:partitionkey", entry.key),
        ("cloudEvents:time", envelope.time),
        ("cloudEvents:correlationid", envelope.correlation_id),
        ("cloudEvents:causationid", envelope.causation_id),
        ("cloudEvents:traceparent", envelope.traceparent),
        ("cloudEvents:ensuecrc", envelope.crc),
        ("cloudEvents:ensuesignature", envelope.signature),
    ):
        if value:
            fields.append(text_field(name, value))
    for name, value in (envelope.extensions or {}).items():
        fields.append(text_field(PREFIX + name, value))
    return properties(envelope.content_type, b"".join(fields), message_id)


def source_fields(source: str, partition: int) -> bytes:
    """What all records of one append have in common."""
    return (
        _SPECVERSION
        + text_field("cloudEvents:source", source)
        + text_field("cloudEvents:ensuepartition", str(partition))
    )


def message_of(
    topic: str, partition: int, offset: int, headers: Mapping[bytes, Value], content_type: bytes, data: bytes
) -> Message | Garbage:
    get = headers.get
    try:
        if headers.keys() <= _KNOWN:
            # One of ours without extensions, the usual case; everything else goes the general way below.
            position, previous = get(b"cloudEvents:ensueposition", b"0"), get(b"cloudEvents:ensueprevious", b"0")
            source, id_, type_ = get(b"cloudEvents:source"), get(b"cloudEvents:id"), get(b"cloudEvents:type")
            if (
                get(b"cloudEvents:specversion") == b"1.0" and source and id_ and type_
                and type(position) is bytes and type(previous) is bytes
                and position.isdigit() and previous.isdigit() and len(position) < 20 and len(previous) < 20
            ):  # fmt: skip
                envelope = Envelope(
                    _text(id_), _text(type_), _text(get(b"cloudEvents:time", b"")),
                    _text(get(b"cloudEvents:correlationid", b"")), _text(get(b"cloudEvents:causationid", b"")),
                    _text(get(b"cloudEvents:traceparent", b"")), intern(content_type.decode()) or JSON,
                    None, _text(get(b"cloudEvents:ensuesignature", b"")), _text(get(b"cloudEvents:ensuecrc", b"")),
                )  # fmt: skip
                key = _text(get(b"cloudEvents:partitionkey", b""))
                where = (topic, partition, offset, key, _text(source), int(position), int(previous))
                return within_bounds(Message(*where, envelope, data))
        texts = {_name(name): _text(value) for name, value in headers.items() if value is not None}
        texts["content-type"] = content_type.decode()
        return from_attributes(texts, data, topic=topic, partition=partition, offset=offset, binding=AMQP)
    except (BadMessage, UnicodeDecodeError) as error:
        raw = get(b"cloudEvents:partitionkey", b"")
        readable = raw.decode(errors="replace") if isinstance(raw, bytes) else ""
        # Values too: a length that is damaged makes one field swallow those behind it.
        found = (each for pair in headers.items() for each in pair if isinstance(each, bytes))
        ours = is_ours(each.decode(errors="replace") for each in found)
        return garbage(topic, partition, offset, readable, error, data, ours=ours)


def _name(name: bytes) -> str:
    text = name.decode()
    return PREFIX + text[len(PREFIX) :] if text.lower().startswith("cloudevents_") else text


def _text(value: Value) -> str:
    """CloudEvents' canonical text of a header's value."""
    if type(value) is bytes:
        return value.decode()
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)
