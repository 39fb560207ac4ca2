"""Rules of the books that hold on every store: positions, claims, revisions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest

from ensue.conformance.store_suite import PARTITION, letter, response
from ensue.engine.books import Books
from ensue.message import Checkpoint
from ensue.ports import Store
from ensue.stores.memory import MemoryStore
from ensue.tables import CLAIMS, LEASES


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    opened = MemoryStore("orders")
    await opened.open()
    yield opened
    await opened.close()


async def test_the_relays_position_never_moves_backwards_and_is_its_sources_own(store: Store) -> None:
    books = Books(store, "orders")
    for position, expected in ((5, 5), (3, 5), (9, 9)):
        await books.save_relay_position(store.source, position)
        assert await books.relay_position() == expected
    late = store.source
    await store.new_epoch(9, store.source)
    await books.save_relay_position(late, 12)  # of a relay that does not know yet
    assert await books.relay_position() == 0


async def test_source_and_id_are_kept_apart_in_a_claim(store: Store) -> None:
    books = Books(store, "orders")
    pairs = [("a", "bc"), ("ab", "c"), ("", "abc"), ("a1:b", "c"), ("\ud800", "half a character")]
    async with store.transaction() as transaction:
        assert await books.claim(transaction, pairs) == set(pairs)
        assert await Books(store, "order").claim(transaction, [("sa", "bc")]) == {("sa", "bc")}
    [by_time] = CLAIMS.lookups
    assert await store.rows().count(CLAIMS, by_time, ()) == len(pairs) + 1


async def test_two_lives_of_a_database_do_not_come_to_one_revision(store: Store) -> None:
    """Whoever remembers one of a life that was forgotten must not pass for one of this life."""
    revisions = []
    for seed in range(200):
        async with store.transaction() as transaction:
            books = Books(store, "orders", Random(seed))
            partition = PARTITION._replace(number=seed)
            revisions.append(await books.save_checkpoint(transaction, partition, Checkpoint()))
    assert len(set(revisions)) == len(revisions)
    assert min(revisions) > 0


async def test_a_revision_grows_with_each_save(store: Store) -> None:
    books, checkpoint = Books(store, "orders"), Checkpoint()
    for _ in range(50):
        before = checkpoint.revision
        async with store.transaction() as transaction:
            checkpoint.revision = await books.save_checkpoint(transaction, PARTITION, checkpoint)
        assert checkpoint.revision > before


async def test_heartbeats_at_once_are_all_heard(store: Store) -> None:
    """One that was too late reads again: each of them tells of all that were before it."""
    async with asyncio.timeout(20):
        tables = await asyncio.gather(*(Books(store, "orders").heartbeat(f"w{each}", 60.0) for each in range(20)))
    assert sorted(len(each.workers) for each in tables) == list(range(1, 21))
    rows = await store.rows().get(LEASES, ["leases"])
    assert len(rows) == 1


async def test_what_strangers_send_is_kept_whatever_it_holds(store: Store) -> None:
    given = letter("\ud800\0key")
    given.source, given.error_type, given.error = "\udfff/1", "Odd\0Error", "half: \ud800, nothing: \0"
    books, checkpoint = Books(store, "orders"), Checkpoint()
    async with store.transaction() as transaction:
        await books.add_letters(transaction, checkpoint, [given])
    [found] = await books.letters()
    assert (found.key, found.source) == (given.key, given.source)
    assert (found.error_type, found.error) == ("Odd\\x00Error", "half: \\ud800, nothing: \\x00")


async def test_a_page_of_answers_is_shorter_since_they_hold_whole_bodies(store: Store) -> None:
    books = Books(store, "orders")
    async with store.transaction() as transaction:
        for number in range(150):
            await books.keep_answer(transaction, response(f"key-{number}"))
    pruned: list[Any] = [await books.prune_answers(2**40, 1000) for _ in range(3)]
    assert pruned == [100, 50, 0]
