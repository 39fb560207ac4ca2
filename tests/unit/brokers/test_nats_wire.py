"""The NATS adapter's own bytes: headers, structured events, the protocol's lines, and the URL."""

from __future__ import annotations

import asyncio
from random import Random
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensue.brokers.nats import NatsBroker
from ensue.brokers.nats.headers import decode, encoder, parse_headers
from ensue.brokers.nats.options import parse_nats_url
from ensue.brokers.nats.wire import Wire
from ensue.codec import NATS, encode_envelope, from_attributes
from ensue.errors import BadMessage, BrokerUnavailable, UsageError
from ensue.message import Envelope, Garbage, Message, OutboxRecord

# --- headers

#: Anything but halves of surrogate pairs, which no encoding of text has, and zeros, which not every store takes.
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
names = st.from_regex(r"\A[a-z0-9]{3,12}\Z").filter(lambda name: name not in {"subject", "dataschema"})
envelopes = st.builds(
    Envelope,
    id=words.filter(bool),
    type=words.filter(bool),
    time=words,
    correlation_id=words,
    causation_id=words,
    traceparent=words,
    content_type=st.sampled_from(["application/json", "text/xml", "application/octet-stream; charset=x"]),
    extensions=st.none() | st.dictionaries(names.map("x".__add__), words.filter(bool), min_size=1, max_size=3),
)


@given(envelopes, words, words.filter(bool), st.integers(0, 2**62), st.integers(0, 2**62), st.binary(max_size=40))
def test_what_the_short_way_writes_the_general_rules_read_and_the_other_way_round(
    envelope: Envelope, key: str, source: str, position: int, previous: int, data: bytes
) -> None:
    previous = min(previous, position)
    record = OutboxRecord("orders", 3, key, encode_envelope(envelope), data, position, previous)
    block = encoder(source, 3)(record)
    message = Message("orders", 3, 7, key, source, position, previous, envelope, data)
    assert decode("orders", 3, 7, block, data) == message
    fields = parse_headers(block)
    assert from_attributes(fields, data, topic="orders", partition=3, offset=7, binding=NATS) == message
    attributes = {name.removeprefix("ce-"): unquote(value) for name, value in fields.items()}
    assert attributes.pop("content-type") == message.envelope.content_type
    assert attributes | {"datacontenttype": message.envelope.content_type} == message.headers
    assert block.isascii()
    assert block.count(b"\r\n\r\n") == 1


def test_a_content_type_with_a_line_break_makes_no_header_of_its_own() -> None:
    envelope = Envelope("1", "T", content_type="text/plain\r\nce-id: 2")
    fields = parse_headers(encoder("s/1", 0)(OutboxRecord("t", 0, "", encode_envelope(envelope), b"")))
    assert fields["ce-id"] == "1"


def test_an_extension_with_a_name_that_could_be_a_header_of_its_own_is_refused() -> None:
    envelope = Envelope("1", "T", extensions={"a\r\nb": "c"})
    with pytest.raises(UsageError, match="extension"):
        encoder("s/1", 0)(OutboxRecord("t", 0, "", encode_envelope(envelope), b""))


@given(st.binary(max_size=200), st.binary(max_size=60))
def test_no_bytes_at_all_stop_a_reader(block: bytes, data: bytes) -> None:
    for headers in (block, b"NATS/1.0\r\nce-specversion: 1.0\r\nce-id: " + block):
        assert isinstance(decode("t", 0, 1, headers, data), Message | Garbage)


# --- structured mode


def structured(body: bytes, content_type: str = "application/cloudevents+json; charset=UTF-8") -> Message | Garbage:
    headers = f"NATS/1.0\r\nContent-Type: {content_type}\r\n\r\n".encode() if content_type else b""
    return decode("t", 0, 1, headers, body)


EVENT = b'{"specversion":"1.0","id":"a 1","source":"/x","type":"T","partitionkey":"k","n":5,"yes":true,"no":null'


@pytest.mark.parametrize(
    ("rest", "data", "content_type"),
    [
        (b',"data":{"a": 1.50}}', b'{"a": 1.50}', "application/json"),
        (b',"data":"text","datacontenttype":"text/plain"}', b"text", "text/plain"),
        (b',"data":"text","datacontenttype":"application/vnd.x+json"}', b'"text"', "application/vnd.x+json"),
        (
            b',"data_base64":"AP8=","datacontenttype":"application/octet-stream"}',
            b"\x00\xff",
            "application/octet-stream",
        ),
        (b',"data":null}', b"", "application/json"),
        (b"}", b"", "application/json"),
    ],
)
@pytest.mark.parametrize("with_header", [True, False])
def test_an_event_in_structured_mode_is_read(rest: bytes, data: bytes, content_type: str, with_header: bool) -> None:
    message = structured(EVENT + rest) if with_header else structured(EVENT + rest, "")
    assert isinstance(message, Message)
    assert (message.id, message.source, message.key, message.data) == ("a 1", "/x", "k", data)
    assert message.envelope.content_type == content_type
    assert message.envelope.extensions == {"n": "5", "yes": "true"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{", "application/cloudevents+json"),
        (b"[]", "application/cloudevents+json"),
        (b"[]", "application/cloudevents-batch+json"),
        (b"{}", "application/cloudevents+avro"),
        (EVENT + b',"x":[1]}', "application/cloudevents+json"),
        (EVENT + b',"data_base64":"?"}', "application/cloudevents+json"),
        (EVENT + b',"data_base64":1}', "application/cloudevents+json"),
        (b'{"a":1}', ""),
        (b"\xff", "application/cloudevents+json"),
    ],
)
def test_what_is_no_event_in_structured_mode_is_garbage_with_the_reason(body: bytes, content_type: str) -> None:
    garbage = structured(body, content_type)
    assert isinstance(garbage, Garbage)
    assert garbage.reason


