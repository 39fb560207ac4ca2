"""One event from outside of its service: its position is its own, on every store, whatever else is published."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from ensue import Event, Service, UsageError
from ensue.adapters import make_store
from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.engine.clock import SystemClock, UniqueIds
from ensue.engine.dispatch import Dispatcher
from ensue.engine.faults import Faults
from ensue.engine.hallmark import HallmarkedIds
from ensue.engine.publishing import publish
from ensue.engine.schema import SCHEMA
from ensue.engine.upgrade import Upgrade
from ensue.message import OutboxRecord


class ByHand(Event, topic="by-hand-positions", key="name"):
    name: str


async def test_each_is_told_the_position_that_it_has(sql_database: str) -> None:
    service = Service("typist", publishes=[ByHand])
    store = make_store(sql_database, "typist")
    await store.open()
    try:
        books = Books(store, "typist", schema=SCHEMA)
        await Upgrade(store, books, SystemClock(), 3.0, Faults()).run()
        ids = HallmarkedIds(UniqueIds(), SystemClock())
        await ids.begin(store)
        dispatcher = Dispatcher(service, ids, 8, hallmarked=ids.of_now)
        names = [f"name {number}" for number in range(12)]
        done = await asyncio.gather(*(publish(store, dispatcher, ByHand(name=name)) for name in names))
        records = {each.position: each for each in await store.outbox_after(0, 100)}
        assert len(records) == len(names)
        for name, each in zip(names, done, strict=True):
            record = records[each.position]
            assert (record.key, decode_envelope(record.envelope).id) == (name, each.id)
            assert decode_envelope(record.envelope).correlation_id == each.correlation_id
    finally:
        await store.close()


async def test_a_position_that_takes_long_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(f"sqlite:///{tmp_path}/typist.db", "typist")
    await store.open()
    looks = 0

    async def nothing_yet(position: int, limit: int) -> Sequence[OutboxRecord]:
        nonlocal looks
        looks += 1
        return []

    async def returns_at_once(timeout_s: float) -> None: ...

    dispatcher = Dispatcher(Service("typist"), UniqueIds(), 8)
    with monkeypatch.context() as patched:  # as where an older transaction is open
        patched.setattr(store, "outbox_after", nothing_yet)
        patched.setattr(store, "outbox_wait", returns_at_once)
        done = await publish(store, dispatcher, ByHand(name="x"))
    assert (done.position, looks) == (0, 5)
    assert [each.key for each in await store.outbox_after(0, 10)] == ["x"]  # it is published all the same
    await store.close()


async def test_a_store_without_an_outbox_says_so() -> None:
    store = make_store("redis://127.0.0.1:1/0", "typist")
    dispatcher = Dispatcher(Service("typist"), UniqueIds(), 8)
    with pytest.raises(UsageError, match="service typist cannot publish: its database is a store for views"):
        await publish(store, dispatcher, ByHand(name="x"))
    await store.close()
