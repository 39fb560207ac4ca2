"""What steps on documents refuse, what a crash inside their commit leaves, and two relays that collect at once."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import uuid4

import pytest
from servers import MongoDbServer
from tests.unit.engine.schemas import NOTES
from tests.unit.stores.views import TOTALS, Deposited, Total, make_totals, running

from ensue import EngineConfig, Event, Message, Service, Step, TableRepository, UsageError
from ensue.brokers.memory import MemoryBroker
from ensue.codec import encode_envelope
from ensue.config import Settings
from ensue.conformance.store_suite import check_chain, letter, response, texts
from ensue.engine.books import Books
from ensue.engine.runtime import Runtime
from ensue.errors import RetryableError, StoreUnavailable
from ensue.message import Checkpoint, DeadLetterState, Envelope, OutboxRecord, Partition
from ensue.ports import Store, Table
from ensue.stores.mongodb import MongoDbStore
from ensue.stores.mongodb import outbox as mongodb_outbox
from ensue.stores.mongodb import own as mongodb_own
from ensue.stores.redis import RedisStore

TABLE = Table("accounts", ("id", "balance"), "id")


class Crash(Exception):
    """Ends a commit where it is; what was written stays written."""


def crashing_at(name: str) -> Callable[[str], None]:
    def reached(point: str) -> None:
        if point == name:
            raise Crash(name)

    return reached


@pytest.fixture
def url(mongodb_server: MongoDbServer) -> str:
    return mongodb_server.url(f"steps{uuid4().hex[:8]}")


def record(text: str, partition: int = 0) -> OutboxRecord:
    envelope = encode_envelope(Envelope(id=uuid4().hex, type="T", time="2024-01-01T00:00:00Z"))
    return OutboxRecord("orders", partition, "a", envelope, text.encode())


def message(position: int, key: str = "a", source: str = "s/1") -> Message:
    return Message("savings", 0, position or 1, key, source, position, 0, Envelope(id=f"id-{position}", type="T"), b"")


# --- refusals


async def test_a_step_from_outside_changes_one_entity_or_nothing(url: str) -> None:
    store = MongoDbStore(url, "orders")
    await store.open()
    try:
        with pytest.raises(UsageError, match="this step changes 2 entities"):
            async with store.transaction() as transaction:
                await transaction.insert_rows(TABLE, [("a", 1), ("b", 2)])
        with pytest.raises(UsageError, match="publishes, and changes no entity"):
            async with store.transaction() as transaction:
                await transaction.outbox_add([record("x")])
        with pytest.raises(UsageError, match="a row holds"):
            async with store.transaction() as transaction:
                await transaction.insert_rows(TABLE, [("a", 2**63)])
        assert list(await store.rows().get(TABLE, ["a", "b"])) == []
        assert list(await store.outbox_after(0, 10)) == []
    finally:
        await store.close()


def _service(**options: object) -> Service:
    return Service("fits", broker="memory://", **options)  # type: ignore[arg-type]  # by name


async def _start(service: Service, store: Store) -> None:
    runtime = Runtime(service, store, MemoryBroker("memory://fits"), Settings(database="", broker=""))
    try:
        await runtime.start(work=False)
    finally:
        await runtime.stop()


async def test_what_a_store_cannot_do_is_refused_at_start() -> None:
    class Said(Event, topic="said", key="id"):
        id: str

    redis, mongodb = RedisStore("redis://127.0.0.1:1/0", "fits"), MongoDbStore("mongodb://127.0.0.1:1/x", "fits")
    with pytest.raises(UsageError, match="publishes Said, and its database is a store for views"):
        await _start(_service(publishes=[Said]), redis)

    plain = _service(publishes=[])

    @plain.on
    async def listen(event: Said, step: Step) -> None: ...

    with pytest.raises(UsageError, match=r"handler listen of .*: in this database each entity is a document"):
        await _start(plain, mongodb)

    class Own:
        async def load(self, transaction: object, ids: object) -> dict[str, Total]:
            return {}

        async def save(self, transaction: object, changed: object, created: object) -> None: ...

    own = _service(publishes=[])

    @own.on(id="id", repository=Own())
    def total(total: Total | None, event: Said) -> None: ...

    with pytest.raises(UsageError, match="has a repository of its own"):
        await _start(own, mongodb)


async def test_publishing_for_an_entity_that_does_not_exist_is_a_dead_letter(url: str, tmp_path: Path) -> None:
    class Noted(Event, topic="noted", key="account"):
        account: str

    notes = Service("notes", publishes=[Noted], repositories=[TableRepository(Total, TOTALS)])

    @notes.on
    def note(total: Total | None, event: Deposited, step: Step) -> None:
        step.publish(Noted(account=event.account))

    broker = f"sqlite:///{tmp_path}/log.db"
    config = EngineConfig(poll_interval_s=0.05)
    ledger = Service(
        "ledger", publishes=[Deposited], database=f"sqlite:///{tmp_path}/l.db", broker=broker, engine=config
    )
    notes._given |= {"database": url, "broker": broker, "engine": config}
    async with ledger.running(), notes.running() as runtime:
        async with ledger.step() as step:
            step.publish(Deposited(account="a", amount=1))
        async with asyncio.timeout(20):
            while not (letters := await runtime.context.books.letters()):  # noqa: ASYNC110  # letters have no event for it
                await asyncio.sleep(0.02)
        assert "an event is part of its entity's document" in letters[0].error


# --- what a crash leaves


async def test_a_message_takes_effect_once_though_the_step_died_before_its_checkpoint(url: str) -> None:
    partition = Partition("orders", "savings", 0)

    async def step(store: MongoDbStore, position: int, key: str) -> bool:
        """Deposit 1 by a message; return whether it was new."""
        async with store.transaction() as transaction:
            rows = await transaction.load_rows(TABLE, ["a"])
            if transaction.took_effect(TABLE, "a", message(position, key)):
                return False
            balance = rows[0][1] + 1 if rows else 1
            await (transaction.update_rows if rows else transaction.insert_rows)(TABLE, [("a", balance)])
            transaction.attach(TABLE, "a", message(position, key), [record(str(balance))])
            books = Books(store, "orders")
            stored = await books.checkpoint(partition)
            stored.offset, stored.watermarks["s/1"] = position, position
            await books.save_checkpoint(transaction, partition, stored)
        return True

    crashing, store = MongoDbStore(url, "orders", reached=crashing_at("entities")), MongoDbStore(url, "orders")
    await crashing.open()
    await store.open()
    try:
        assert await step(store, 1, "a")
        with pytest.raises(Crash):
            await step(crashing, 5, "a")
        assert (await Books(store, "orders").checkpoint(partition)).offset == 1
        assert not await step(store, 5, "a"), "it took effect before the crash"
        assert await step(store, 4, "b"), "one of another key that was set aside and comes later"
        assert not await step(store, 4, "b")
        assert await step(store, 6, "a")
        assert await step(store, 0, "a")
        assert not await step(store, 0, "a"), "a sender without positions, by name"
        assert [tuple(row) for row in await store.rows().get(TABLE, ["a"])] == [("a", 5)]
        found = await store.outbox_after(0, 100)
        assert texts(found) == ["1", "2", "3", "4", "5"]
        check_chain(found)
    finally:
        await crashing.close()
        await store.close()


async def test_what_waits_in_a_checkpoint_is_moved_to_a_table_that_only_a_newer_ensue_knows(url: str) -> None:
    """Of two releases of Ensue on one database the older one may find what the newer one left half done."""
    crashing, store = MongoDbStore(url, "orders", reached=crashing_at("checkpoint")), MongoDbStore(url, "orders")
    await crashing.open()
    await store.open()
    try:
        with pytest.raises(Crash):
            async with crashing.transaction() as transaction:
                await transaction.insert_rows(NOTES, [("one", 1, "here", "left")])
                await Books(crashing, "orders").save_checkpoint(
                    transaction, Partition("orders", "payments", 0), Checkpoint(offset=1)
                )
        assert await Books(store, "orders").letters() == []
        assert [tuple(row) for row in await store.rows().get(NOTES, ["one"])] == [("one", 1, "here", "left")]
    finally:
        await crashing.close()
        await store.close()


@pytest.mark.parametrize("where", ["checkpoint", "moved", "settled"])
async def test_what_waits_in_a_checkpoint_is_found_whoever_died_while_it_was_moved(url: str, where: str) -> None:
    """Letters and claims are written with the checkpoint: when that is there, so are they, each of them once."""
    partition, claims = Partition("orders", "payments", 0), [("billing", "id-1"), ("billing", "id-2")]
    crashing, store = MongoDbStore(url, "orders", reached=crashing_at(where)), MongoDbStore(url, "orders")
    await crashing.open()
    await store.open()
    try:
        books = Books(store, "orders")

        async def step(through: MongoDbStore, key: str) -> None:
            async with through.transaction() as transaction:
                checkpoint = await books.checkpoint(partition)
                checkpoint.offset += 1
                await Books(through, "orders").claim(transaction, claims)
                await Books(through, "orders").add_letters(transaction, checkpoint, [letter(key), letter(key)])
                await Books(through, "orders").save_checkpoint(transaction, partition, checkpoint)

        with pytest.raises(Crash):
            await step(crashing, "a")
        assert (await books.checkpoint(partition)).offset == 1
        assert [(each.number, each.key) for each in await books.letters()] == [(1, "a"), (2, "a")]
        with pytest.raises(Crash):
            await step(crashing, "b")
        await step(store, "c")  # nobody has looked between
        assert [(each.number, each.key) for each in await books.letters()] == list(enumerate("aabbcc", 1))
        assert await books.letter_totals() == {DeadLetterState.DEAD: 6}
        async with store.transaction() as transaction:
            assert await books.claim(transaction, claims) == set()
    finally:
        await crashing.close()
        await store.close()


@pytest.mark.parametrize("where", ["answer", "entities", "answered"])
async def test_an_answer_is_given_again_if_and_only_if_its_step_took_effect(
    url: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashing, store = MongoDbStore(url, "orders", reached=crashing_at(where)), MongoDbStore(url, "orders")
    await crashing.open()
    await store.open()
    try:
        with pytest.raises(Crash):
            async with crashing.transaction() as transaction:
                await transaction.insert_rows(TABLE, [("a", 1)])
                await transaction.outbox_add([record("x")])
                await Books(crashing, "orders").keep_answer(transaction, response())
        there = bool(await store.rows().get(TABLE, ["a"]))
        assert there is (where != "answer")
        books = Books(store, "orders")
        async with store.transaction() as transaction:
            if there:
                assert await books.answer(transaction, "key-1") == response()
                return
            with pytest.raises(RetryableError, match="a step is writing it"):
                await books.answer(transaction, "key-1")
        monkeypatch.setattr(mongodb_own, "IN_DOUBT_S", 0.0)
        async with store.transaction() as transaction:
            assert await books.answer(transaction, "key-1") is None
            await transaction.insert_rows(TABLE, [("a", 1)])
            await books.keep_answer(transaction, response())
        async with store.transaction() as transaction:
            assert await books.answer(transaction, "key-1") == response()
    finally:
        await crashing.close()
        await store.close()


async def test_a_doubt_counts_from_the_writing_of_the_answer_not_from_the_beginning_of_a_slow_step(url: str) -> None:
    crashing, store = MongoDbStore(url, "orders", reached=crashing_at("answer")), MongoDbStore(url, "orders")
    await crashing.open()
    await store.open()
    try:
        with pytest.raises(Crash):
            async with crashing.transaction() as transaction:
                transaction._now -= 2 * mongodb_own.IN_DOUBT_S  # it began so long ago
                await transaction.insert_rows(TABLE, [("a", 1)])
                await Books(crashing, "orders").keep_answer(transaction, response())
        async with store.transaction() as transaction:
            with pytest.raises(RetryableError, match="a step is writing it"):
                await Books(store, "orders").answer(transaction, "key-1")
    finally:
        await crashing.close()
        await store.close()


@pytest.mark.parametrize("where", ["stamped", "inserted", "taken", "cleared"])
async def test_a_relay_that_dies_while_it_collects_leaves_nothing_twice_and_nothing_out(url: str, where: str) -> None:
    crashing, store = MongoDbStore(url, "orders", reached=crashing_at(where)), MongoDbStore(url, "orders")
    await crashing.open()
    await store.open()
    try:
        for number in range(6):
            async with store.transaction() as transaction:
                await transaction.insert_rows(TABLE, [(f"account-{number}", 0)])
                await transaction.outbox_add([record(f"{number}.{each}", each) for each in range(2)])
            if number % 2:
                with pytest.raises(Crash):
                    await crashing.outbox_after(0, 100)
        found = await store.outbox_after(0, 100)
        assert sorted(texts(found)) == [f"{number}.{each}" for number in range(6) for each in range(2)]
        assert [each.position for each in found] == list(range(1, 13))
        check_chain(found)
    finally:
        await crashing.close()
        await store.close()


async def test_two_relays_that_collect_at_once_read_the_same_and_all_of_it(url: str) -> None:
    first, second = MongoDbStore(url, "orders"), MongoDbStore(url, "orders")
    await first.open()
    await second.open()
    total = 60
    try:

        async def write() -> None:
            for number in range(total):
                async with first.transaction() as transaction:
                    await transaction.insert_rows(TABLE, [(f"account-{number}", 0)])
                    await transaction.outbox_add([record(str(number), number % 3)])

        async def follow(store: MongoDbStore) -> list[OutboxRecord]:
            seen: list[OutboxRecord] = []
            while len(seen) < total:
                seen += await store.outbox_after(seen[-1].position if seen else 0, 7)
            return seen

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            followers = [group.create_task(follow(each)) for each in (first, second)]
            group.create_task(write())
        assert followers[0].result() == followers[1].result() == await first.outbox_after(0, 1000)
        check_chain(followers[0].result())
        assert [each.position for each in followers[0].result()] == list(range(1, total + 1))
    finally:
        await first.close()
        await second.close()


class Outrun(MongoDbStore):
    """A relay's store that is never fast enough: before each look at what entities carry, steps have published more."""

    def __init__(self, url: str, publisher: MongoDbStore) -> None:
        super().__init__(url, "orders")
        self.publisher = publisher
        self.published = 0

    async def _tables(self) -> Sequence[str]:
        for _ in range(2):
            async with self.publisher.transaction() as transaction:
                self.published += 1
                await transaction.insert_rows(TABLE, [(f"account-{self.published}", 0)])
                await transaction.outbox_add([record(str(self.published), self.published % 3)])
        return await super()._tables()


