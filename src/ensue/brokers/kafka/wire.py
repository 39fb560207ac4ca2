"""Records of Kafka and messages of ours: CloudEvents 1.0, Kafka binding, binary mode; structured mode is read too.

Our own records take a short way, since each event passes here twice; everything else goes through `ensue.codec`,
which says what is wrong with it. Source: CloudEvents Kafka protocol binding 1.0.2, sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from sys import intern
from typing import cast

from confluent_kafka import Message as KafkaRecord

from ensue.codec import KAFKA, decode_envelope, from_attributes, from_structured, garbage, is_ours, within_bounds
from ensue.errors import BadMessage
from ensue.message import Envelope, Garbage, Message
from ensue.ports import Entry

Headers = list[tuple[str, str | bytes | None]]
#: What an append is made of: key, headers, value.
Record = tuple[bytes, Headers, bytes]


def encode(source: str, partition: int, entries: Sequence[Entry]) -> list[Record]:
    """Return key, headers and value of each entry. Raises BadMessage when an envelope is none."""
    version, origin = ("ce_specversion", "1.0"), ("ce_source", source)
    number = ("ce_ensuepartition", str(partition))
    records: list[Record] = []
    for entry in entries:
        envelope = decode_envelope(entry.envelope)
        key = entry.key
        headers: Headers = [
            version,
            origin,
            ("ce_id", envelope.id),
            ("ce_type", envelope.type),
            ("content-type", envelope.content_type),
        ]
        if entry.position:
            headers += (
                number,
                ("ce_ensueposition", str(entry.position)),
                ("ce_ensueprevious", str(entry.previous)),
            )
        if key:
            headers.append(("ce_partitionkey", key))
        if envelope.time:
            headers.append(("ce_time", envelope.time))
        if envelope.correlation_id:
            headers.append(("ce_correlationid", envelope.correlation_id))
        if envelope.causation_id:
            headers.append(("ce_causationid", envelope.causation_id))
        if envelope.traceparent:
            headers.append(("ce_traceparent", envelope.traceparent))
        if envelope.crc:
            headers.append(("ce_ensuecrc", envelope.crc))
        if envelope.signature:
            headers.append(("ce_ensuesignature", envelope.signature))
        if envelope.extensions:
            headers += [("ce_" + name, value) for name, value in envelope.extensions.items() if value]
        records.append((key.encode(), headers, entry.data))
    return records


def decode(record: KafkaRecord, topic: str, partition: int) -> Message | Garbage:
    """Return the record as a message, or as Garbage with the reason. Never raises for what a stranger wrote."""
    offset = (record.offset() or 0) + 1
    try:
        # A header that is not text, or named twice, is found by the long way.
        headers = cast(dict[str, bytes], dict(record.headers() or ()))
        return _ours(headers, record.value() or b"", topic, partition, offset)
    except (KeyError, ValueError, AttributeError, TypeError, BadMessage):
        return _anyone(record, topic, partition, offset)


def _ours(headers: dict[str, bytes], data: bytes, topic: str, partition: int, offset: int) -> Message:
    """Read a record that `encode` wrote; raises KeyError, ValueError or AttributeError on any other."""
    take = headers.pop
    position, previous = take("ce_ensueposition"), take("ce_ensueprevious")
    if take("ce_specversion") != b"1.0" or not (position.isdigit() and previous.isdigit()):
        raise ValueError
    id_, source, type_ = take("ce_id").decode(), take("ce_source").decode(), take("ce_type").decode()
    if not (id_ and source and type_) or len(position) > 19 or len(previous) > 19:
        raise ValueError
    del headers["ce_ensuepartition"]
    key = take("ce_partitionkey", b"").decode()
    seal = take("ce_ensuesignature", b"").decode(), take("ce_ensuecrc", b"").decode()
    envelope = Envelope(
        id_,
        type_,
        take("ce_time", b"").decode(),
        take("ce_correlationid", b"").decode(),
        take("ce_causationid", b"").decode(),
        take("ce_traceparent", b"").decode(),
        intern(take("content-type").decode()),
        {_extension(name): value.decode() for name, value in headers.items()} if headers else None,
        *seal,
    )
    return within_bounds(Message(topic, partition, offset, key, source, int(position), int(previous), envelope, data))


def _extension(header: str) -> str:
    if not header.startswith("ce_") or not header.islower():
        raise ValueError
    return header[3:]


def _anyone(record: KafkaRecord, topic: str, partition: int, offset: int) -> Message | Garbage:
    key = (record.key() or b"").decode(errors="replace")
    data = record.value() or b""
    names: list[str] = []
    try:
        found = _headers(record)
        names = [name.lower() for name, _ in found]
        headers = {name.lower(): _text(name, value) for name, value in found}
        content_type = headers.get("content-type", "")
        if content_type.lower().startswith("application/cloudevents"):
            return from_structured(content_type, data, topic=topic, partition=partition, offset=offset, key=key)
        if key:
            headers.setdefault("ce_partitionkey", key)
        return from_attributes(headers, data, topic=topic, partition=partition, offset=offset, binding=KAFKA)
    except BadMessage as error:
        return garbage(topic, partition, offset, key, error, data, ours=is_ours(names))


def _headers(record: KafkaRecord) -> Headers:
    try:
        return list(cast(Headers, record.headers() or []))
    except ValueError as error:  # librdkafka's binding decodes the names
        raise BadMessage(f"no CloudEvent: a header's name is not UTF-8 ({error})") from error


def _text(name: str, value: bytes | str | None) -> str:
    if isinstance(value, str):
        return value
    try:
        return (value or b"").decode()
    except UnicodeDecodeError as error:
        if not name.lower().startswith(KAFKA.prefix):
            return ""  # not an attribute: nobody asks for it
        raise BadMessage(f"attribute {name} is not UTF-8: {error}", attribute=name) from error
