"""One bit that flips, in the outbox, in any attribute, in the data: nobody takes it for what was sent."""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.brokers.embedded_rows import read_rows
from ensue.brokers.kafka import wire as kafka
from ensue.brokers.nats import headers as nats
from ensue.brokers.postgres import records as postgres
from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq import wire as rabbitmq
from ensue.brokers.redis import wire as redis
from ensue.codec import encode_envelope, from_attributes
from ensue.engine.sealing import checked
from ensue.message import TICK, Envelope, Flaw, Garbage, Message, OutboxRecord
from ensue.seal import damage, sealed, signed_bytes
from ensue.signatures import Key, Trust

TOPIC, SOURCE = "orders", "orders/4f2a"
ENVELOPE = Envelope("0190f3a1-7", "orders.OrderCreated.v1", "2026-11-27T02:30:00Z", "flow", "cause", "00-0a-b7-01")
DATA = b'{"total":30,"customer":"J\xc3\xbcrgen"}'


def published(key: str = "käthe", envelope: Envelope = ENVELOPE, data: bytes = DATA) -> OutboxRecord:
    return OutboxRecord(TOPIC, 3, key, encode_envelope(envelope), data, 12, 11)


def as_read(record: OutboxRecord, source: str = SOURCE) -> Message:
    envelope = msgspec.json.decode(record.envelope, type=Envelope)
    return Message(TOPIC, 3, 7, record.key, source, record.position, record.previous, envelope, record.data)


