"""Which records of a restored store the log holds already: the pure comparison against a model, and the real search."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import NamedTuple, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conformance_mutants.stores import WrappedStore
from tests.views.ledger import database_of

from ensue.adapters import make_store
from ensue.brokers.memory import MemoryBroker
from ensue.codec import encode_envelope
from ensue.engine.epoch import Comparison, Published, begin_epoch, find_published
from ensue.engine.lookup import records_between
from ensue.errors import UsageError
from ensue.message import TICK, Envelope, Message, OutboxRecord
from ensue.ports import StepTransaction, Store
from ensue.stores.sqlite import SqliteStore

#: How long one waits for the other.
LIMIT_S = 20.0
SOURCE = "till/a"


class Written(NamedTuple):
    """One record as a life wrote it."""

    position: int
    partition: int
    id: str


def message(written: Written, kind: str = "sales.Sold.v1") -> Message:
    position, partition, id_ = written
    return Message("sales", partition, 0, "k", SOURCE, position, 0, Envelope(id_, kind), b"{}")


def compared(relay: int, own: Sequence[Written], log: Sequence[Message], *, stop: bool = False) -> Comparison:
    comparison = Comparison(
        relay, {each.position: ("sales", each.partition, each.id) for each in own if each.position > relay}
    )
    for each in log:
        if stop and comparison.done:
            break
        comparison.see(each)
    return comparison


@given(st.data(), st.randoms(use_true_random=False))
def test_what_is_in_the_log_is_known_whatever_the_two_lives_did(data: st.DataObject, random: Random) -> None:
    """Any two lives, any amount published, an append torn by the end of the first life, records sent again."""
    draw = data.draw
    first = [
        Written(number, draw(st.integers(0, 2)), f"first-{number}") for number in range(1, draw(st.integers(0, 12)) + 1)
    ]
    kept = draw(st.integers(0, len(first)))
    relay = draw(st.integers(0, kept))
    sent = draw(st.integers(relay, len(first)))
    second = [
        Written(kept + number, draw(st.integers(0, 2)), f"second-{number}")
        for number in range(1, draw(st.integers(0, 12)) + 1)
    ]
    published = first[:sent]
    for partition in range(3):  # of the last append each partition got any beginning
        rest = [each for each in first[sent:] if each.partition == partition]
        published += rest[: draw(st.integers(0, len(rest)))]
    log = [message(each) for each in published]
    log += [message(each) for each in random.sample(published, len(published) // 2)]
    log += [message(Written(each.position, each.partition, "tick"), TICK) for each in published[-2:]]
    random.shuffle(log)

    own = [*first[:kept], *second]
    there = {each.position for each in published}
    through = max([relay, *(position for position in there if position <= kept)])
    expected = (
        through,
        tuple(each.position for each in first[:kept] if relay < each.position < through and each.position not in there),
        len(own) - through,
    )
    for stop in (False, True):
        found = compared(relay, own, log, stop=stop).result(SOURCE, pruned=False)
        assert (found.through, found.missing, found.left) == expected


def test_a_position_that_the_store_never_reached_is_the_old_life_s() -> None:
    own = [Written(1, 0, "a"), Written(2, 1, "b")]
    log = [message(Written(1, 0, "a")), message(Written(2, 1, "b")), message(Written(3, 0, "c"))]
    found = compared(0, own, log).result(SOURCE, pruned=False)
    assert found == Published(source=SOURCE, through=2, missing=(), left=0, diverged_at=3)


def test_a_tick_of_the_old_life_in_another_partition_shows_the_divergence() -> None:
    own = [Written(1, 0, "a"), Written(2, 1, "new")]
    log = [message(Written(1, 0, "a")), message(Written(2, 0, "t"), TICK)]
    found = compared(0, own, log).result(SOURCE, pruned=False)
    assert (found.through, found.left, found.diverged_at) == (1, 1, 2)


def test_two_stores_that_published_under_one_name_are_not_guessed_at() -> None:
    own = [Written(1, 0, "a"), Written(2, 0, "b"), Written(3, 0, "c")]
    log = [message(Written(1, 0, "a")), message(Written(2, 0, "other")), message(Written(3, 0, "c"))]
    with pytest.raises(UsageError, match=r"another message than this store at position 2.*--published-through"):
        compared(0, own, log).result(SOURCE, pruned=False)


def test_what_retention_took_from_the_log_is_for_the_operator_to_say() -> None:
    own = [Written(1, 0, "a"), Written(2, 0, "b")]
    log = [message(Written(7, 0, "g"))]
    with pytest.raises(UsageError, match=r"positions 1 to 2 are not in the log.*--published-through"):
        compared(0, own, log).result(SOURCE, pruned=True)
    assert compared(0, own, log).result(SOURCE, pruned=False).left == 2
    decided = compared(0, own, log).result(SOURCE, pruned=True, decided=1)
    assert (decided.through, decided.missing, decided.left) == (1, (1,), 1)


@pytest.mark.parametrize("decided", [1, 4])
def test_a_decision_outside_of_what_is_possible_is_refused(decided: int) -> None:
    own = [Written(3, 0, "c")]
    with pytest.raises(UsageError, match=rf"published through {decided}, expected 2 .* to 3"):
        compared(2, own, []).result(SOURCE, pruned=False, decided=decided)


# ---------------------------------------------------------------------------------------------------- the real search


@asynccontextmanager
async def store_and_log(tmp_path: Path) -> AsyncIterator[tuple[SqliteStore, MemoryBroker]]:
    store, broker = SqliteStore(f"sqlite:///{tmp_path}/till.db?synchronous=OFF", "till"), MemoryBroker()
    await store.open()
    await broker.open()
    try:
        await broker.ensure_topic("sales", 2)
        yield store, broker
    finally:
        await broker.close()
        await store.close()


async def write(store: SqliteStore, *partitions: int) -> list[OutboxRecord]:
    records = [
        OutboxRecord("sales", partition, "k", encode_envelope(Envelope(f"id-{number}", "sales.Sold.v1")), b"{}")
        for number, partition in enumerate(partitions, 1)
    ]
    async with store.transaction() as transaction:
        await transaction.outbox_add(records)
    return records


async def log_of(broker: MemoryBroker) -> dict[int, list[tuple[str, int, int]]]:
    """(source, position, previous) of each partition's records."""
    return {
        number: [
            (each.source, each.position, each.previous)
            for each in await records_between(broker, "sales", number, 0, 10_000)
            if isinstance(each, Message)
        ]
        for number in range(2)
    }


