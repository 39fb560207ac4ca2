"""What a service's database knows is the same in the next one, of whatever kinds they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ensue.adapters import make_store
from ensue.answers import KeptReplies
from ensue.conformance.store_suite import PARTITION, SERVICE, letter, record, response, texts
from ensue.deciding import Deciding, Face
from ensue.engine import moving
from ensue.engine.books import Books
from ensue.engine.moving import move
from ensue.engine.timers import put, timer_of
from ensue.errors import UsageError
from ensue.message import OutboxRecord, Timer
from ensue.ports import Store
from ensue.reply import Reply
from ensue.stores.memory import MemoryStore
from ensue.stores.sqlite import SqliteStore
from ensue.tables import TIMERS

PAIRS = [
    ("sqlite", "sqlite"), ("postgres", "mariadb"), ("mariadb", "postgres"), ("mariadb", "sqlite"), ("wal", "sqlite"),
]  # fmt: skip


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str, str], str]:
    def make(kind: str, name: str) -> str:
        if kind == "sqlite":
            return f"sqlite:///{tmp_path}/{name}.db?synchronous=OFF"
        if kind == "wal":  # whose slot keeps the database
            return f"{request.getfixturevalue('postgres_server').url(f'moving_{name}_wal')}?outbox=wal"
        server = request.getfixturevalue(f"{kind}_server")
        server.drop(f"moving_{name}")
        return str(server.url(f"moving_{name}"))

    return make


@asynccontextmanager
async def opened(*stores: Store) -> AsyncIterator[None]:
    for store in stores:
        await store.open()
    try:
        yield
    finally:
        for store in stores:
            await store.close()


async def publish(store: Store, *data: str) -> None:
    async with store.transaction() as transaction:
        await transaction.outbox_add([record(each, partition=int(each) % 3) for each in data])


async def everything(store: Store) -> list[OutboxRecord]:
    found: list[OutboxRecord] = []
    while page := await store.outbox_after(found[-1].position if found else 0, 1000):
        found += page
    return found


async def live(store: Store) -> None:
    """A first epoch, records of both that retention took, some that are not sent, and all that is kept beside them."""
    books = Books(store, SERVICE)
    await publish(store, "1", "2", "3")
    await store.new_epoch((await everything(store))[-1].position, store.source)
    await publish(store, *map(str, range(4, 130)))
    sent = (await everything(store))[-4].position
    await books.save_relay_position(store.source, sent)
    await books.note_sending()
    await books.note_pruning(1000.0)
    assert await store.outbox_prune(time.time() + 3600, sent - 1, 20) == 20
    checkpoint = await books.checkpoint(PARTITION)
    checkpoint.offset, checkpoint.watermarks = 9, {"payments/1": 5}
    async with store.transaction() as transaction:
        await books.add_letters(transaction, checkpoint, [letter(), letter("other")])
        await books.save_checkpoint(transaction, PARTITION, checkpoint)
        assert await books.claim(transaction, [("shop", "1")]) == {("shop", "1")}
        await books.keep_answer(transaction, response())
        await put(transaction, [timer(2.0, "b"), timer(1.0, "a")])
        await KeptReplies().save(transaction, {}, {"command-1": Reply("command-1")})
        await books.record(transaction, Deciding(actor="ann", origin=Face.CLI), "test", "it", {"was": 1}, None)
    await books.heartbeat("worker", 60.0, ["relay"])


def timer(due_at: float, name: str) -> Timer:
    of = record("later")
    return Timer(of.topic, of.partition, of.key, of.envelope, of.data, id=name, due_at=due_at)


async def timers(store: Store) -> list[Timer]:
    [lookup] = TIMERS.lookups
    return [timer_of(row) for row in await store.rows().find(TIMERS, lookup, (), limit=10)]


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
async def test_all_that_is_kept_is_the_same_in_the_new_database(
    url: Callable[[str, str], str], pair: tuple[str, str]
) -> None:
    old, new = (make_store(url(kind, name), SERVICE) for kind, name in zip(pair, ("old", "new"), strict=True))
    async with opened(old, new):
        await live(old)
        moved = await move(old, new, SERVICE)
        before, after = Books(old, SERVICE), Books(new, SERVICE)
        assert (moved.records, moved.unsent, moved.checkpoints, moved.letters) == (109, 3, 1, 2)
        assert await everything(new) == await everything(old)
        assert await new.outbox_heads() == await old.outbox_heads()
        assert new.source == old.source == moved.source
        assert await after.relay_position() == await before.relay_position()
        assert await after.relay_waits() == await before.relay_waits() == -1
        assert await after.pruned_before() == await before.pruned_before() == 1000.0
        assert await after.checkpoints() == await before.checkpoints()
        assert await after.letters() == await before.letters()
        assert [each.id for each in await timers(new)] == ["a", "b"]
        assert await timers(new) == await timers(old)
        assert await after.reply("command-1") == Reply("command-1")
        assert [each async for each in after.decisions()] == [each async for each in before.decisions()] != []
        assert (await after.leases()).workers == ()
        async with new.transaction() as transaction:
            assert await after.claim(transaction, [("shop", "1")]) == set()
            assert await after.answer(transaction, "key-1") == response()
        for store in (old, new):
            await publish(store, "130", "131")
        assert [(each.position, each.previous) for each in await everything(new)] == [
            (each.position, each.previous) for each in await everything(old)
        ]


async def test_a_store_whose_new_epoch_has_nothing_yet_goes_on_behind_the_last_one(
    url: Callable[[str, str], str],
) -> None:
    old, new = (make_store(url("sqlite", name), SERVICE) for name in ("old", "new"))
    async with opened(old, new):
        await publish(old, "1", "2")
        await Books(old, SERVICE).save_relay_position(await old.new_epoch(2, old.source), 2)
        assert (await move(old, new, SERVICE)).records == 0
        await publish(new, "3")
        [found] = await everything(new)
        assert (found.position, found.previous) == (3, 0), "behind what the relay believes to have sent"


async def test_what_retention_has_left_among_others_stays_behind_and_its_time_is_kept(
    url: Callable[[str, str], str],
) -> None:
    now = [2000.0]
    old = SqliteStore(url("sqlite", "old"), SERVICE, now=lambda: now[0])
    new = make_store(url("sqlite", "new"), SERVICE)
    async with opened(old, new):
        for number, at in enumerate((1000.0, 3000.0, 1001.0, 3001.0), 1):  # clocks of several processes
            now[0] = at
            await publish(old, str(number))
        books = Books(old, SERVICE)
        await books.save_relay_position(old.source, 4)
        await books.note_pruning(2000.0)
        assert await old.outbox_prune(2000.0, 3, 100) == 2
        assert texts(await everything(old)) == ["2", "4"]
        await move(old, new, SERVICE)
        assert texts(await everything(new)) == ["4"]
        assert await new.outbox_heads() == await old.outbox_heads()
        left = await Books(new, SERVICE).pruned_before()
        assert left is not None
        assert left > 1704067200  # when "2" says that it was published


async def test_an_outbox_that_is_not_the_same_in_the_end_is_told_of(
    url: Callable[[str, str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (make_store(url("sqlite", name), SERVICE) for name in ("old", "new"))
    monkeypatch.setattr(moving, "_anew", lambda each: OutboxRecord(each.topic, each.partition, "", b"{}", b"other"))
    async with opened(old, new):
        await publish(old, "1", "2")
        with pytest.raises(UsageError, match="after position 0 the new outbox is not as the old one"):
            await move(old, new, SERVICE)


async def test_what_cannot_be_moved_is_refused(url: Callable[[str, str], str]) -> None:
    old, used, memory = (
        make_store(url("sqlite", "old"), SERVICE),
        make_store(url("sqlite", "used"), SERVICE),
        MemoryStore(SERVICE),
    )
    async with opened(old, used, memory):
        await live(old)
        with pytest.raises(UsageError, match="MemoryStore cannot hand over, or take over, a history"):
            await move(old, memory, SERVICE)
        await publish(used, "1")
        with pytest.raises(UsageError, match="has published events of its own already"):
            await move(old, used, SERVICE)
        assert texts(await everything(used)) == ["1"]
        books = Books(used, SERVICE)
        async with used.transaction() as transaction:
            await books.save_checkpoint(transaction, PARTITION, await books.checkpoint(PARTITION))
        with pytest.raises(UsageError, match="has checkpoints of its own already: the service has run there"):
            await move(old, used, SERVICE)