async def test_a_relay_sends_though_steps_publish_faster_than_it_collects(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mongodb_outbox, "COLLECT_MAX", 2)
    publisher = MongoDbStore(url, "orders")
    relay = Outrun(url, publisher)
    await publisher.open()
    await relay.open()
    try:
        async with asyncio.timeout(60):
            heads = await relay.outbox_heads()
            assert max(heads.values()) >= 2, "what was carried when it was asked"
            await relay.outbox_prune(0.0, 0, 100)
            seen: list[OutboxRecord] = []
            for _ in range(8):
                seen += await relay.outbox_after(seen[-1].position if seen else 0, 100)
            assert len(seen) >= 16
            assert relay.published > len(seen), "the publisher was not faster"
            # Nothing is left out and nothing is late, when it is quiet at last.
            while batch := await publisher.outbox_after(seen[-1].position, 100):
                seen += batch
            assert sorted(int(text) for text in texts(seen)) == list(range(1, relay.published + 1))
            assert [each.position for each in seen] == list(range(1, len(seen) + 1))
            check_chain(seen)
            assert await relay.new_epoch(seen[-1].position, relay.source) != publisher.source
    finally:
        await publisher.close()
        await relay.close()


async def test_the_heads_are_those_of_all_that_steps_have_published(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongodb_outbox, "COLLECT_MAX", 2)
    store = MongoDbStore(url, "orders")
    await store.open()
    try:
        for number in range(3):
            async with store.transaction() as transaction:
                await transaction.insert_rows(TABLE, [(f"account-{number}", 0)])
                await transaction.outbox_add([record(f"{number}.{each}") for each in range(3)])
        assert await store.outbox_heads() == {("orders", 0): 9}
    finally:
        await store.close()


