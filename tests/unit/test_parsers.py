"""Whatever bytes come in, each parser says so by its declared errors, within bounded steps and memory.

Valid inputs are changed at random, and bytes of chance come too. The seed is another one in each run; a
failure prints it, and `ENSUE_TEST_SEED` runs it again.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from types import FrameType
from typing import Any, cast

import msgspec
import pytest

from ensue.brokers.kafka import wire as kafka
from ensue.brokers.nats import headers as nats
from ensue.brokers.nats import topics as nats_topics
from ensue.brokers.nats.jetstream import StreamInfo
from ensue.brokers.nats.wire import Wire
from ensue.brokers.postgres.signals import Signals
from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq import wire as rabbitmq
from ensue.brokers.rabbitmq.channel import Channel
from ensue.brokers.rabbitmq.connection import Connection
from ensue.brokers.rabbitmq.reader import Record
from ensue.brokers.rabbitmq.settings import RabbitMqSettings
from ensue.brokers.rabbitmq.topics import Topics, encode_topic
from ensue.brokers.redis import wire as redis
from ensue.codec import decode_envelope, encode_envelope, from_attributes, from_structured
from ensue.engine.ask import REQUEST, ResendRequest, read_request
from ensue.errors import BadMessage, BrokerUnavailable, StoreUnavailable, UsageError
from ensue.message import LOST, Envelope, Gap, Message, OutboxRecord
from ensue.plan import plan
from ensue.seal import damage, sealed
from ensue.signatures import read_keys
from ensue.stores.postgres import pgoutput

SEED = int(os.environ.get("ENSUE_TEST_SEED", "0")) or secrets.randbits(32)
TRIES = 400
#: Lines of Python for one input of a few hundred bytes, which may come byte by byte and be said in the log letter by
#: letter, and memory besides what the input takes.
STEPS_MAX, BYTES_MAX = 60_000, 4_000_000

Parse = Callable[[bytes], object]


class TooManySteps(BaseException):
    """No parser catches it."""


@contextmanager
def bounded_steps() -> Iterator[None]:
    steps, before = 0, sys.gettrace()

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal steps
        steps += 1
        if steps > STEPS_MAX:
            raise TooManySteps(f"after {STEPS_MAX} lines in {frame.f_code.co_qualname}")
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def spoilt(valid: bytes, random: Random) -> bytes:
    """Some bytes changed, cut, repeated, put in, or made huge numbers; now and then nothing but bytes of chance."""
    if random.random() < 0.1:
        return random.randbytes(random.randint(0, 200))
    data = bytearray(valid)
    for _ in range(random.choice([1, 1, 2, 5, 20])):
        at = random.randint(0, len(data))
        match random.randrange(6):
            case 0:
                del data[at : at + random.randint(1, 20)]
            case 1:
                data[at:at] = random.randbytes(random.randint(1, 8))
            case 2:
                data[at:at] = data[at : at + random.randint(1, 60)]
            case 3:
                data[at : at + 4] = random.choice(
                    [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x00", b"-999"]
                )
            case 4:
                data[at : at + 1] = random.choice([b"9" * 5000, b"[" * 3000, b'"', b"\r\n", b"\x00", b"%", b"{", b"-"])
            case _ if at < len(data):
                data[at] ^= 1 << random.randrange(8)
    return bytes(data)


ENVELOPE = Envelope("1-7", "t.T.v1", "2026-11-27T02:30:00Z", "flow", "cause", "00-0a-0b-01", extensions={"a": "ü"})
RECORD = OutboxRecord("t", 0, "k", encode_envelope(ENVELOPE), b'{"n":1}', 12, 11)
SEALED = sealed("t", 0, "s/1", RECORD)
HEADERS = nats.encoder("s/1", 0)(SEALED)
EVENT = (
    b'{"specversion":"1.0","id":"a","source":"/x","type":"T","n":5,"yes":true,"data_base64":"AP8=",'
    b'"datacontenttype":"text/plain","ensueposition":"3"}'
)
WHERE: dict[str, Any] = {"topic": "t", "partition": 0, "offset": 1}
FIELDS = [each.encode() for each in redis.fields_of(SEALED, "s/1", "0", "1")]
[(KEY, KAFKA, VALUE)] = kafka.encode("s/1", 0, [SEALED])
CONTENT = frames._CONTENT.pack(60, 0, 7, frames._FLAGS) + rabbitmq.head_of(SEALED, rabbitmq.source_fields("s/1", 0))
INSERT = b"I" + struct.pack(">IcH", 16384, b"N", 2) + b"t" + struct.pack(">I", 2) + b"42" + b"b\x00\x00\x00\x01x"
RELATION = (
    b"R" + struct.pack(">I", 7) + b"public\0ensue_outbox\0d\x00\x02" + b"\x01id\0" + bytes(8) + b"\0data\0" + bytes(8)
)


def message_of(data: bytes, kind: str) -> Message:
    return Message("t", 0, 1, "k", "s/1", 12, 12, Envelope("1", kind), data)


def rabbitmq_message(data: bytes) -> object:
    content = frames.read_content(data)
    return rabbitmq.message_of("t", 0, 1, content.headers, content.content_type, b"{}")


def redis_message(data: bytes) -> object:
    fields = data.split(b"\x1e")
    pairs = zip(fields[::2], fields[1::2], strict=False)
    return redis.message_of_bytes("t", 0, b"0-7", dict(pairs))


class KafkaRecord:
    """As confluent_kafka gives one: names of headers are text for certain, values are bytes or nothing."""

    def __init__(self, data: bytes) -> None:
        self._key, *pairs = data.split(b"\x1e")
        names = [each.decode(errors="replace") for each in pairs[::2]]
        self._headers = list(zip(names, [each or None for each in pairs[1::2]], strict=False))

    def key(self) -> bytes | None:
        return self._key or None

    def headers(self) -> list[tuple[str, bytes | None]]:
        return self._headers

    def value(self) -> bytes:
        return VALUE

    def offset(self) -> int:
        return 6


def topic_record(data: bytes) -> object:
    topics = Topics()
    topics.learn([Record(0, 0, frames.Content(0, b"", {}, b""), data)])
    return topics


def attributes(data: bytes) -> object:
    lines = data.decode(errors="surrogateescape").split("\r\n")
    return from_attributes(dict(line.split(": ", 1) for line in lines if ": " in line), b"", **WHERE)


def envelope_of(data: bytes) -> object:
    """As the relay and the log meet it: sealed anew, and read."""
    record = OutboxRecord("t", 0, "k", data, b"{}", 2, 1)
    whole = decode_envelope(sealed("t", 0, "s/1", record).envelope)
    return damage(Message("t", 0, 1, "k", "s/1", 2, 1, whole, b"{}"))


def notice(data: bytes) -> object:
    return plan([message_of(data, LOST)], {"s/1": 3}, {"s/1": Gap("s/1", 3, 9, 0.0)}, (), (), 0.0)


def heard(data: bytes) -> None:
    class Woken:
        def notify(self, keys: Any) -> None:
            list(keys)

    signals = Signals.__new__(Signals)
    signals._wakeup = cast(Any, Woken())
    signals._waiting = {}
    signals._heard(None, 0, "channel", data.decode(errors="replace"))


PARSERS: dict[str, tuple[bytes, Parse, tuple[type[Exception], ...]]] = {
    "an envelope": (SEALED.envelope, decode_envelope, (BadMessage,)),
    "an envelope that is sealed": (RECORD.envelope, envelope_of, (BadMessage,)),
    "a structured event": (
        EVENT, lambda data: from_structured("application/cloudevents+json", data, **WHERE), (BadMessage,),
    ),
    "attributes": (HEADERS, attributes, (BadMessage,)),
    "headers of NATS": (HEADERS, lambda data: nats.decode("t", 0, 1, data, b"{}"), ()),
    "an entry of Redis": (b"\x1e".join(FIELDS), redis_message, ()),
    "a record of Kafka": (
        b"\x1e".join([KEY, *(each.encode() for pair in KAFKA for each in pair)]),  # type: ignore[union-attr]  # all text
        lambda data: kafka.decode(cast(Any, KafkaRecord(data)), "t", 0),
        (),
    ),
    "a topic of RabbitMQ": (encode_topic("t", 3), topic_record, ()),
    "a topic of NATS": (
        b'{"topic":"t","partition":0,"partitions":3,"ensue":1}',
        lambda data: nats_topics._note(StreamInfo({"description": data.decode(errors="replace")})), (),
    ),
    "a content header of AMQP": (CONTENT, rabbitmq_message, (ValueError, struct.error, IndexError)),
    "an insert of pgoutput": (INSERT, pgoutput.decode, (StoreUnavailable,)),
    "a relation of pgoutput": (RELATION, pgoutput.decode, (StoreUnavailable,)),
    "a piece of PostgreSQL's log": (b"w" + bytes(24) + INSERT, pgoutput.unwrap, (StoreUnavailable,)),
    "what LISTEN hears": (b"1,20,300", heard, ()),
    "a request": (
        msgspec.json.encode(ResendRequest("s/1", "t", 0, 3, 9, "x", "ü")),
        lambda data: read_request(message_of(data, REQUEST), REQUEST), (),
    ),
    "a notice of a loss": (b'{"after":3,"through":5,"before":1.5,"x":"\xc3\xbc"}', notice, ()),
    "keys": (
        b"orders/1:" + b"x" * 40,
        lambda data: read_keys(data.decode(errors="replace").splitlines(), "F"),
        (UsageError,),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", PARSERS)
def test_a_parser_meets_anything_with_what_it_declares(what: str) -> None:
    valid, parse, declared = PARSERS[what]
    random = Random(f"{SEED} {what}")
    parse(valid)
    tracemalloc.start()
    try:
        for number in range(TRIES):
            data = spoilt(valid, random)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                with bounded_steps():
                    parse(data)
            except declared:
                pass
            except BaseException as error:
                raise AssertionError(f"ENSUE_TEST_SEED={SEED}, input {number}: {data[:300]!r}: {error!r}") from error
            used = tracemalloc.get_traced_memory()[1] - before
            assert used < BYTES_MAX, f"ENSUE_TEST_SEED={SEED}, input {number}: {used} bytes for {data[:300]!r}"
    finally:
        tracemalloc.stop()


# --- connections: bytes in pieces of any size, after which they are alive or closed


class Transport:
    """Takes what is written, and tells the protocol its end as a loop would."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol, self.closed = protocol, False

    def write(self, data: bytes) -> None:
        pass

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def abort(self) -> None:
        if not self.closed:
            self.closed = True
            self.protocol.connection_lost(None)

    close = abort


