"""CloudEvents: the SDK reads what we write, we read what it writes, and nonsense is named."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given

from ensue import codec
from ensue.brokers.kafka.wire import encode
from ensue.brokers.nats.headers import encoder, parse_headers
from ensue.errors import BadMessage
from ensue.message import Envelope, Message, OutboxRecord

text = st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30)
messages = st.builds(
    Message,
    topic=st.just("orders"),
    partition=st.integers(0, 11),
    offset=st.just(7),
    key=text,
    source=st.from_regex(r"[a-z]{1,10}/[0-9a-f]{8}", fullmatch=True),
    position=st.integers(1, 2**60),
    previous=st.just(0),
    envelope=st.builds(
        Envelope,
        id=text,
        type=st.from_regex(r"[a-z]{1,8}\.[A-Z][a-z]{1,8}\.v[1-9]", fullmatch=True),
        time=st.just("2026-11-23T19:00:00.123456Z"),
        correlation_id=text,
        causation_id=st.just("") | text,
        traceparent=st.just("") | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        content_type=st.just("application/json"),
        extensions=st.none() | st.dictionaries(st.from_regex(r"x[a-z0-9]{1,10}", fullmatch=True), text, min_size=1),
    ),
    data=st.just(b'{"total":"12.50"}'),
)


def record_of(message: Message) -> OutboxRecord:
    envelope = codec.encode_envelope(message.envelope)
    return OutboxRecord(
        message.topic, message.partition, message.key, envelope, message.data, message.position, message.previous
    )


def nats_headers(message: Message) -> dict[str, str]:
    """What the broker's adapter sends; the NATS binding is the HTTP one."""
    return parse_headers(encoder(message.source, message.partition)(record_of(message)))


def kafka_headers(message: Message) -> dict[str, str]:
    [(_, headers, _)] = encode(message.source, message.partition, [record_of(message)])
    return {name: str(value) for name, value in headers}


@given(messages)
def test_the_sdk_reads_our_http_and_nats_headers(message: Message) -> None:
    event = http.from_binary(http.HTTPMessage(nats_headers(message), message.data), JSONFormat())
    assert event.get_id() == message.id
    assert event.get_source() == message.source
    assert event.get_type() == message.type
    assert event.get_data() == {"total": "12.50"}
    assert event.get_extension("partitionkey") == message.key
    assert event.get_extension("ensueposition") == str(message.position)
    assert event.get_extension("correlationid") == message.correlation_id


@given(messages)
def test_the_sdk_reads_our_kafka_headers(message: Message) -> None:
    headers = {name: value.encode() for name, value in kafka_headers(message).items()}
    event = kafka.from_binary(kafka.KafkaMessage(headers, message.key.encode(), message.data), JSONFormat())
    assert (event.get_id(), event.get_source(), event.get_type()) == (message.id, message.source, message.type)
    assert event.get_extension("ensueprevious") == str(message.previous)


@given(text, text, text)
def test_we_read_what_the_sdk_writes(event_id: str, key: str, extension: str) -> None:
    event = CloudEvent(
        {"id": event_id, "source": "/elsewhere", "type": "com.example.paid", "partitionkey": key, "region": extension,
         "specversion": "1.0", "datacontenttype": "application/json"},
        {"total": "1.00"},
    )  # fmt: skip
    written = http.to_binary(event, JSONFormat())
    where = {"topic": "payments", "partition": 3, "offset": 9}
    message = codec.from_attributes(written.headers, written.body, **where, binding=codec.HTTP)  # type: ignore[arg-type]
    assert (message.id, message.source, message.type, message.key) == (event_id, "/elsewhere", "com.example.paid", key)
    assert message.envelope.extensions == {"region": extension}
    assert (message.position, message.data) == (0, b'{"total": "1.00"}')


@given(messages, st.booleans())
def test_a_message_comes_back_from_its_headers_unchanged(message: Message, over_nats: bool) -> None:
    headers, binding = (nats_headers(message), codec.NATS) if over_nats else (kafka_headers(message), codec.KAFKA)
    again = codec.from_attributes(
        headers, message.data, topic="orders", partition=message.partition, offset=7, binding=binding
    )
    assert again == message


@given(messages)
def test_an_envelope_comes_back_from_the_outbox_unchanged(message: Message) -> None:
    assert codec.decode_envelope(codec.encode_envelope(message.envelope)) == message.envelope


@pytest.mark.parametrize("missing", ["specversion", "id", "source", "type"])
def test_a_missing_attribute_is_named(missing: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t"}
    del headers[f"ce-{missing}"]
    with pytest.raises(BadMessage, match=f"ce-{missing} is missing"):
        codec.from_attributes(headers, b"", topic="t", partition=0, offset=1)


@pytest.mark.parametrize("nonsense", ["-1", "+1", "1_0", " 1", "1.5", "x", "٣", "\uff11", "9" * 19, "9" * 30])
def test_a_position_that_is_no_whole_number_is_a_bad_message(nonsense: str) -> None:
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-ensueposition": nonsense}
    with pytest.raises(BadMessage) as refused:
        codec.from_attributes(headers, b"", topic="t", partition=0, offset=1)
    assert refused.value.attribute == "ensueposition"  # type: ignore[attr-defined]  # a value of the error


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"id":1}', b"\xff\xfe", b'{"type":"t"}'])
def test_damaged_headers_are_a_bad_message(data: bytes) -> None:
    with pytest.raises(BadMessage, match="no envelope"):
        codec.decode_envelope(data)


hard = st.text(st.characters(max_codepoint=0x2FF), max_size=6) | st.integers(250, 1_030).map("x".__mul__)


@given(
    st.builds(
        Envelope, id=hard, type=hard, time=hard, correlation_id=hard, causation_id=hard, traceparent=hard,
        extensions=st.none() | st.dictionaries(hard, hard, max_size=3) | st.integers(60, 70).map(
            lambda count: {f"x{number}": "" for number in range(count)}
        ),
    ),
    st.tuples(hard, hard, st.integers(-1, 3), st.integers(-1, 3)),
)  # fmt: skip
def test_a_record_of_a_log_is_held_to_the_same_bounds_as_any_message(
    envelope: Envelope, place: tuple[str, str, int, int]
) -> None:
    """Most are seen to keep to them without a look at each attribute."""
    message = Message("orders", 0, 7, *place, envelope, b"{}")
    expected = read = ""
    try:
        codec.within_bounds(message)
    except BadMessage as error:
        expected = str(error)
    try:
        assert codec.read_message("orders", 0, 7, *place, codec.encode_envelope(envelope), b"{}") == message
    except BadMessage as error:
        read = str(error)
    assert read == expected
