"""Bytes and back: the envelope as JSON (outbox, embedded log) and as CloudEvents 1.0 attributes in binary mode.

In binary mode each attribute is a header and the data is the body, untouched. Brokers that speak to other programs
(Kafka, NATS) write those headers in a way of their own and read by `from_attributes`, with their binding; the embedded
log keeps the encoded envelope.
Source: CloudEvents 1.0.2 and its Kafka and NATS protocol bindings; extensions `partitionkey`,
`traceparent` are CloudEvents' own, `ensue*` are ours.
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Iterable, Mapping
from sys import intern
from urllib.parse import quote, unquote

import msgspec

from ensue.errors import BadMessage
from ensue.message import JSON, Envelope, Flaw, Garbage, Message

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
ID_CHARS_MAX = 255  # id and causation id
TYPE_CHARS_MAX = 255
#: What is no longer in all breaks no bound.
SHORTEST_CHARS_MAX = min(SOURCE_CHARS_MAX, ID_CHARS_MAX, TYPE_CHARS_MAX)
KEY_BYTES_MAX = 1_024  # in UTF-8
#: Each other attribute in UTF-8: time, content type, correlation id, traceparent, each extension's name and value.
ATTRIBUTE_BYTES_MAX = 1_024
EXTENSIONS_MAX = 64
#: What is published keeps to these as well: every broker takes such a record as it is configured by default. NATS wants
#: all headers below 64 KiB, in which each byte may become three (%XX); RabbitMQ wants header names below 256 bytes, and
#: all headers in one frame of 128 KiB; Kafka (1 MiB) counts the key twice, NATS (1 MiB) counts headers with the data.
ENVELOPE_BYTES_MAX = 16_384
EXTENSION_NAME_CHARS_MAX = 64
#: Envelope, key and data together, unless a setting says otherwise.
RECORD_BYTES_MAX = 900_000
#: What is sent with a record besides: names of headers, source, chain, checksum and signature, the frame around it.
SENT_BYTES = 1_024
#: No record of so many bytes, envelope, key and data together, takes more than this on top of them.
SENT_GROWTH_BYTES_MAX = 2 * ENVELOPE_BYTES_MAX + 5 * KEY_BYTES_MAX + SENT_BYTES
#: In the names of Kafka's topics, NATS's streams (each dot takes three), RabbitMQ's queues, and in MariaDB's columns.
TOPIC_CHARS_MAX = 100
PARTITIONS_MAX = 4_096
#: What is kept of the data of a record that is no message, and of the reason why.
GARBAGE_BYTES_MAX = 65_536
GARBAGE_REASON_CHARS_MAX = 1_000

#: Attributes that have a place of their own, so that no extension may take their names.
RESERVED = frozenset(
    {
        "specversion", "id", "source", "type", "time", "datacontenttype", "partitionkey",
        "correlationid", "causationid", "traceparent",
        "ensuepartition", "ensueposition", "ensueprevious", "ensuesignature", "ensuecrc",
    }
)  # fmt: skip


def decode_envelope(data: bytes) -> Envelope:
    """Decode what `encode_envelope` made. Raises BadMessage when it is anything else."""
    try:
        return _envelope_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"the headers are no envelope: {error}. Expected CloudEvents attributes as JSON") from error


def read_message(
    topic: str,
    partition: int,
    offset: int,
    key: str,
    source: str,
    position: int,
    previous: int,
    envelope: bytes,
    data: bytes,
) -> Message:
    """Return a record of a log that keeps encoded envelopes. Raises BadMessage, as `decode_envelope` and
    `within_bounds` do."""
    message = Message(topic, partition, offset, key, source, position, previous, decode_envelope(envelope), data)
    # Each text of a JSON object is shorter than that is, and without escapes JSON has no zero characters: so most
    # envelopes are seen to keep to all bounds without a look at each of their attributes.
    size = len(envelope)
    if (
        size <= ATTRIBUTE_BYTES_MAX and envelope.isascii() and b"\\" not in envelope
        and (size <= SHORTEST_CHARS_MAX or _short(message.envelope))
        and len(source) <= SOURCE_CHARS_MAX and source.isascii() and "\0" not in source
        and len(key) <= KEY_BYTES_MAX and key.isascii() and "\0" not in key
        and 0 <= previous <= position <= POSITION_MAX
    ):  # fmt: skip
        return message
    return within_bounds(message)


def _short(envelope: Envelope) -> bool:
    """Whether its attributes keep to their bounds, given that all of them together have no more than any may have that
    has no bound of its own."""
    return (
        envelope.extensions is None
        and len(envelope.id) <= ID_CHARS_MAX
        and len(envelope.type) <= TYPE_CHARS_MAX
        and len(envelope.causation_id) <= ID_CHARS_MAX
    )


def within_bounds(message: Message) -> Message:
    """Return the message itself. Raises BadMessage that names the attribute which is out of bounds."""
    envelope = message.envelope
    if not 0 <= message.previous <= message.position <= POSITION_MAX:
        raise BadMessage(
            f"position {_shown(message.position)} after {_shown(message.previous)}, expected "
            f"0 <= previous <= position <= {POSITION_MAX}",
            attribute="ensueposition",
        )
    together = (
        f"{message.key}{message.source}{envelope.id}{envelope.type}{envelope.time}{envelope.correlation_id}"
        f"{envelope.causation_id}{envelope.traceparent}{envelope.content_type}{envelope.signature}{envelope.crc}"
    )
    size = len(together)
    if (
        envelope.extensions is None and together.isascii() and "\0" not in together
        and (size <= SHORTEST_CHARS_MAX or (
            size <= ATTRIBUTE_BYTES_MAX and len(message.source) <= SOURCE_CHARS_MAX
            and len(envelope.id) <= ID_CHARS_MAX and len(envelope.type) <= TYPE_CHARS_MAX
            and len(envelope.causation_id) <= ID_CHARS_MAX
        ))
    ):  # fmt: skip
        return message  # the usual case, in one look
    texts = (
        message.key, message.source, envelope.id, envelope.type, envelope.time, envelope.correlation_id,
        envelope.causation_id, envelope.traceparent, envelope.content_type, envelope.signature, envelope.crc,
    )  # fmt: skip
    for (name, chars_max, bytes_max), text in zip(_BOUNDS, texts, strict=True):
        _check_text(name, text, chars_max, bytes_max)
    extensions = envelope.extensions or {}
    if len(extensions) > EXTENSIONS_MAX:
        raise BadMessage(f"{len(extensions)} extensions, expected at most {EXTENSIONS_MAX}", attribute="extensions")
    for name, text in extensions.items():
        _check_text("an extension's name", name, ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX)
        _check_text(name, text, ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX)
    return message


#: For each of the texts above: the attribute, characters, bytes.
_BOUNDS = (
    ("partitionkey", KEY_BYTES_MAX, KEY_BYTES_MAX),
    ("source", SOURCE_CHARS_MAX, 4 * SOURCE_CHARS_MAX),
    ("id", ID_CHARS_MAX, 4 * ID_CHARS_MAX),
    ("type", TYPE_CHARS_MAX, 4 * TYPE_CHARS_MAX),
    ("time", ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX),
    ("correlationid", ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX),
    ("causationid", ID_CHARS_MAX, 4 * ID_CHARS_MAX),
    ("traceparent", ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX),
    ("datacontenttype", ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX),
    ("ensuesignature", ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX),
    ("ensuecrc", ATTRIBUTE_BYTES_MAX, ATTRIBUTE_BYTES_MAX),
)


def _check_text(name: str, text: str, chars_max: int, bytes_max: int) -> None:
    if len(text) > chars_max:
        raise BadMessage(f"attribute {name} has {len(text)} characters, expected at most {chars_max}", attribute=name)
    if "\0" in text:
        raise BadMessage(f"attribute {name} holds a zero character, which not every database stores", attribute=name)
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise BadMessage(f"attribute {name} is no text that UTF-8 can carry: {error.reason}", attribute=name) from error
    if size > bytes_max:
        raise BadMessage(f"attribute {name} has {size} bytes, expected at most {bytes_max}", attribute=name)


def _shown(number: int) -> str:
    return str(number) if abs(number) <= 2**64 else "of more than 64 bits"


def garbage(
    topic: str, partition: int, offset: int, key: str, reason: object, data: bytes, *, ours: bool = False
) -> Garbage:
    """Return a record that is no message so that every store can keep it: its texts cleaned and cut, its data cut.

    ours: it bears the marks of Ensue (`is_ours`), so it was damaged on its way, and its source sends it again.
    """
    said = str(reason)
    if len(data) > GARBAGE_BYTES_MAX:
        said = f"{said[:GARBAGE_REASON_CHARS_MAX]} (of {len(data)} bytes of data {GARBAGE_BYTES_MAX} are kept)"
        data = data[:GARBAGE_BYTES_MAX]
    flaw = Flaw.DAMAGED if ours else Flaw.STRANGE
    readable = _storable(key, KEY_BYTES_MAX).encode()[:KEY_BYTES_MAX].decode(errors="ignore")
    return Garbage(topic, partition, offset, readable, _storable(said, GARBAGE_REASON_CHARS_MAX + 100), data, flaw)


def is_ours(names: Iterable[str]) -> bool:
    """Whether any of a record's attributes is one that Ensue alone writes. No single damage takes all of them away."""
    return any("ensuep" in name or "ensuecrc" in name for name in names)


def _storable(text: str, chars_max: int) -> str:
    return text[:chars_max].replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


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


def sent_bytes(envelope: bytes, key: str, data: bytes) -> int:
    """At most so many bytes count against a broker's limit for a record, which each counts in its own way.

    The attributes go as headers, in which NATS writes most bytes beyond letters and digits as three; Kafka has the key
    twice; and what the relay adds goes with them.
    """
    return len(quote(envelope, safe=_SAFE)) + 2 * len(quote(key, safe=_SAFE)) + len(data) + SENT_BYTES


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
        raise BadMessage(f"CloudEvents version {attributes['specversion'][:40]}, expected 1.0", attribute="specversion")
    content_type = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    extensions = {name: value for name, value in attributes.items() if name not in RESERVED}
    message = Message(
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
            content_type=intern(content_type) or JSON,
            extensions=extensions or None,
            signature=attributes.get("ensuesignature", ""),
            crc=attributes.get("ensuecrc", ""),
        ),
        data=data,
    )
    return within_bounds(message)


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
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
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