class Listener:
    def arrived(self, *_: object) -> None: ...

    def failed(self, error: BrokerUnavailable) -> None: ...

    def forbidden(self, subject: str, error: BrokerUnavailable) -> None: ...

    def delivered(self, tag: int, content: frames.Content, body: bytes) -> None: ...

    def returned(self, queue: str) -> None: ...

    def confirmed(self, tag: int, multiple: bool, good: bool) -> None: ...


def nats_connection() -> tuple[asyncio.Protocol, bytes]:
    wire = Wire("a:1", "_INBOX.x")
    wire.subscriptions[b"2"] = wire.answers[b"t"] = Listener()
    size, body = len(HEADERS), b"{}"
    lines = b'INFO {"max_payload":1048576,"headers":true}\r\nPING\r\n-ERR \'no\'\r\n'
    lines += b"MSG t.0 2 5\r\nhello\r\nHMSG t.0 2 reply %d %d\r\n%b%b\r\n" % (size, size + 2, HEADERS, body)
    return wire, lines + b"MSG _INBOX.x.t 1 2\r\n{}\r\nPONG\r\n"


def amqp_connection() -> tuple[asyncio.Protocol, bytes]:
    settings = RabbitMqSettings.of("amqp://guest:guest@a")
    connection = Connection(settings, settings.hosts[0])
    deliver = frames.short("c") + (7).to_bytes(8, "big") + b"\0" + frames.short("") + frames.short("q")
    messages = frames.method_frame(0, frames.CONNECTION_START, b"\0\x09" + frames.table({"version": "4.1.0"}))
    messages += frames.method_frame(1, frames.BASIC_DELIVER, deliver)
    messages += frames._FRAME.pack(frames.HEADER, 1, len(CONTENT)) + CONTENT + frames.END
    messages += frames._FRAME.pack(frames.BODY, 1, 7) + b'{"n":1}' + frames.END + frames.HEARTBEAT_FRAME
    return connection, messages


