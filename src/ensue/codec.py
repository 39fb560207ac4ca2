"""Bytes and back: the envelope as JSON (outbox, embedded log) and as CloudEvents 1.0 attributes in binary mode.

In binary mode each attribute is a header and the data is the body, untouched. Brokers that speak to other programs
(Kafka, NATS) use `to_attributes` / `from_attributes` with their binding; the embedded log keeps the encoded envelope.
Source: CloudEvents 1.0.2 and its Kafka and NATS protocol bindings; extensions `partitionkey`,
`traceparent` are CloudEvents' own, `ensue*` are ours.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Mapping
from urllib.parse import quote, unquote

import msgspec

from ensue.errors import BadMessage
from ensue.message import Envelope, Message

_encoder = msgspec.json.Encoder()
_envelope_decoder = msgspec.json.Decoder(Envelope)

#: A CloudEvent in structured mode: its data is kept as it was written.
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text_decoder = msgspec.json.Decoder(str)
_scalar_decoder = msgspec.json.Decoder(str | int | bool | None)

encode_envelope = _encoder.encode

#: What a record may carry, whoever wrote it: the same bounds for what is published and for what is read. They are what
#: every store's columns hold. A record outside them is no message: it is set aside as Garbage, with the reason.
POSITION_MAX = 2**63 - 1
SOURCE_CHARS_MAX = 255
ID_CHARS_MAX = 255  # id, correlation id and causation id
TYPE_CHARS_MAX = 255
KEY_BYTES_MAX = 1_024  # in UTF-8
#: Each other attribute in UTF-8: time, content type, traceparent, and each extension's name and value.
ATTRIBUTE_BYTES_MAX = 1_024
EXTENSIONS_MAX = 64
#: What is published keeps to these as well: every broker takes such a record as it is configured by default. NATS wants
#: all headers below 64 KiB, in which each byte may become three (%XX); RabbitMQ wants header names below 256 bytes, and
#: all headers in one frame of 128 KiB; Kafka (1 MiB) counts the key twice, NATS (1 MiB) counts headers with the data.
ENVELOPE_BYTES_MAX = 16_384
EXTENSION_NAME_CHARS_MAX = 64
#: Envelope, key and data together, unless a setting says otherwise.
RECORD_BYTES_MAX = 900_000
#: In the names of Kafka's topics, NATS's streams (each dot takes three), RabbitMQ's queues, and in MariaDB's columns.
TOPIC_CHARS_MAX = 100

#: Attributes that have a place of their own, so that no extension may take their names.
RESERVED = frozenset(
    {
        "specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey",
        "correlationid", "causationid", "traceparent",
        "ensuepartition", "ensueposition", "ensueprevious",
    }
)  # fmt: skip


def decode_envelope(data: bytes) -> Envelope:
    """Decode what `encode_envelope` made. Raises BadMessage when it is anything else."""
    try:
        return _envelope_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadMessage(f"the headers are no envelope: {error}. Expected CloudEvents attributes as JSON") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """How a protocol carries attributes as headers: the names' prefix, and whether values are percent-encoded."""

    prefix: str
    percent: bool


HTTP = Binding("ce-", percent=True)
NATS = HTTP  # the NATS binding encodes values as the HTTP binding does
KAFKA = Binding("ce_", percent=False)

#: Everything printable in ASCII but space, double quote and percent (HTTP binding, 3.1.3.2).
_SAFE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')


def to_attributes(message: Message, binding: Binding = HTTP) -> dict[str, str]:
    """Return the CloudEvents headers of a message. The content type goes as `content-type`, as the bindings ask."""
    attributes = message.headers
    content_type = attributes.pop("datacontenttype")
    headers = {
        binding.prefix + name: quote(value, safe=_SAFE) if binding.percent else value
        for name, value in attributes.items()
    }
    headers["content-type"] = content_type
    return headers


def from_attributes(
    headers: Mapping[str, str], data: bytes, *, topic: str, partition: int, offset: int, binding: Binding = HTTP
) -> Message:
    """Read a CloudEvent in binary mode, ours or anybody's. Header names match without regard to case.

    Raises BadMessage that names the missing or malformed attribute.
    """
    prefix = binding.prefix
    attributes = {
        name.lower()[len(prefix) :]: unquote(value) if binding.percent else value
        for name, value in headers.items()
        if name.lower().startswith(prefix)
    }
    for required in ("specversion", "id", "source", "type"):
        if not attributes.get(required):
            raise BadMessage(f"no CloudEvent: header {prefix}{required} is missing or empty", attribute=required)
    if not attributes["specversion"].startswith("1."):
        raise BadMessage(f"CloudEvents version {attributes['specversion']}, expected 1.0", attribute="specversion")
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    extensions = {name: value for name, value in attributes.items() if name not in RESERVED}
    return Message(
        topic=topic,
        partition=partition,
        offset=offset,
        key=attributes.get("partitionkey", "") or attributes.get("subject", ""),
        source=attributes["source"],
        position=_whole(attributes, "ensueposition"),
        previous=_whole(attributes, "ensueprevious"),
        envelope=Envelope(
            id=attributes["id"],
            type=attributes["type"],
            time=attributes.get("time", ""),
            correlation_id=attributes.get("correlationid", ""),
            causation_id=attributes.get("causationid", ""),
            traceparent=attributes.get("traceparent", ""),
            content_type=content_type or "application/json",
            extensions=extensions or None,
        ),
        data=data,
    )


def from_structured(
    content_type: str, body: bytes, *, topic: str, partition: int, offset: int, key: str = ""
) -> Message:
    """Read a CloudEvent in structured mode (`application/cloudevents+json`): attributes and data in one JSON object.

    key: what the protocol itself says about the partition key, for an event without that attribute.
    Raises BadMessage. Source: CloudEvents JSON event format 1.0.2, section 3.
    """
    if content_type.partition(";")[0].strip().lower() != "application/cloudevents+json":
        raise BadMessage(f"content type {content_type[:80]!r}: one event in application/cloudevents+json is expected")
    try:
        event = _object_decoder.decode(body)
        binary = event.pop("data_base64", None)
        raw = event.pop("data", None)
        data_type = event.get("datacontenttype")
        if binary is not None:
            data = base64.b64decode(_text_decoder.decode(binary), validate=True)
        elif raw is None or bytes(raw) == b"null":
            data = b""
        elif data_type is None or "json" in _text_decoder.decode(data_type).lower():
            data = bytes(raw)
        else:  # any other type of data is carried as a string
            data = _text_decoder.decode(raw).encode()
        found = {name: _scalar_decoder.decode(value) for name, value in event.items()}
    except (msgspec.DecodeError, ValueError) as error:
        raise BadMessage(f"no CloudEvent in structured mode: {error}") from error
    attributes = {name: _canonical(value) for name, value in found.items() if value is not None}
    headers = {KAFKA.prefix + name: value for name, value in attributes.items()}
    headers["content-type"] = attributes.get("datacontenttype", "application/json")
    if key:
        headers.setdefault(KAFKA.prefix + "partitionkey", key)
    return from_attributes(headers, data, topic=topic, partition=partition, offset=offset, binding=KAFKA)


def _canonical(value: str | int | bool) -> str:
    """An attribute's value as text, as CloudEvents writes its types."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _whole(attributes: Mapping[str, str], name: str) -> int:
    text = attributes.get(name, "0")
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadMessage(f"attribute {name} is {text[:40]!r}, expected a whole number", attribute=name)
    return int(text)
