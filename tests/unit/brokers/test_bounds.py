"""Whatever a stranger writes to the log, the partition goes on: what is out of bounds is set aside with the reason."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from secrets import token_hex
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from tests.unit.engine.workbench import LIMIT_S, QUICK, Sender, bench, letters, until, until_letters

from ensue import Event, Service, codec
from ensue.adapters import make_broker, make_store
from ensue.brokers.nats import topics as nats
from ensue.brokers.nats.jetstream import StreamInfo
from ensue.brokers.rabbitmq import topics as rabbitmq
from ensue.brokers.rabbitmq.frames import Content
from ensue.brokers.rabbitmq.reader import Record
from ensue.engine.ask import REQUEST, read_request
from ensue.errors import BadMessage
from ensue.event import as_event, event_type
from ensue.message import LOST, TICK, DeadLetterState, Envelope, Garbage, Message, OutboxRecord
from ensue.ports import Broker
from ensue.seal import sealed

ANY = st.text(st.characters() | st.characters(categories=["Cs"]), max_size=40) | st.integers(250, 3000).map(
    lambda size: "x" * size
)
NESTED = b"[" * 100_000 + b"]" * 100_000


class Counted(Event, topic="counted", key="name"):
    name: str
    count: int = 0


def message(**changes: Any) -> Message:
    envelope = {"id": "1", "type": "t"} | {
        name: changes.pop(name) for name in list(changes) if name in Envelope.__struct_fields__
    }
    whole: dict[str, Any] = {"key": "k", "source": "s/1", "position": 2, "previous": 1} | changes
    return Message(topic="t", partition=0, offset=1, envelope=Envelope(**envelope), data=b"", **whole)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            **dict.fromkeys(["key", "source", "id", "type", "time", "correlation_id", "causation_id", "traceparent",
                             "content_type"], ANY),
            "position": st.integers(-(2**70), 2**70), "previous": st.integers(-(2**70), 2**70),
            "extensions": st.dictionaries(ANY, ANY, max_size=70),
        },
    )
)  # fmt: skip
def test_what_passes_the_bounds_fits_every_store(changes: dict[str, Any]) -> None:
    found = message(**changes)
    try:
        assert codec.within_bounds(found) is found
    except BadMessage as error:
        garbage = codec.garbage("t", 0, 1, found.key, error, b"x" * 100_000)
        assert len(garbage.key.encode()) <= codec.KEY_BYTES_MAX
        assert "\0" not in garbage.key + garbage.reason
        assert len(garbage.reason.encode()) < 5_000
        assert len(garbage.data) == codec.GARBAGE_BYTES_MAX
        return
    assert 0 <= found.previous <= found.position < 2**63
    headers = {**found.headers, **(found.envelope.extensions or {})}
    for name, value in headers.items():
        assert "\0" not in name + value
        assert len(value.encode()) <= 1_024
    assert max(len(found.source), len(found.id), len(found.type)) <= 255


@pytest.mark.parametrize("limit", ["source", "id", "type", "causation_id"])
def test_the_bounds_themselves_are_within_bounds(limit: str) -> None:
    codec.within_bounds(message(**{limit: "ü" * 255}))
    with pytest.raises(BadMessage, match="256 characters, expected at most 255"):
        codec.within_bounds(message(**{limit: "x" * 256}))


def test_a_key_is_measured_in_bytes() -> None:
    codec.within_bounds(message(key="ü" * 512, position=codec.POSITION_MAX))
    with pytest.raises(BadMessage, match="partitionkey has 1026 bytes"):
        codec.within_bounds(message(key="ü" * 513))


# ------------------------------------------------------------------------------------------------- nested too deeply


@as_event(topic="counted", key="name")
@dataclasses.dataclass
class Plain:
    name: str


def test_data_that_is_nested_too_deeply_is_a_bad_message() -> None:
    for cls in (Counted, Plain):
        with pytest.raises(BadMessage, match="does not fit"):
            event_type(cls).read(b'{"name":"a","x":' + NESTED + b"}")
    with pytest.raises(BadMessage):
        codec.decode_envelope(b'{"id":"1","type":"t","x":' + NESTED + b"}")
    with pytest.raises(BadMessage):
        codec.from_structured(
            "application/cloudevents+json", b'{"data":' + NESTED + b"}", topic="t", partition=0, offset=1
        )
    asked = message(type=REQUEST)
    assert read_request(msgspec.structs.replace(asked, data=b'{"x":' + NESTED + b"}")) is None


# --------------------------------------------------------------------------------------------- what tells of topics


@pytest.mark.parametrize(
    "said",
    [b'"partitions":3,"x":' + NESTED, b'"partitions":%d' % 10**30, b'"partitions":0', b'"partitions":-1', b'"x":1'],
)
def test_what_is_no_topic_among_those_of_a_log_says_nothing(said: bytes) -> None:
    written = b'{"topic":"counted","partition":0,' + said + b"}"
    known = rabbitmq.Topics()
    known.learn(
        [Record(0, 0, Content(0, b"", {}, b""), each) for each in (written, b'{"topic":"counted","partitions":3}')]
    )
    assert known.counts == {"counted": 3}
    assert nats._note(StreamInfo({"description": written.decode()})) is None


# ---------------------------------------------------------------------------------------------------- a whole service


def record(data: bytes = b"{}", key: str = "k", position: int = 0, previous: int = 0, **envelope: Any) -> OutboxRecord:
    attributes = {"id": "1", "type": event_type(Counted).type} | envelope
    return OutboxRecord("counted", 0, key, codec.encode_envelope(Envelope(**attributes)), data, position, previous)


#: Source and record; each must end as a dead letter.
STRANGE: list[tuple[str, OutboxRecord]] = [
    ("evil/2", record(position=1, type=LOST, data=b'{"after":0,"through":99999999999999999999,"before":0}')),
    ("evil/3", record(position=1, type=LOST, data=b'{"after":0,"through":5,"before":0,"x":' + NESTED + b"}")),
    ("e" * 300, record()),
    ("evil\0", record()),
    ("evil/5", record(id="i" * 20_000)),
    ("evil/6", record(id="a\0b")),
    ("evil/7", record(key="k" * 20_000)),
    ("evil/8", record(key="a\0b")),
    ("evil/9", record(type="a\0b")),
    ("evil/a", record(extensions={"x": "a\0b"})),
    ("evil/b", record(traceparent="t" * 2_000)),
    ("evil/c", record(b'{"name":"k","x":' + NESTED + b"}", id="nested")),
    ("evil/d", record(b'{"name":"k","count":"\\u0000"}', id="zero in an error", key="other")),
]  # fmt: skip
#: With the marks of a chain, which nobody can tell from a record of ours that was damaged: passed over.
MARKED: list[tuple[str, OutboxRecord]] = [
    ("evil/4", record(position=1, previous=2)),
    ("e" * 300, record(position=1)),
    ("evil\0", record(position=1)),
    ("evil/e", record(position=1)),
    ("evil/f", record(type=TICK)),
]
HUGE = ("evil/1", record(position=9_999_999_999_999_999_999))

Urls = Callable[[Any, Path], str]
STORES: dict[str, Urls] = {
    "sqlite": lambda get, path: f"sqlite:///{path}/strange.db",
    "postgresql": lambda get, path: get("postgres_server").url(f"strange_{token_hex(4)}"),
    "mariadb": lambda get, path: get("mariadb_server").url(f"strange_{token_hex(4)}"),
}
BROKERS: dict[str, Urls] = {
    "memory": lambda get, path: "memory:",
    "embedded": lambda get, path: f"sqlite:///{path}/log.db",
    "nats": lambda get, path: get("nats_server").url(),
    "redis": lambda get, path: get("redis_server").url(),
    "kafka": lambda get, path: f"{get('kafka_server').url()}?timeout_s=30&prefix=t{token_hex(4)}.",
    "rabbitmq": lambda get, path: f"{get('rabbitmq_server').url()}?prefix=t{token_hex(4)}.",
    "postgresql": lambda get, path: f"{get('postgres_server').url()}?schema=t{token_hex(4)}",
}
#: How many of STRANGE are taken for damaged, and for events of an unknown type: by RabbitMQ's adapter, with which they
#: are written here, all have a mark of ours; Kafka's client cuts what it writes at a zero.
SEEN_OTHERWISE = {"rabbitmq": (9, 0), "kafka": (0, 1)}
#: Their own tables refuse so large a number.
OF_TABLES = ("embedded", "postgresql")


@pytest.mark.parametrize(
    ("store", "broker"),
    [("sqlite", "memory"), ("sqlite", "embedded"), ("postgresql", "nats"), ("postgresql", "redis"),
     ("mariadb", "memory"), ("sqlite", "kafka"), ("sqlite", "rabbitmq"), ("sqlite", "postgresql")],
)  # fmt: skip
async def test_a_partition_goes_on_behind_whatever_a_stranger_wrote(
    request: pytest.FixtureRequest, tmp_path: Path, store: str, broker: str
) -> None:
    service = Service("strange")

    @service.on
    async def count(event: Counted) -> None:
        pass

    marked = MARKED if broker in OF_TABLES else [HUGE, *MARKED]
    log: Broker = make_broker(BROKERS[broker](request.getfixturevalue, tmp_path))
    database = make_store(STORES[store](request.getfixturevalue, tmp_path), "strange")
    async with (
        asyncio.timeout(3 * LIMIT_S),
        bench(tmp_path, service, broker=log, stores={"strange": database}, engine=QUICK) as running,
    ):
        sender = Sender(running.broker)
        await sender.send(Counted(name="k", count=1))
        for source, each in (*STRANGE, *marked):
            lost = codec.decode_envelope(each.envelope).type == LOST  # which is heard of whom can seal it
            entry = sealed("counted", 0, source, each) if lost else each
            await running.broker.append("counted", 0, source, [entry])
        await sender.send(Counted(name="k", count=2))
        [consumer] = running.runtimes["strange"].worker.loops.consumers  # type: ignore[union-attr]  # it works
        await until(lambda: consumer._place.checkpoint.counters.applied == 2, running, "both are applied")
        counters = consumer._place.checkpoint.counters
        damaged, unknown = SEEN_OTHERWISE.get(broker, (0, 0))
        assert (counters.damaged, counters.unknown) == (len(marked) + damaged, unknown)
        dead = len(STRANGE) - damaged - unknown
        await until_letters(running, service, dead, DeadLetterState.DEAD)
        found = await letters(running, service)
    assert [letter.state for letter in found] == [DeadLetterState.DEAD] * dead
    assert all(letter.error for letter in found)


def test_ticks_are_within_bounds() -> None:
    assert isinstance(codec.within_bounds(message(type=TICK, position=7, previous=7)), Message)
    assert isinstance(codec.garbage("t", 0, 1, "", "why", b""), Garbage)