CONNECTIONS = {"NATS": nats_connection, "AMQP": amqp_connection}


@pytest.mark.parametrize("what", CONNECTIONS)
async def test_a_connection_that_hears_anything_is_alive_or_closed(what: str, caplog: pytest.LogCaptureFixture) -> None:
    random = Random(f"{SEED} {what}")
    for number in range(TRIES):
        connection, valid = CONNECTIONS[what]()
        transport = Transport(connection)
        connection.connection_made(cast(Any, transport))
        if what == "AMQP":
            channel = Channel(cast(Any, connection), 1)
            channel.listener = cast(Any, Listener())
            cast(Any, connection)._channels[1] = channel
        data = spoilt(valid, random) if number else valid
        try:
            with bounded_steps():
                while data and not transport.closed:
                    piece = random.choice([1, 7, 100, len(data)])
                    connection.data_received(data[:piece])
                    data = data[piece:]
        except BaseException as error:
            raise AssertionError(f"ENSUE_TEST_SEED={SEED}, input {number}: {data[:300]!r}: {error!r}") from error
        assert number or not transport.closed  # what is valid keeps it alive
        transport.abort()
        caplog.clear()


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("NATS", b"MSG t.0 2 -99\r\n"),
        ("NATS", b"MSG t.0 2 99999999999\r\n"),
        ("NATS", b"HMSG t.0 2 -5 3\r\nabc\r\n"),
        ("NATS", b"MSG\r\n"),
        ("NATS", b"INFO [\r\n"),
        ("NATS", b"INFO " + b"[" * 100_000 + b"\r\n"),
        ("NATS", b"x" * (1 << 21)),
        ("AMQP", b"\x01\x00\x00\xff\xff\xff\xffx"),
        ("AMQP", b"\x01\x00\x00\x00\x00\x00\x00x"),
    ],
)
async def test_a_server_that_speaks_nonsense_is_left_and_not_waited_for(what: str, data: bytes) -> None:
    connection, _ = CONNECTIONS[what]()
    transport = Transport(connection)
    connection.connection_made(cast(Any, transport))
    with bounded_steps():
        connection.data_received(data)
    assert transport.closed
