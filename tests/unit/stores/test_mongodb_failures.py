"""Writes to a MongoDB server that fail in a way that the server of these tests never does, and letters settled late."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import uuid4

import pytest
from pymongo.errors import BulkWriteError, ExecutionTimeout, OperationFailure, WriteConcernError, WTimeoutError
from servers import MongoDbServer

from ensue.conformance.store_suite import PARTITION, letter
from ensue.engine.books import Books
from ensue.errors import StoreConflict, StoreUnavailable
from ensue.message import Checkpoint, DeadLetter
from ensue.ports import Table
from ensue.stores.mongodb import MongoDbStore
from ensue.stores.mongodb import own as mongodb_own

TABLE = Table("accounts", ("id", "balance"), "id")
STEPPED_DOWN = {"code": 189, "codeName": "PrimarySteppedDown", "errmsg": "the primary stepped down while it waited"}


@pytest.fixture
def url(mongodb_server: MongoDbServer) -> str:
    return mongodb_server.url(f"failing{uuid4().hex[:8]}")


def bulk_error(**details: Any) -> BulkWriteError:
    """As pymongo raises it: nothing done and nothing wrong but what `details` says."""
    nothing = dict.fromkeys(("nInserted", "nUpserted", "nMatched", "nModified", "nRemoved"), 0)
    return BulkWriteError({"writeErrors": [], "writeConcernErrors": [], "upserted": [], **nothing, **details})


@contextmanager
def failing(store: MongoDbStore, name: str, method: str, error: Exception) -> Iterator[None]:
    """The collection does what it is told, and raises `error` instead of the answer."""
    server = store._opened()
    collection = server.collection

    class Failing:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            found = getattr(self._real, name)
            if name != method:
                return found

            async def work(*arguments: Any, **named: Any) -> Any:
                await found(*arguments, **named)
                raise error

            return work

    def wrapped(asked: str) -> Any:
        return Failing(collection(asked)) if asked == name else collection(asked)

    server.collection = wrapped  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        server.collection = collection  # type: ignore[method-assign]


@asynccontextmanager
async def _opened(url: str, **options: Any) -> AsyncIterator[MongoDbStore]:
    store = MongoDbStore(url, "orders", **options)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def _insert(store: MongoDbStore, rows: Sequence[tuple[str, int]]) -> None:
    async with store.transaction() as transaction:
        await transaction.insert_rows(TABLE, rows)


async def test_a_step_whose_entity_no_majority_has_is_not_done(url: str) -> None:
    async with _opened(url) as store:
        with (
            failing(store, "accounts", "bulk_write", bulk_error(nInserted=1, writeConcernErrors=[STEPPED_DOWN])),
            pytest.raises(StoreUnavailable, match="not known: code 189: the primary stepped down") as caught,
        ):
            await _insert(store, [("a", 1)])
        assert not isinstance(caught.value, StoreConflict)  # that would say that it was not written


async def test_a_write_that_no_majority_has_is_not_a_conflict_though_another_document_was_there(url: str) -> None:
    both = bulk_error(writeErrors=[{"index": 0, "code": 11000, "errmsg": "E11000"}], writeConcernErrors=[STEPPED_DOWN])
    async with _opened(url) as store:
        with failing(store, "accounts", "bulk_write", both), pytest.raises(StoreUnavailable) as caught:
            await _insert(store, [("a", 1)])
        assert not isinstance(caught.value, StoreConflict)


async def test_claims_that_no_majority_has_are_made_again_from_their_checkpoint(url: str) -> None:
    claims = [("orders/1", "id-1")]
    async with _opened(url) as store:
        books = Books(store, "orders")
        with (
            failing(store, "ensue_inbox", "insert_many", bulk_error(nInserted=1, writeConcernErrors=[STEPPED_DOWN])),
            pytest.raises(StoreUnavailable, match="not known"),
        ):
            async with store.transaction() as transaction:
                assert await books.claim(transaction, claims) == set(claims)
                await books.save_checkpoint(transaction, PARTITION, Checkpoint())
        await store._opened().collection("ensue_inbox").delete_many({})  # as the server may have done
        async with store.transaction() as transaction:
            assert await books.claim(transaction, claims) == set()


async def test_a_checkpoint_that_no_majority_has_is_not_moved_for_certain(url: str) -> None:
    async with _opened(url) as store:
        with (
            failing(store, "ensue_checkpoint", "insert_one", WriteConcernError("no majority", 64, {})),
            pytest.raises(StoreUnavailable, match="cannot do it now"),
        ):
            await _set_aside(store)


async def test_documents_there_already_and_documents_changed_meanwhile_are_both_counted(
    url: str,
) -> None:
    """One step inserts `c`, which is there by now, and replaces `a` and `b`, of which `b` is not as it was read."""
    async with _opened(url) as store, _opened(url) as other:
        await _insert(store, [("a", 1)])
        await _insert(store, [("b", 1)])
        with pytest.raises(StoreConflict, match="changed 2 documents of accounts"):
            async with store.transaction() as transaction:
                await transaction.load_rows(TABLE, ["a", "b", "c"])
                await transaction.update_rows(TABLE, [("a", 2), ("b", 2)])
                await transaction.insert_rows(TABLE, [("c", 2)])
                for row_id in "abc":
                    transaction._tables["accounts"][1][row_id].from_message = True
                async with other.transaction() as meanwhile:
                    await meanwhile.load_rows(TABLE, ["b"])
                    await meanwhile.update_rows(TABLE, [("b", 9)])
                await _insert(other, [("c", 9)])
        assert sorted(tuple(row) for row in await store.rows().get(TABLE, ["b", "c"])) == [("b", 9), ("c", 9)]


@pytest.mark.parametrize(
    "error",
    [
        WriteConcernError("no majority", 64, {}),
        WriteConcernError("the nodes do not exist", 100, {}),
        WTimeoutError("in time", 64, {}),
        ExecutionTimeout("too long", 50, {}),
        bulk_error(writeErrors=[{"index": 0, "code": 11602, "errmsg": "interrupted by a change of state"}]),
        *(OperationFailure("not now", code) for code in (6, 7, 43, 89, 91, 112, 189, 262, 9001)),
        *(OperationFailure("not now", code) for code in (10107, 11600, 11602, 13435, 13436)),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.code}",
)
async def test_a_server_that_cannot_do_it_now_is_unavailable(url: str, error: OperationFailure) -> None:
    async with _opened(url) as store:
        with pytest.raises(StoreUnavailable, match="cannot do it now"), store._opened().translated():
            raise error


@pytest.mark.parametrize(
    "error",
    [
        OperationFailure("a document too large", 10334),
        bulk_error(writeErrors=[{"index": 0, "code": 121, "errmsg": "document failed validation"}]),
    ],
)
async def test_what_a_server_refuses_for_good_is_not_called_unavailable(url: str, error: OperationFailure) -> None:
    async with _opened(url) as store:
        with pytest.raises(OperationFailure) as caught, store._opened().translated():
            raise error
        assert caught.value is error


# --- dead letters


async def _set_aside(store: MongoDbStore) -> None:
    books = Books(store, "orders")
    async with store.transaction() as transaction:
        checkpoint = await books.checkpoint(PARTITION)
        await books.add_letters(transaction, checkpoint, [letter()])
        await books.save_checkpoint(transaction, PARTITION, checkpoint)


async def _remove(store: MongoDbStore) -> DeadLetter:
    """Put the only letter through."""
    books = Books(store, "orders")
    (found,) = await books.letters()
    async with store.transaction() as transaction:
        await books.remove_letter(transaction, found)
        await books.save_checkpoint(transaction, PARTITION, await books.checkpoint(PARTITION))
    return found


async def test_a_letter_that_was_removed_does_not_come_back_when_somebody_settles_late(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(point: str) -> None:
        if point == "checkpoint":  # before it moves its own letter, which waits in the checkpoint
            raise ConnectionAbortedError

    async with _opened(url, reached=dies) as dying:
        with pytest.raises(ConnectionAbortedError):
            await _set_aside(dying)
    async with _opened(url) as store, _opened(url) as late:
        insert, removed = mongodb_own.insert_missing, list[DeadLetter]()

        async def held(server: Any, name: str, documents: Sequence[Any]) -> None:
            """What `late` read is inserted only after the letter was settled, retried and removed by `store`."""
            if server is late._opened() and name == "ensue_dead_letter" and not removed:
                removed.append(await _remove(store))
            await insert(server, name, documents)

        monkeypatch.setattr(mongodb_own, "insert_missing", held)
        books = Books(late, "orders")
        assert await books.letters() == []
        [letter] = removed
        assert await books.letter(letter.id) is None
        assert await books.letters(PARTITION) == []
        assert await books.letter_totals() == {}
        assert await books.letter_counts() == {}


async def test_the_mark_of_a_letter_that_was_removed_goes_when_it_is_old(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with _opened(url) as store:
        await _set_aside(store)
        await _remove(store)
        await _set_aside(store)
        documents = store._opened().collection("ensue_dead_letter")
        assert await documents.count_documents({}) == 2
        await store.outbox_prune(1e12, 0, 10)
        assert await documents.count_documents({}) == 2, "it is not old"
        monkeypatch.setattr(mongodb_own, "REMEMBERED_S", -1.0)
        await store.outbox_prune(1e12, 0, 10)
        assert await documents.count_documents({}) == 1
        assert len(await Books(store, "orders").letters()) == 1