def flipped(data: bytes) -> Iterator[bytes]:
    """Each of the many that differ by one bit."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


# --------------------------------------------------------------------------------------------- each broker's own bytes

Reading = Callable[[], Iterator[Message | Garbage]]


def by_nats(record: OutboxRecord) -> Iterator[Message | Garbage]:
    block = nats.encoder(SOURCE, 3)(record)
    yield nats.decode(TOPIC, 3, 7, block, record.data)
    for other in flipped(block):
        yield nats.decode(TOPIC, 3, 7, other, record.data)
    for other in flipped(record.data):
        yield nats.decode(TOPIC, 3, 7, block, other)


def by_rabbitmq(record: OutboxRecord) -> Iterator[Message | Garbage]:
    head = rabbitmq.head_of(record, rabbitmq.source_fields(SOURCE, 3))
    start = frames._CONTENT.pack(60, 0, len(record.data), frames._FLAGS)

    def read(payload: bytes, data: bytes) -> Message | Garbage | None:
        try:
            content = frames.read_content(payload)
        except (ValueError, IndexError, struct.error):
            return None  # which ends the connection
        return rabbitmq.message_of(TOPIC, 3, 7, content.headers, content.content_type, data)

    found = read(start + head, record.data)
    assert found is not None
    yield found
    for other in flipped(head):
        if (found := read(start + other, record.data)) is not None:
            yield found
    for other in flipped(record.data):
        found = read(start + head, other)
        assert found is not None
        yield found


class KafkaRecord:
    def __init__(self, key: bytes, headers: list[tuple[str, bytes]], value: bytes) -> None:
        self.parts = key, headers, value

    def offset(self) -> int:
        return 6

    def key(self) -> bytes:
        return self.parts[0]

    def headers(self) -> list[tuple[str, bytes]]:
        return self.parts[1]

    def value(self) -> bytes:
        return self.parts[2]


def by_kafka(record: OutboxRecord) -> Iterator[Message | Garbage]:
    [(key, given, value)] = kafka.encode(SOURCE, 3, [record])
    headers = [(name, text.encode() if isinstance(text, str) else text or b"") for name, text in given]

    def read(headers: list[tuple[str, bytes]], value: bytes) -> Message | Garbage:
        return kafka.decode(cast(Any, KafkaRecord(key, headers, value)), TOPIC, 3)

    yield read(headers, value)
    for index, (name, text) in enumerate(headers):
        for other in flipped(text):
            yield read([*headers[:index], (name, other), *headers[index + 1 :]], value)
        for spoilt in flipped(name.encode()):
            if spoilt.isascii():
                yield read([*headers[:index], (spoilt.decode(), text), *headers[index + 1 :]], value)
    for other in flipped(value):
        yield read(headers, other)


def by_redis(record: OutboxRecord) -> Iterator[Message | Garbage]:
    fields = [each.encode() for each in redis.fields_of(record, SOURCE, "3", "1764210000000")]

    def read(fields: list[bytes], data: bytes) -> Message | Garbage:
        pairs = dict(zip(fields[::2], fields[1::2], strict=True))
        return redis.message_of_bytes(TOPIC, 3, b"1-7", {**pairs, b"data": data})

    yield read(fields, record.data)
    for index, field in enumerate(fields):
        for other in flipped(field):
            yield read([*fields[:index], other, *fields[index + 1 :]], record.data)
    for other in flipped(record.data):
        yield read(fields, other)


def by_postgres(record: OutboxRecord) -> Iterator[Message | Garbage]:
    whole: list[Any] = [
        7,
        record.position,
        record.previous,
        record.key.encode(),
        SOURCE.encode(),
        record.envelope,
        record.data,
    ]
    yield postgres.message_of(TOPIC, 3, cast(Any, whole))
    for index, value in enumerate(whole):
        if isinstance(value, bytes):
            for other in flipped(value):
                yield postgres.message_of(TOPIC, 3, cast(Any, [*whole[:index], other, *whole[index + 1 :]]))
        elif index:
            for bit in range(63):
                yield postgres.message_of(
                    TOPIC, 3, cast(Any, [*whole[:index], value ^ (1 << bit), *whole[index + 1 :]])
                )


def by_embedded(record: OutboxRecord) -> Iterator[Message | Garbage]:
    rows = sqlite3.connect(":memory:")
    rows.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, key, source, position, previous, envelope, data)")
    whole: list[Any] = [
        record.key.encode(),
        SOURCE.encode(),
        record.position,
        record.previous,
        record.envelope,
        record.data,
    ]
    spoilt = [whole]
    for index, value in enumerate(whole):
        for other in flipped(value) if isinstance(value, bytes) else [value ^ (1 << bit) for bit in range(63)]:
            spoilt.append([*whole[:index], other, *whole[index + 1 :]])
    marks = "?, CAST(? AS TEXT), CAST(? AS TEXT), ?, ?, ?, ?"
    for each in spoilt:
        rows.execute("DELETE FROM log")
        rows.execute(f"INSERT INTO log VALUES ({marks})", (7, *each))
        [found] = read_rows(rows, TOPIC, 3, (0, 100), 1)
        yield found
    rows.close()


WIRES = {
    "nats": by_nats, "rabbitmq": by_rabbitmq, "kafka": by_kafka, "redis": by_redis, "postgresql": by_postgres,
    "embedded": by_embedded,
}  # fmt: skip


@pytest.mark.parametrize("envelope", [ENVELOPE, msgspec.structs.replace(ENVELOPE, extensions={"a": "1", "b": "é"})])
@pytest.mark.parametrize("wire", WIRES)
def test_no_bit_that_flips_on_the_way_changes_what_is_applied(wire: str, envelope: Envelope) -> None:
    readings = WIRES[wire](sealed(TOPIC, 3, SOURCE, published(envelope=envelope)))
    trust = Trust()
    [whole] = checked([next(readings)], trust)
    assert isinstance(whole, Message)
    assert (whole.key, whole.data, whole.source, whole.position) == ("käthe", DATA, SOURCE, 12)
    count = 0
    for found in readings:
        count += 1
        [judged] = checked([found], trust)
        if isinstance(judged, Garbage):
            assert judged.flaw is Flaw.DAMAGED, judged.reason  # never a letter for a person
        else:  # the bit was in what nobody reads, a letter's case say
            assert judged == whole
    assert count > 1_500


# ------------------------------------------------------------------------------------------------------ the rule itself

words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)


@given(
    st.builds(
        Envelope, id=words.filter(bool), type=words.filter(bool), time=words, correlation_id=words, causation_id=words,
        traceparent=words, extensions=st.none() | st.dictionaries(st.sampled_from(["a", "b", "c"]), words, min_size=1),
    ),
    words, st.binary(max_size=40), st.booleans(),
)  # fmt: skip
def test_what_is_sealed_is_whole_whatever_it_holds(envelope: Envelope, key: str, data: bytes, signs: bool) -> None:
    """And as CloudEvents attributes too, which keep neither the order of extensions nor empty ones."""
    kept = {name: text for name, text in sorted((envelope.extensions or {}).items()) if text} or None
    record = published(key, msgspec.structs.replace(envelope, extensions=kept), data)
    trust = Trust(keys=(Key("orders", "k", "x" * 40),), signed=True)
    message = as_read(sealed(TOPIC, 3, SOURCE, record, trust.signer("orders") if signs else None))
    if kept:
        other = dict(reversed(kept.items())) | {"empty": ""}
        message = msgspec.structs.replace(message, envelope=msgspec.structs.replace(message.envelope, extensions=other))
    assert damage(message) == ""
    assert bool(trust.refusal(message, signed_bytes)) is not signs
    sent = OutboxRecord(
        TOPIC, 3, message.key, encode_envelope(message.envelope), data, message.position, message.previous
    )
    headers = nats.parse_headers(nats.encoder(SOURCE, 3)(sent))
    again = from_attributes(headers, data, topic=TOPIC, partition=3, offset=7)
    assert damage(again) == ""


def test_sending_again_seals_as_before() -> None:
    record = published()
    assert sealed(TOPIC, 3, SOURCE, record) == sealed(TOPIC, 3, SOURCE, record)
    assert sealed(TOPIC, 3, "orders/other", record) != sealed(TOPIC, 3, SOURCE, record)


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"position": 0, "previous": 0}, ""), ({}, "no checksum"), ({"type": TICK, "position": 0}, "no checksum")],
)
def test_who_has_neither_chain_nor_checksum_is_a_stranger_and_heard(changes: dict[str, Any], what: str) -> None:
    kind = changes.pop("type", "com.example.thing")
    message = msgspec.structs.replace(as_read(published()), envelope=Envelope("1", kind), **changes)
    assert (what in damage(message)) if what else damage(message) == ""


def test_no_byte_passes_from_the_attributes_to_the_data_under_one_signature() -> None:
    trust = Trust(keys=(Key("orders", "k", "x" * 40),), signed=True)
    one = as_read(sealed(TOPIC, 3, SOURCE, published(data=b',"time":"x"'), trust.signer("orders")))
    other = msgspec.structs.replace(one, data=b"", envelope=msgspec.structs.replace(one.envelope, time="x"))
    assert signed_bytes(one) != signed_bytes(other)
