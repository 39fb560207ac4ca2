"""Records of Kafka as messages: our own, anybody's CloudEvents in both modes, and what is none.

The CloudEvents SDK is the oracle for what others write and read.
"""

from __future__ import annotations

import json
from typing import Any

import pytest
from cloudevents.core.bindings import kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from confluent_kafka import Message as KafkaRecord

from ensue.brokers.kafka.wire import decode, encode
from ensue.codec import encode_envelope
from ensue.conformance.broker import entry
from ensue.errors import BadMessage
from ensue.message import Envelope, Garbage, Message, OutboxRecord

FULL = Envelope(
    id="id-ü",
    type="OrderCreated",
    time="2024-01-01T00:00:00Z",
    correlation_id="flow",
    causation_id="cause",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    content_type="text/plain",
    extensions={"region": "Köln", "tenant": "7"},
)


def record(headers: Any, value: bytes | None = b"{}", key: bytes | None = b"key", offset: int = 41) -> KafkaRecord:
    return KafkaRecord(topic="orders", partition=3, offset=offset, key=key, value=value, headers=headers)


def read(headers: Any, value: bytes | None = b"{}", key: bytes | None = b"key") -> Message | Garbage:
    return decode(record(headers, value, key), "orders", 3)


def as_bytes(headers: Any) -> list[tuple[str, bytes]]:
    return [(name, value.encode()) for name, value in headers]


@pytest.mark.parametrize("envelope", [Envelope(id="1", type="T"), FULL])
@pytest.mark.parametrize("position", [0, 1, 2**62])
@pytest.mark.parametrize("key", ["", "customer-1", "顧客"])
def test_an_entry_comes_back_as_it_was(envelope: Envelope, position: int, key: str) -> None:
    sent = OutboxRecord("orders", 3, key, encode_envelope(envelope), b"\x00data", position, max(position - 1, 0))
    [(record_key, headers, value)] = encode("orders/1", 3, [sent])
    message = read(as_bytes(headers), value, record_key)
    assert message == Message("orders", 3, 42, key, "orders/1", position, max(position - 1, 0), envelope, b"\x00data")


def test_the_sdk_reads_what_we_write() -> None:
    sent = OutboxRecord("orders", 3, "customer-1", encode_envelope(FULL), b"text", 9, 7)
    [(key, headers, value)] = encode("orders/1", 3, [sent])
    event = kafka.from_kafka(kafka.KafkaMessage(dict(as_bytes(headers)), key, value), JSONFormat(), CloudEvent)
    assert (event.get_id(), event.get_source(), event.get_type()) == (FULL.id, "orders/1", FULL.type)
    assert event.get_extension("ensueposition") == "9"
    assert event.get_extension("region") == "Köln"
    assert event.get_extension("partitionkey") == "customer-1"


@pytest.mark.parametrize("write", [kafka.to_binary, kafka.to_structured])
def test_we_read_what_the_sdk_writes_in_both_modes(write: Any) -> None:
    attributes = {
        "specversion": "1.0", "id": "e-1", "source": "/elsewhere", "type": "com.example.paid",
        "datacontenttype": "application/json", "partitionkey": "customer-9", "region": "north",
    }  # fmt: skip
    written = write(CloudEvent(attributes, {"total": "1.00"}), JSONFormat())
    key = written.key.encode() if isinstance(written.key, str) else written.key
    message = read(list(written.headers.items()), written.value, key)
    assert isinstance(message, Message), message
    assert (message.id, message.source, message.type) == ("e-1", "/elsewhere", "com.example.paid")
    assert (message.position, message.previous, message.key) == (0, 0, "customer-9")
    assert message.envelope.extensions == {"region": "north"}
    assert json.loads(message.data) == {"total": "1.00"}


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ({"data": {"a": [1, 2.50]}}, b'{"a": [1, 2.5]}'),
        ({"data_base64": "/wA="}, b"\xff\x00"),
        ({"datacontenttype": "text/xml", "data": "<much wow='xml'/>"}, b"<much wow='xml'/>"),
        ({"data": None}, b""),
        ({}, b""),
        ({"partitionkey": "another"}, b""),
        ({"count": 7, "flag": True}, b""),
    ],
)
def test_data_of_an_event_in_structured_mode(event: dict[str, Any], data: bytes) -> None:
    body = json.dumps({"specversion": "1.0", "id": "1", "source": "s", "type": "t", **event}).encode()
    message = read([("Content-Type", b"application/cloudevents+json; charset=utf-8")], body)
    assert isinstance(message, Message), message
    assert message.data == data
    assert message.key == event.get("partitionkey", "key")
    if "count" in event:
        assert message.envelope.extensions == {"count": "7", "flag": "true"}


HEADERS = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t")]


@pytest.mark.parametrize("headers", [HEADERS, [(name.upper(), value) for name, value in HEADERS]])
def test_an_event_of_anybody_takes_its_key_from_the_record(headers: Any) -> None:
    message = read(headers, None)
    assert isinstance(message, Message), message
    assert (message.key, message.data, message.offset) == ("key", b"", 42)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        (None, "ce_specversion"),
        ([], "ce_specversion"),
        ([("ce_specversion", b"0.3"), *HEADERS[1:]], "0.3"),
        (HEADERS[:-1], "ce_type"),
        ([*HEADERS[:-1], ("ce_type", b"")], "ce_type"),
        ([*HEADERS[:-1], ("ce_type", None)], "ce_type"),
        ([*HEADERS, ("ce_x", b"\xff")], "ce_x is not UTF-8"),
        (
            [*HEADERS, ("ce_ensueposition", b"-1"), ("ce_ensueprevious", b"0"), ("ce_ensuepartition", b"0")],
            "whole number",
        ),
        ([("content-type", b"application/cloudevents-batch+json")], "batch"),
        ([("content-type", b"application/cloudevents+json")], "ce_"),
        ([("content-type", b"application/cloudevents+avro")], "avro"),
    ],
)
def test_what_is_no_event_is_garbage_with_its_offset_and_a_reason(headers: Any, reason: str) -> None:
    garbage = read(headers, b"{}", b"\xffkey")
    assert isinstance(garbage, Garbage)
    assert reason in garbage.reason
    assert (garbage.topic, garbage.partition, garbage.offset, garbage.data) == ("orders", 3, 42, b"{}")
    assert garbage.key.endswith("key")


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"\xff", b'{"id":', b'{"id":{}}', b'{"data_base64":"?"}', b'{"data_base64":1}']
)
def test_a_damaged_structured_event_is_garbage(body: bytes) -> None:
    garbage = read([("content-type", b"application/cloudevents+json")], body)
    assert isinstance(garbage, Garbage)
    assert garbage.reason


def test_a_damaged_envelope_of_the_outbox_is_told_before_anything_is_sent() -> None:
    damaged = entry(2)
    damaged.envelope = b"\xff{"
    with pytest.raises(BadMessage):
        encode("orders/1", 0, [entry(1), damaged])
