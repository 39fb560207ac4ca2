"""Event-sourced aggregates: append and publish, against the bare statements on the same store; loads of a long stream.

The bare side is told the rows: it locks heads, updates them, and inserts events and outbox records, in transactions of
as many. What is between the two is reading events, folding, deciding, writing JSON.
"""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from servers import PostgresServer

from benchmarks.figures import Figure, Report
from benchmarks.plot import bars
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
LENGTHS = (10, 100, 1_000, 10_000)


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
    lengths: tuple[int, ...]


def run(quick: bool) -> Report:
    scale = Scale(2, 10, (10, 200)) if quick else Scale(20, 500, LENGTHS)
    figures: list[Figure] = []
    plots: list[str] = []
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        figures += asyncio.run(_measure("SQLite", f"sqlite:///{Path(name)}/cards.db", scale, plots))
        if missing := PostgresServer.missing():
            figures.append(Figure(name=f"left out: {missing}", value=0, unit=""))
        else:
            with PostgresServer(durable=True) as server:
                figures += asyncio.run(_measure("PostgreSQL", server.url("cards"), scale, plots))
    return Report(
        name="aggregates",
        question="What does an event-sourced step cost beyond its statements, and a load of a long stream?",
        scale=f"{scale.batches} batches of {BATCH} events of as many cards, {scale.singles} one by one; "
        f"streams of {', '.join(f'{each:,}' for each in scale.lengths)} events.",
        bad="in batches far below the bare statements: something is done for each event that a batch should share.",
        bound="heads locked, heads updated, events inserted, outbox records inserted, a commit.",
        figures=tuple(figures),
        plot="\n\n".join(plots),
    )


async def _measure(name: str, url: str, scale: Scale, plots: list[str]) -> list[Figure]:
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
        folded = await _by_length(store, dispatcher, BareCard, scale.lengths)
        kept = await _by_length(store, dispatcher, Card, scale.lengths)
    finally:
        await store.close()
    plots += [
        bars({each: cost.load_s * 1000 for each, cost in folded.items()}, "events", f"ms to load, folded, {name}"),
        bars({each: cost.load_s * 1000 for each, cost in kept.items()}, "events", f"ms to load, snapshot, {name}"),
        bars({each: cost.append_s * 1000 for each, cost in folded.items()}, "events", f"ms a step, folded, {name}"),
        bars({each: cost.append_s * 1000 for each, cost in kept.items()}, "events", f"ms a step, snapshot, {name}"),
    ]
    long = scale.lengths[-1]
    return [
        Figure(name=f"{name}: append and publish, batches of {BATCH}", value=batches, unit="events/s"),
        Figure(name=f"{name}: the bare statements", value=bare, unit="events/s"),
        Figure(name=f"{name}: the bare statements, if the outbox were the stream", value=less, unit="events/s"),
        Figure(name=f"{name}: of the bare statements, in batches", value=batches / bare, unit=""),
        Figure(name=f"{name}: append and publish, one by one", value=singles, unit="events/s"),
        Figure(name=f"{name}: of the bare statements, one by one", value=singles / bare_singles, unit=""),
        Figure(name=f"{name}: load of {long:,} events, all folded", value=folded[long].load_s * 1000, unit="ms"),
        Figure(name=f"{name}: load of {long:,} events, by the snapshot", value=kept[long].load_s * 1000, unit="ms"),
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


@dataclasses.dataclass(frozen=True, slots=True)
class Cost:
    """load_s: to have an aggregate in memory. append_s: a step that loads it and records one event, with its commit."""

    load_s: float
    append_s: float


async def _by_length(
    store: Store, dispatcher: Dispatcher, cls: type[Card], lengths: Sequence[int]
) -> Mapping[int, Cost]:
    """What a stream costs when it has so many events, each at best of three."""
    found: dict[int, Cost] = {}
    events = 0
    for length in lengths:
        while events < length:
            events += await _record(store, dispatcher, cls, min(BATCH, length - events))
        loads, appends = list[float](), list[float]()
        for _ in range(3):
            async with store.transaction() as transaction:
                streams = dispatcher.outgoing(transaction).streams
                began = time.perf_counter()
                loaded = (await streams.load(transaction, kind_of(cls), ["long"]))["long"]
                loads.append(time.perf_counter() - began)
                if loaded is None or loaded.points != events:
                    raise RuntimeError(f"{loaded} has not the points of {events} events")
            began = time.perf_counter()
            events += await _record(store, dispatcher, cls, 1)
            appends.append(time.perf_counter() - began)
        found[length] = Cost(min(loads), min(appends))
    return found


async def _record(store: Store, dispatcher: Dispatcher, cls: type[Card], count: int) -> int:
    async with store.transaction() as transaction:
        step = dispatcher.outside_step(transaction, "", "", "")
        card = await step.load(cls, "long") or cls("long")
        step.record(card, *[card.give(1) for _ in range(count)])
        await step.outgoing.streams.save(transaction)
        await put(transaction, step.outgoing.close())
    return count