def test_garbage_keeps_its_key() -> None:
    garbage = decode("t", 0, 1, b"NATS/1.0\r\nce-partitionkey: a%20b\r\n\r\n", b"x")
    assert isinstance(garbage, Garbage)
    assert (garbage.key, garbage.data) == ("a b", b"x")


# --- the protocol


class Heard:
    def __init__(self) -> None:
        self.messages: list[tuple[bytes, bytes, bytes, bytes]] = []
        self.errors: list[BrokerUnavailable] = []

    def arrived(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        self.messages.append((subject, reply, headers, payload))

    def failed(self, error: BrokerUnavailable) -> None:
        self.errors.append(error)

    def forbidden(self, subject: str, error: BrokerUnavailable) -> None:
        self.errors.append(error)


@pytest.mark.parametrize("seed", range(20))
async def test_lines_are_read_however_the_network_cuts_them(seed: int) -> None:
    random = Random(seed)
    wire = Wire("host:1", "_INBOX.x")
    answer, heard = Heard(), Heard()
    wire.answers[b"7"] = answer
    wire.subscriptions[b"5"] = heard
    stream = bytearray(b'INFO {"version":"2.9.10","max_payload":99} \r\n')
    expected: list[tuple[bytes, bytes, bytes, bytes]] = []
    answered = 0
    for _ in range(60):
        payload = random.randbytes(random.choice([0, 1, 2, 30, 3000])) + random.choice([b"", b"\r\n", b"MSG a 5 3\r\n"])
        match random.randrange(5):
            case 0:
                stream += b"MSG a.b 5 $JS.ACK.x %d\r\n%s\r\n" % (len(payload), payload)
                expected.append((b"a.b", b"$JS.ACK.x", b"", payload))
            case 1:
                block = b"NATS/1.0\r\nA: b\r\n\r\n"
                stream += b"HMSG a 5 %d %d\r\n%s%s\r\n" % (len(block), len(block) + len(payload), block, payload)
                expected.append((b"a", b"", block, payload))
            case 2:
                stream += b"MSG _INBOX.x.7 1 %d\r\n%s\r\n" % (len(payload), payload)
                answered += 1
            case 3:
                stream += b"MSG nobody 99 %d\r\n%s\r\n+OK\r\n" % (len(payload), payload)
            case 4:
                stream += b"PING\r\n"
    at = 0
    while at < len(stream):
        size = random.choice([1, 2, 7, 100, 5000])
        wire.data_received(bytes(stream[at : at + size]))
        at += size
    assert heard.messages == expected, f"seed {seed}"
    assert len(answer.messages) == answered
    assert wire.max_payload == 99
    await wire.informed


async def test_a_forbidden_subject_fails_those_who_wait_and_a_loss_fails_all() -> None:
    wire = Wire("host:1", "_INBOX.x")
    heard = Heard()
    token = wire.expect(heard)
    wire.data_received(b"-ERR 'Permissions Violation for Publish to \"secret\"'\r\n")
    assert "Permissions Violation" in str(heard.errors[0])
    assert token in wire.answers
    wire.connection_lost(None)
    assert len(heard.errors) == 2
    with pytest.raises(BrokerUnavailable):
        wire.expect(heard)
    with pytest.raises(BrokerUnavailable):
        await wire.informed


# --- the URL


def test_a_url_says_hosts_credentials_and_options() -> None:
    options = parse_nats_url(
        "tls://shop:p%40ss@a,b:4333,[::1]:4444?prefix=shop&replicas=3&tls_ca=/x/ca.pem&timeout_s=0.5&synced=true"
    )
    assert options.hosts == (("a", 4222), ("b", 4333), ("::1", 4444))
    assert (options.tls, options.user, options.password) == (True, "shop", "p@ss")
    assert (options.prefix, options.replicas, options.timeout_s, options.synced) == ("shop", 3, 0.5, True)
    assert parse_nats_url("nats://t0ken@a").token == parse_nats_url("nats://a?token=t0ken").token == "t0ken"
    assert "p@ss" not in repr(options)
    assert "t0ken" not in repr(parse_nats_url("nats://t0ken@a"))


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("nats://", "host"),
        ("nats://s3cret@a:b", "port"),
        ("nats://s3cret@a?prefix=a*b", "prefix"),
        ("nats://s3cret@a?replicas=0", "replicas"),
        ("nats://s3cret@a?colour=red", "colour"),
        ("nats://s3cret@a?synced=maybe", "synced"),
        ("nats://s3cret@a?storage=paper", "storage"),
    ],
)
def test_a_url_that_cannot_be_used_says_what_and_shows_no_secret(url: str, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        parse_nats_url(url)
    assert "s3cret" not in str(caught.value)


def test_capabilities_follow_what_the_url_says_of_the_server() -> None:
    assert not NatsBroker("nats://a").capabilities.power_loss_safe
    assert NatsBroker("nats://a?synced=true").capabilities.power_loss_safe
    assert not NatsBroker("nats://a?storage=memory").capabilities.survives_restart


async def test_an_envelope_that_is_none_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(BadMessage):
        encoder("s/1", 0)(OutboxRecord("t", 0, "", b"{", b""))
    await asyncio.sleep(0)