async def test_an_append_torn_by_the_end_of_the_old_life_is_completed_in_its_own_chain(tmp_path: Path) -> None:
    async with store_and_log(tmp_path) as (store, broker):
        old = store.source
        records = await write(store, 0, 1, 0)
        await broker.append("sales", 0, old, [records[0], records[2]])
        found = await find_published(store, broker)
        assert (found.through, found.missing, found.left) == (3, (2,), 0)
        assert await begin_epoch(store, broker, found) == store.source != old
        assert await log_of(broker) == {0: [(old, 1, 0), (old, 3, 1)], 1: [(old, 2, 0)]}
        assert await store.outbox_after(0, 10) == []


async def test_killed_after_the_old_epoch_is_complete_the_command_goes_on_where_it_was(tmp_path: Path) -> None:
    async with store_and_log(tmp_path) as (store, broker):
        records = await write(store, 0, 1, 0)
        await broker.append("sales", 0, store.source, [records[0], records[2]])
        found = await find_published(store, broker)
        await broker.append("sales", 1, store.source, [records[1]])  # as begin_epoch does, before the new epoch
        again = await find_published(store, broker)
        assert (again.through, again.missing) == (found.through, ())


async def test_a_match_far_from_the_end_of_a_long_log_is_found(tmp_path: Path) -> None:
    async with store_and_log(tmp_path) as (store, broker):
        records = await write(store, *([0] * 3))
        await broker.append("sales", 0, store.source, records[:2])
        others = [OutboxRecord("sales", 0, "k", records[0].envelope, b"{}", number, 0) for number in range(1, 3500)]
        await broker.append("sales", 0, "another/x", others)
        await broker.append("sales", 0, store.source, records[:1])  # sent again: the last is not the highest
        found = await find_published(store, broker)
        assert (found.through, found.missing, found.left) == (2, (), 1)


async def test_a_search_that_was_overtaken_by_another_new_epoch_is_refused(tmp_path: Path) -> None:
    async with store_and_log(tmp_path) as (store, broker):
        await write(store, 0)
        found = await find_published(store, broker)
        await begin_epoch(store, broker, found)
        with pytest.raises(UsageError, match="has ended meanwhile"):
            await begin_epoch(store, broker, found)


class AtABarrier(WrappedStore):
    """Of one of several who begin a new epoch: each has looked whether the old one goes on before any begins."""

    barrier: asyncio.Barrier

    async def new_epoch(self, published_through: int, ends: str) -> str:
        async with asyncio.timeout(LIMIT_S):
            await self.barrier.wait()
        return await self.healthy.new_epoch(published_through, ends)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_of_two_people_who_begin_an_epoch_at_once_one_does_and_the_other_is_told(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url, _ = database_of(request, kind, tmp_path)
    stores = [make_store(url, "till") for _ in range(2)]
    async with AsyncExitStack() as stack:
        for store in stores:
            await store.open()
            stack.push_async_callback(store.close)
        broker = MemoryBroker()
        await broker.open()
        stack.push_async_callback(broker.close)
        old, barrier, noted = stores[0].source, asyncio.Barrier(2), list[str]()

        async def note(transaction: StepTransaction, source: str) -> None:
            noted.append(source)

        async def begin(store: Store) -> str:
            found = await find_published(store, broker)
            racing = AtABarrier(store)
            racing.barrier = barrier
            return await begin_epoch(cast(Store, racing), broker, found, note)

        done = await asyncio.gather(*map(begin, stores), return_exceptions=True)
        [source] = [each for each in done if isinstance(each, str)]
        [refused] = [each for each in done if isinstance(each, UsageError)]
        assert f"{old} has ended meanwhile, this store is {source} now" in str(refused)
        assert noted == [source]
        for store in stores:
            await store.outbox_after(0, 1)
            assert store.source == source


async def test_a_new_epoch_sends_its_first_records_with_a_chain_of_their_own(tmp_path: Path) -> None:
    async with store_and_log(tmp_path) as (store, broker):
        records = await write(store, 0, 1, 0, 1)
        await broker.append_many(store.source, {("sales", 0): records[:1], ("sales", 1): records[1:2]})
        await begin_epoch(store, broker, await find_published(store, broker))
        left = await store.outbox_after(0, 10)
        assert [(each.partition, each.position, each.previous) for each in left] == [(0, 3, 0), (1, 4, 0)]


async def test_a_topic_that_the_log_has_lost_is_no_reason_to_guess(tmp_path: Path) -> None:
    async with store_and_log(tmp_path) as (store, _):
        await write(store, 0, 1)
        empty = MemoryBroker()
        await empty.open()
        try:
            found = await find_published(store, empty, decided=1)
            assert found.missing == (1,)
            with pytest.raises(UsageError, match="topic sales is not in the log"):
                await begin_epoch(store, empty, found)
        finally:
            await empty.close()