async def test_a_wait_ends_for_what_another_process_has_collected(url: str) -> None:
    waiting, other = MongoDbStore(url, "orders"), MongoDbStore(url, "orders")
    await waiting.open()
    await other.open()
    try:
        assert list(await waiting.outbox_after(0, 10)) == []
        async with other.transaction() as transaction:
            await transaction.insert_rows(TABLE, [("account", 0)])
            await transaction.outbox_add([record("x")])
        assert texts(await other.outbox_after(0, 10)) == ["x"]
        async with asyncio.timeout(30):
            await waiting.outbox_wait(3600.0)
        assert texts(await waiting.outbox_after(0, 10)) == ["x"]
    finally:
        await waiting.close()
        await other.close()


# --- the server


async def test_the_view_goes_on_after_its_server_was_killed(
    tmp_path: Path, start: Callable[..., MongoDbServer]
) -> None:
    server = start(MongoDbServer)
    async with running(tmp_path, lambda: MongoDbStore(server.url("totals"), "totals")) as pair:
        await pair.deposit(100)
        await pair.until_the_view_is_right()
        server.kill()
        await pair.deposit(30)
        server.start()
        async with asyncio.timeout(30):
            while True:
                try:
                    await pair.found()
                    break
                except StoreUnavailable:
                    await asyncio.sleep(0.05)
        await pair.until_the_view_is_right()
        assert make_totals().publishes == ()
        assert await pair.totals.context.books.letters() == []
        assert all(isinstance(each, Checkpoint) for each in (await pair.totals.context.books.checkpoints()).values())
