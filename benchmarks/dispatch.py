"""Ensue without any database: decode, dispatch, handler, encode, over the store and the broker in memory.

The bare loop decodes each event with msgspec and awaits a function that does nothing. Ensue's side is the real
consumer: it reads batches from a log, judges each record, decodes, makes a step, awaits the handler, encodes the event
that the handler publishes with its envelope, adds it to the outbox and saves the checkpoint.
Further figures: the relay and the log on top; no publishing; and events of strings and whole numbers only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from benchmarks import typed_events, workload
from benchmarks.figures import Report, at_least
from benchmarks.memory_side import drain_memory
from benchmarks.rounds import Sample, Stopwatch, alternate
from benchmarks.typed_events import OrderNoted, OrderPlaced
from benchmarks.workload import BalanceChanged, TransferMade
from ensue import Event, Service, Step


def run(quick: bool) -> Report:
    count, rounds = (500, 1) if quick else (50_000, 9)
    typed = list(typed_events.orders_placed(count))
    strings = list(workload.transfers(count))
    measured = alternate(
        {
            "bare": bare(typed),
            "ensue": lambda: asyncio.run(drain_memory(notes_orders(), typed, relays=False, published=count)),
            "relay": lambda: asyncio.run(drain_memory(notes_orders(), typed, relays=True, published=count)),
            "silent": lambda: asyncio.run(drain_memory(ignores_orders(), typed, relays=False, published=0)),
            "bare strings": bare(strings),
            "strings": lambda: asyncio.run(drain_memory(changes_balances(), strings, relays=False, published=count)),
        },
        rounds,
    )
    return Report(
        name="dispatch",
        question="What does Ensue itself cost, with nothing of a database in it?",
        scale=f"{rounds} rounds of {count:,} events of 300 bytes, one partition, batches of up to 500.",
        bad="below 0.06 of the bare loop, which is some 10 µs an event.",
        bound="the Python objects that an event needs: message, event, step, envelope and record.",
        figures=(
            measured.rate("bare", "bare: decode and await; UUID, Decimal, datetime"),
            measured.rate("ensue", "Ensue: decode, dispatch, handler, encode"),
            measured.ratio("ensue", "bare", "ratio", goal=at_least(0.12)),
            measured.rate("relay", "Ensue, relay and log on top"),
            measured.rate("silent", "Ensue, handler publishes nothing"),
            measured.rate("bare strings", "bare; strings and whole numbers only"),
            measured.rate("strings", "Ensue; strings and whole numbers only"),
            measured.ratio("strings", "bare strings", "ratio; strings and whole numbers only"),
        ),
    )


def notes_orders() -> Service:
    service = Service("bench", publishes=[OrderNoted])

    @service.on
    async def note(event: OrderPlaced, step: Step) -> None:
        step.publish(typed_events.noted(event))

    return service


def ignores_orders() -> Service:
    service = Service("bench", publishes=[])

    @service.on
    async def ignore(event: OrderPlaced, step: Step) -> None: ...

    return service


def changes_balances() -> Service:
    service = Service("bench", publishes=[BalanceChanged])

    @service.on
    async def change(event: TransferMade, step: Step) -> None:
        step.publish(workload.amount_told(event))

    return service


def bare(events: Sequence[Event]) -> Callable[[], Sample]:
    encode = msgspec.json.Encoder().encode
    datas = [encode(event) for event in events]
    decode = msgspec.json.Decoder(type(events[0])).decode

    async def loop() -> Sample:
        seen = 0

        async def handler(event: Event) -> None:
            nonlocal seen
            seen += 1

        watch = Stopwatch()
        for data in datas:
            await handler(decode(data))
        sample = watch.stop(len(datas))
        assert seen == len(datas)
        return sample

    return lambda: asyncio.run(loop())
