"""Event-sourced aggregates: append and publish, against the bare statements on the same store; loads of a long stream.

The bare side is told the rows: it locks heads, updates them, and inserts events and outbox records, in transactions of
as many. What is between the two is reading events, folding, deciding, writing JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from servers import PostgresServer

from benchmarks.figures import Figure, Report
from ensue import Aggregate, Event, Service, Step, evolves
from ensue.adapters import make_store
from ensue.aggregate.kind import kind_of
from ensue.engine.clock import UniqueIds
from ensue.engine.dispatch import Dispatcher
from ensue.engine.timers import put
from ensue.event import event_type
from ensue.message import Envelope, Message, OutboxRecord
from ensue.ports import Row, Store
from ensue.tables import AGGREGATES, STREAMS

BATCH = 500
LONG = 10_000


class PointsAsked(Event, topic="bench.points", key="card_id"):
    card_id: str
    points: int


class PointsGiven(Event, topic="bench.cards", key="card_id"):
    card_id: str
    points: int


class Card(Aggregate, stream="card"):
    card_id: str
    points: int = 0
    visits: int = 0

    def give(self, points: int) -> PointsGiven:
        return PointsGiven(card_id=self.card_id, points=points)

    @evolves
    def _(self, event: PointsGiven) -> None:
        self.points += event.points
        self.visits += 1


class BareCard(Card, stream="bare-card", snapshot_every=0):
    """The same without snapshots."""


cards = Service("cards", aggregates=[Card, BareCard])


@cards.on
def give(card: Card | None, event: PointsAsked, step: Step) -> None:
    card = card or Card(event.card_id)
    step.record(card, card.give(event.points))


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    batches: int
    singles: int
    long: int


def run(quick: bool) -> Report:
    scale = Scale(2, 10, 200) if quick else Scale(20, 500, LONG)
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        figures += asyncio.run(_measure("SQLite", f"sqlite:///{Path(name)}/cards.db", scale))
        if missing := PostgresServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            with PostgresServer(durable=True) as server:
                figures += asyncio.run(_measure("PostgreSQL", server.url("cards"), scale))
    return Report(
        name="aggregates",
        question="What does an event-sourced step cost beyond its statements, and a load of a long stream?",
        scale=f"{scale.batches} batches of {BATCH} events of as many cards, {scale.singles} one by one; "
        f"a stream of {scale.long:,} events.",
        bad="in batches far below the bare statements: something is done for each event that a batch should share.",
        bound="heads locked, heads updated, events inserted, outbox records inserted, a commit.",
        figures=tuple(figures),
    )


async def _measure(name: str, url: str, scale: Scale) -> list[Figure]:
    store = make_store(url, "cards")
    await store.open()
    try:
        dispatcher = Dispatcher(cards, UniqueIds("bench"), 4)
        batches = await _rate(lambda number: _batch(store, dispatcher, number, BATCH), scale.batches, BATCH)
        singles = await _rate(lambda number: _batch(store, dispatcher, number, 1), scale.singles, 1)
        heads, events, records = await _rows(store)
        bare = await _rate(lambda number: _bare(store, number, heads, events, records), scale.batches, BATCH)
        less = await _rate(lambda number: _bare(store, number, heads, [], records), scale.batches, BATCH)
        bare_singles = await _rate(
            lambda number: _bare(store, scale.batches + 1 + number, heads[:1], events[:1], records[:1]),
            scale.singles,
            1,
        )
        folded = await _load(store, dispatcher, BareCard, scale.long)
        kept = await _load(store, dispatcher, Card, scale.long)
    finally:
        await store.close()
    return [
        Figure(name=f"{name}: append and publish, batches of {BATCH}", value=batches, unit="events/s"),
        Figure(name=f"{name}: the bare statements", value=bare, unit="events/s"),
        Figure(name=f"{name}: the bare statements, if the outbox were the stream", value=less, unit="events/s"),
        Figure(name=f"{name}: of the bare statements, in batches", value=batches / bare, unit=""),
        Figure(name=f"{name}: append and publish, one by one", value=singles, unit="events/s"),
        Figure(name=f"{name}: of the bare statements, one by one", value=singles / bare_singles, unit=""),
        Figure(name=f"{name}: load of {scale.long:,} events, all folded", value=folded * 1000, unit="ms"),
        Figure(name=f"{name}: load of {scale.long:,} events, by the snapshot", value=kept * 1000, unit="ms"),
    ]  # fmt: skip


async def _rate(act: Callable[[int], Awaitable[None]], times: int, each: int) -> float:
    """The median of the rounds; the first, in which rows are new and statements are prepared, counts for nothing."""
    found: list[float] = []
    for number in range(times + 1):
        began = time.perf_counter()
        await act(number)
        found.append(each / (time.perf_counter() - began))
    return median(found[1:])


async def _batch(store: Store, dispatcher: Dispatcher, number: int, size: int) -> None:
    spec: Any = event_type(PointsAsked)
    events = [PointsAsked(card_id=f"c{each}", points=number) for each in range(size)]
    messages = [
        Message(spec.topic, 0, 1, each.card_id, "bench/1", 1, 0, Envelope("m", spec.type, "2026-11-27T00:00:00Z"), data)
        for each in events
        for data in (spec.write(each),)
    ]
    async with store.transaction() as transaction:
        outgoing = dispatcher.outgoing(transaction)
        await dispatcher.apply(transaction, messages, outgoing)
        await transaction.flush()
        await put(transaction, outgoing.close())


async def _rows(store: Store) -> tuple[list[Row], list[Row], list[OutboxRecord]]:
    """What a batch writes, as it is there now."""
    ids = sorted(f"card:c{each}" for each in range(BATCH))
    found = {row[0]: tuple(row) for row in await store.rows().get(AGGREGATES, ids)}
    events: list[Row] = [tuple(row) for row in await store.rows().get(STREAMS, [f"{each}:{1:010}" for each in ids])]
    records = [OutboxRecord("bench.cards", 0, each, row[1], row[2]) for each, row in zip(ids, events, strict=True)]
    return [found[each] for each in ids], events, records


async def _bare(store: Store, number: int, heads: list[Row], events: list[Row], records: list[OutboxRecord]) -> None:
    async with store.transaction() as transaction:
        await transaction.load_rows(AGGREGATES, [row[0] for row in heads])
        await transaction.update_rows(AGGREGATES, heads)
        if events:
            await transaction.insert_rows(STREAMS, [(f"{row[0]}.{number}", *row[1:]) for row in events])
        again = [OutboxRecord(each.topic, each.partition, each.key, each.envelope, each.data) for each in records]
        await transaction.outbox_add(again)


async def _load(store: Store, dispatcher: Dispatcher, cls: type[Card], length: int) -> float:
    """How many seconds it takes, at best of three."""
    for begin in range(0, length, BATCH):
        async with store.transaction() as transaction:
            step = dispatcher.outside_step(transaction, "", "", "")
            card = await step.load(cls, "long") or cls("long")
            step.record(card, *[card.give(1) for _ in range(min(BATCH, length - begin))])
            await step.outgoing.streams.save(transaction)
            await put(transaction, step.outgoing.close())
    found: list[float] = []
    for _ in range(3):
        async with store.transaction() as transaction:
            streams = dispatcher.outgoing(transaction).streams
            began = time.perf_counter()
            loaded = (await streams.load(transaction, kind_of(cls), ["long"]))["long"]
            found.append(time.perf_counter() - began)
            if loaded is None or loaded.points != length:
                raise RuntimeError(f"{loaded} has not the points of {length} events")
    return min(found)
