"""Each broker's adapter against its own client library: appending batches and reading them back, in the same run.

The raw side sends and reads the same records, made ready before the clock starts, with the same batches waited for:
what the library takes, and what the broker takes, without encoding, chain or messages. Both append batches of 500
over four partitions and wait until each is acknowledged; both read the same topic from its start. On the real server,
on the same machine, so the server's work is in every figure.

A broker is added by one line in SIDES: a module with `server` (a class of servers) and `Raw`.
"""

from __future__ import annotations

import asyncio
import importlib
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from typing import Any, Protocol

from benchmarks.figures import Figure, Report, at_least
from benchmarks.rounds import Rounds, Sample, Stopwatch, alternate
from ensue.adapters import make_broker
from ensue.codec import encode_envelope
from ensue.message import Envelope, OutboxRecord
from ensue.ports import Broker

PARTITIONS = 4
BATCH = 500
SOURCE = "orders/0123abcd"
TOPIC = "orders"

Batch = dict[tuple[str, int], list[OutboxRecord]]


class RawSide(Protocol):
    """The library alone. Calls may block; topics exist already. `topic` is the full name, as the server knows it."""

    def __init__(self, url: str) -> None: ...

    def append(self, topic: str, batches: Sequence[Any]) -> None:
        """Send batches one after the other, each acknowledged before the next."""

    def ready(self, batches: Sequence[Batch]) -> Sequence[Any]:
        """The batches as the library wants them."""

    def read(self, topic: str, partitions: int, records: int) -> None:
        """Read that many from the start of the topic, looking at each one's headers and body."""

    def close(self) -> None: ...


#: name -> module with `server` and `Raw`. A broker whose server is not installed is left out.
SIDES = {
    "kafka": "benchmarks.broker_kafka",
    "nats": "benchmarks.broker_nats",
    "postgres": "benchmarks.broker_postgres",
    "redis": "benchmarks.broker_redis",
    "rabbitmq": "benchmarks.broker_rabbitmq",
}


def run(quick: bool) -> Report:
    rounds, batches = (1, 4) if quick else (5, 100)
    figures: list[Figure] = list(_embedded(rounds, batches))
    for name, module in SIDES.items():
        side = importlib.import_module(module)
        if side.server.missing():
            continue
        with side.server() as server:
            figures += _measure(name, server.url(), side.Raw, rounds, batches)
    return Report(
        name="brokers",
        question="What does a broker's adapter take of what its library can do alone?",
        scale=f"{batches} batches of {BATCH} events of 300 bytes over {PARTITIONS} partitions, {rounds} rounds; "
        "each batch acknowledged before the next; then all read back.",
        bad="append below 0.5 of the library alone: then the adapter, not the broker, bounds the relay.",
        bound="the server, which shares the machine, and Python's work for each record in either library.",
        figures=tuple(figures),
    )


def make_batches(count: int) -> list[Batch]:
    """Batches of a chain, as a relay hands them over."""
    made: list[Batch] = []
    for number in range(count):
        batch: Batch = {}
        for position in range(number * BATCH + 1, (number + 1) * BATCH + 1):
            envelope = Envelope(
                id=f"0193b4c5-7d2a-7cc1-9a3f-{position:012d}",
                type="orders.OrderCreated.v1",
                time="2026-01-01T00:00:00.000000Z",
                correlation_id=f"0193b4c5-7d2a-7cc1-9a3f-{position:012d}",
            )
            record = OutboxRecord(
                TOPIC, position % PARTITIONS, f"customer-{position % 1000}", encode_envelope(envelope), b"x" * 300,
                position, max(position - PARTITIONS, 0),
            )  # fmt: skip
            batch.setdefault((TOPIC, record.partition), []).append(record)
        made.append(batch)
    return made


async def append_all(broker: Broker, batches: Sequence[Batch]) -> None:
    for batch in batches:
        await broker.append_many(SOURCE, batch)


async def read_all(broker: Broker, topic: str, partitions: int) -> int:
    """Read every partition to its end, all at once, as consumers do; return how many records there were."""

    async def read(number: int) -> int:
        found = 0
        last = (await broker.bounds(topic, number)).last
        reader = broker.reader(topic, number, 0)
        while reader.after < last:
            found += len(await reader.read(BATCH, 5.0))
        await reader.close()
        return found

    return sum(await asyncio.gather(*(read(number) for number in range(partitions))))


def _measure(name: str, url: str, raw: type[RawSide], rounds: int, batches: int) -> list[Figure]:
    made = make_batches(batches)
    events = batches * BATCH
    numbers = count(1)
    prefix = ""
    raw_side = raw(url)
    ready = raw_side.ready(made)

    with asyncio.Runner() as runner:

        def in_fresh_topic(work: Callable[[Broker, str], Awaitable[Any]]) -> None:
            async def go() -> None:
                broker = make_broker(f"{url}?prefix={prefix}")
                await broker.open()
                try:
                    await broker.ensure_topic(TOPIC, PARTITIONS)
                    await work(broker, TOPIC)
                finally:
                    await broker.close()

            runner.run(go())

        def timed(work: Callable[[Broker], Awaitable[Any]]) -> Sample:
            samples: list[Sample] = []

            async def go(broker: Broker, topic: str) -> None:
                await broker.append_many(SOURCE, {(topic, 0): []})  # connections are there before the clock starts
                watch = Stopwatch()
                await work(broker)
                samples.append(watch.stop(events))

            in_fresh_topic(go)
            return samples[0]

        def raw_append() -> Sample:
            nonlocal prefix
            prefix = f"{name}-{next(numbers)}-raw."
            in_fresh_topic(_nothing)
            watch = Stopwatch()
            raw_side.append(prefix + TOPIC, ready)
            return watch.stop(events)

        def ours_append() -> Sample:
            nonlocal prefix
            prefix = f"{name}-{next(numbers)}."
            return timed(lambda broker: append_all(broker, made))

        def raw_read() -> Sample:
            watch = Stopwatch()
            raw_side.read(prefix + TOPIC, PARTITIONS, events)
            return watch.stop(events)

        def ours_read() -> Sample:
            return timed(lambda broker: read_all(broker, TOPIC, PARTITIONS))

        sides = {"append raw": raw_append, "append": ours_append, "read raw": raw_read, "read": ours_read}
        try:
            return _figures(name, alternate(sides, rounds))
        finally:
            raw_side.close()


async def _nothing(broker: Broker, topic: str) -> None:
    """The topic is made, and that is all."""


def _figures(name: str, measured: Rounds) -> list[Figure]:
    return [
        measured.rate("append", f"{name}: append"),
        measured.rate("append raw", f"{name}: append, library alone"),
        measured.ratio("append", "append raw", f"{name}: append ratio", goal=at_least(0.5)),
        measured.rate("read", f"{name}: read"),
        measured.rate("read raw", f"{name}: read, library alone"),
        measured.ratio("read", "read raw", f"{name}: read ratio"),
    ]


def _embedded(rounds: int, batches: int) -> list[Figure]:
    """The embedded log, to compare with: no server, and no library of its own."""
    made = make_batches(batches)
    found: list[Figure] = []

    async def go(directory: str, number: int) -> tuple[Sample, Sample]:
        broker = make_broker(f"sqlite:///{directory}/log-{number}.db")
        await broker.open()
        try:
            await broker.ensure_topic(TOPIC, PARTITIONS)
            watch = Stopwatch()
            await append_all(broker, made)
            appended = watch.stop(batches * BATCH)
            watch = Stopwatch()
            return appended, watch.stop(await read_all(broker, TOPIC, PARTITIONS))
        finally:
            await broker.close()

    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as directory:
        samples = [asyncio.run(go(directory, number)) for number in range(rounds)]
    measured = Rounds({"append": [each for each, _ in samples], "read": [each for _, each in samples]})
    found.append(measured.rate("append", "embedded: append"))
    found.append(measured.rate("read", "embedded: read"))
    return found
