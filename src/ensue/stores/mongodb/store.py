"""`MongoDbStore`: the `Store` port on a server of the MongoDB protocol, with nothing but one-document writes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from ensue.errors import StoreOutdated, UsageError
from ensue.message import Checkpoint, Counters, DeadLetter, DeadLetterState, Gap, LeaseTable, OutboxRecord, Partition
from ensue.ports import Capabilities, Table
from ensue.stores import rules
from ensue.stores.mongodb import records
from ensue.stores.mongodb.outbox import Outbox
from ensue.stores.mongodb.records import Answers, Letters
from ensue.stores.mongodb.row_reader import MongoDbRows, field
from ensue.stores.mongodb.server import Document, Server
from ensue.stores.mongodb.transaction import MongoDbTransaction
from ensue.stores.mongodb.workers import Workers

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

T = TypeVar("T")
VERSION = 1
#: How often a relay that waits looks for what other processes did, seconds.
_LOOK_S = 0.25


class _State(msgspec.Struct):
    """What of a checkpoint is written whole with each commit."""

    offset: int
    watermarks: dict[str, int]
    gaps: dict[str, Gap]
    counters: Counters


_encode = msgspec.msgpack.Encoder().encode
_decode_state = msgspec.msgpack.Decoder(_State).decode
_decode_partition = msgspec.msgpack.Decoder(Partition).decode


class MongoDbStore:
    """A service's own database: `mongodb://host:27017/<database>`, by default named after the service.

    Entities are documents of collections named as their tables; Ensue's own collections begin with `ensue_`.
    reached: called with a name after each write of a step or of the relay's side, for tests that die there.
    documents_at_once: entities written in one command.
    """

    capabilities = Capabilities(sessions=False, locks=False, transactions=False)

    def __init__(
        self,
        url: str,
        service: str,
        *,
        reached: Callable[[str], None] = lambda name: None,
        documents_at_once: int = 500,
    ) -> None:
        self.service = service
        self.reached = reached
        self._url = url
        self._at_once = documents_at_once
        self._server: Server | None = None
        self._epoch = ""
        self._known: set[Table] = set()
        self._steps = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._news = asyncio.Event()
        self._seen = (0, 0)

    # --- open and close

    def _make_server(self) -> Server:
        return Server(self._url, self.service)

    async def exists(self) -> bool:
        server = self._server or self._make_server()
        try:
            return "ensue_meta" in await server.names()
        finally:
            if server is not self._server:
                await server.close()

    async def open(self) -> None:
        if self._server is not None:
            return
        server = self._make_server()
        try:
            outbox = Outbox(server, self._tables, self.reached)
            await records.insert_missing(server, "ensue_meta", [{"_id": "version", "version": VERSION}])
            meta = server.collection("ensue_meta")
            with server.translated():
                found = await meta.find_one({"_id": "version"})
                await server.collection("ensue_dead_letters").create_index([("of", 1), ("_id", 1)])
                await server.collection("ensue_outbox").create_index([("topic", 1), ("partition", 1), ("_id", 1)])
                await server.collection("ensue_inbox").create_index([("at", 1)])
                await server.collection("ensue_responses").create_index([("at", 1)])
            if found is None or found["version"] != VERSION:
                version = None if found is None else found["version"]
                raise StoreOutdated(
                    f"{server.place}: Ensue's collections are of version {version}, expected {VERSION}",
                    found=version,
                    expected=VERSION,
                )
            self._epoch = (await outbox.open())["epoch"]
        except BaseException:
            await server.close()
            raise
        self._server = server
        self._outbox = outbox
        self._workers = Workers(server)
        self.letters = Letters(server)
        self.answers = Answers(server)

    async def close(self) -> None:
        await self._quiet.wait()
        server, self._server = self._server, None
        self._known.clear()
        if server is not None:
            await server.close()

    def _opened(self) -> Server:
        if self._server is None:
            raise UsageError(f"the MongoDB store of {self.service} is not open: call open() first")
        return self._server

    async def create_tables(self, metadata: MetaData) -> None:
        raise records.no_sessions()

    async def missing_tables(self, metadata: MetaData) -> Sequence[str]:
        raise records.no_sessions()

    @property
    def source(self) -> str:
        return f"{self.service}/{self._epoch}"

    async def new_epoch(self, published_through: int) -> str:
        self._opened()
        self._epoch = await self._outbox.new_epoch(published_through)
        await self._wake()
        return self.source

    async def known(self, table: Table) -> None:
        """Make a table's indexes, once in a process."""
        if table in self._known:
            return
        server = self._opened()
        if table.name.startswith("ensue_"):
            raise UsageError(f"table {table.name}: names that begin with ensue_ are taken, give it another")
        await records.insert_missing(server, "ensue_tables", [{"_id": table.name}])
        with server.translated():
            collection = server.collection(table.name)
            for lookup in table.lookups:
                await collection.create_index([(field(table, name), 1) for name in (*lookup.equal, *lookup.order)])
            await collection.create_index([("_ensue.pending", 1)], sparse=True)
        self._known.add(table)

    async def _tables(self) -> Sequence[str]:
        server = self._opened()
        with server.translated():
            return sorted(each["_id"] for each in await server.collection("ensue_tables").find().to_list())

    # --- steps and queries

    def transaction(self) -> AbstractAsyncContextManager[MongoDbTransaction]:
        return MongoDbTransaction(self, self._opened())

    def begin(self) -> None:
        self._steps += 1
        self._quiet.clear()

    def end(self) -> None:
        self._steps -= 1
        if not self._steps:
            self._quiet.set()

    def chunks(self, writes: Sequence[T]) -> Iterator[Sequence[T]]:
        for begin in range(0, len(writes), self._at_once):
            yield writes[begin : begin + self._at_once]

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise records.no_sessions()

    def rows(self) -> MongoDbRows:
        return MongoDbRows(self._opened(), self.known)

    # --- the relay's side

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._opened()
        self._news.clear()
        changed = await self._changed()
        state, found = await self._outbox.after(position, limit)
        self._epoch = state["epoch"]
        self._seen = (changed, state["last"])
        return found

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        self._opened()
        return await self._outbox.of(topic, partition, after, through, limit)

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        self._opened()
        return await self._outbox.heads()

    async def outbox_get(self, position: int) -> OutboxRecord | None:
        self._opened()
        return await self._outbox.get(position)

    async def outbox_wait(self, timeout_s: float) -> None:
        self._opened()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._news.is_set() and not await self._is_news():
                    try:
                        async with asyncio.timeout(min(_LOOK_S, timeout_s)):
                            await self._news.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            return

    async def _is_news(self) -> bool:
        return await self._changed() != self._seen[0] or await self._outbox.beyond(self._seen[1])

    def notify(self) -> None:
        """Entities of this process carry something: whoever waits here need not look for it."""
        self._news.set()

    async def _changed(self) -> int:
        with self._opened().translated():
            found = await self._opened().collection("ensue_meta").find_one({"_id": "changed"})
        return 0 if found is None else int(found["count"])

    async def _wake(self) -> None:
        server = self._opened()
        with server.translated():
            await server.collection("ensue_meta").update_one({"_id": "changed"}, {"$inc": {"count": 1}}, upsert=True)
        self._news.set()

    async def relay_load(self) -> int:
        self._opened()
        return await self._outbox.relay_load()

    async def relay_save(self, position: int) -> None:
        self._opened()
        await self._outbox.relay_save(position)

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        self._opened()
        return await self._outbox.prune(before_s, through, limit)

    # --- the consumer's side

    async def checkpoint_load(self, partition: Partition) -> Checkpoint:
        server = self._opened()
        with server.translated():
            found = await server.collection("ensue_checkpoints").find_one({"_id": str(partition)})
        return _checkpoint_of(found)

    async def revision(self, partition: Partition) -> int:
        return (await self.checkpoint_load(partition)).revision

    async def write_checkpoint(
        self, partition: Partition, checkpoint: Checkpoint, sources: Sequence[str], letters: Sequence[DeadLetter]
    ) -> None:
        """Store it with the letters of its step in one write, if the revision is what it says."""
        server = self._opened()
        await self.letters.settle()  # those of the step before, if a crash came between
        collection = server.collection("ensue_checkpoints")
        with server.translated():
            found = await collection.find_one({"_id": str(partition)})
        stored = _checkpoint_of(found)
        watermarks = {**stored.watermarks, **{source: checkpoint.watermarks[source] for source in sources}}
        document: Document = {
            "partition": _encode(partition),
            "revision": checkpoint.revision + 1,
            "state": _encode(_State(checkpoint.offset, watermarks, checkpoint.gaps, checkpoint.counters)),
            "letters": [records.letter_document(each) for each in letters],
        }
        name = str(partition)
        if stored.revision != checkpoint.revision:
            raise rules.checkpoint_moved(partition, checkpoint.revision)
        with server.translated():
            if checkpoint.revision:
                guard = {"_id": name, "revision": checkpoint.revision}
                done = (await collection.replace_one(guard, document)).matched_count
            else:
                done = await _insert(server, "ensue_checkpoints", {"_id": name, **document})
        if not done:
            raise rules.checkpoint_moved(partition, checkpoint.revision)

    async def checkpoints(self) -> Mapping[Partition, Checkpoint]:
        server = self._opened()
        with server.translated():
            found = await server.collection("ensue_checkpoints").find().to_list()
        return {_decode_partition(each["partition"]): _checkpoint_of(each) for each in found}

    async def accept_loss(self, partition: Partition, source: str) -> int:
        async with self.transaction() as transaction:
            checkpoint = await self.checkpoint_load(partition)
            gap = checkpoint.gaps.get(source)
            left = rules.accepted(partition, source, gap)
            assert gap is not None
            checkpoint.watermarks[source] = gap.lost_through
            del checkpoint.gaps[source]
            if left is not None:
                checkpoint.gaps[source] = left
            await transaction.save_checkpoint(partition, checkpoint, (source,))
        await self._wake()
        return gap.lost_through

    async def dead_letters(
        self, partition: Partition | None = None, states: Sequence[DeadLetterState] = (), limit: int = 1000
    ) -> Sequence[DeadLetter]:
        self._opened()
        return await self.letters.find(partition, states, limit)

    async def dead_letter_get(self, letter_id: int) -> DeadLetter | None:
        self._opened()
        return await self.letters.get(letter_id)

    async def dead_letter_counts(self) -> Mapping[tuple[Partition, DeadLetterState], int]:
        return Counter((letter.partition, letter.state) for letter in await self.dead_letters(limit=1_000_000))

    async def dead_letter_decide(self, letter_id: int, state: DeadLetterState) -> DeadLetter:
        async with self.transaction() as transaction:
            letter = rules.check_decision(letter_id, await self.dead_letter_get(letter_id), state)
            letter.state = state
            await transaction.dead_letter_change(letter)
        await self._wake()
        return letter

    # --- claims and answers

    async def claimed(self, names: Sequence[str]) -> set[str]:
        server = self._opened()
        with server.translated():
            found = await server.collection("ensue_inbox").find({"_id": {"$in": list(names)}}, {"_id": 1}).to_list()
        return {each["_id"] for each in found}

    async def claim(self, names: Sequence[str], now: float) -> None:
        await records.insert_missing(self._opened(), "ensue_inbox", [{"_id": each, "at": now} for each in names])

    async def inbox_prune(self, before_s: float, limit: int) -> int:
        await self.letters.forget(before_s, await self._opened().time())
        return await self._prune("ensue_inbox", before_s, limit)

    async def responses_prune(self, before_s: float, limit: int) -> int:
        return await self._prune("ensue_responses", before_s, limit)

    async def _prune(self, name: str, before_s: float, limit: int) -> int:
        server = self._opened()
        with server.translated():
            collection = server.collection(name)
            found = await collection.find({"at": {"$lt": before_s}}, {"_id": 1}).limit(limit).to_list()
            done = await collection.delete_many({"_id": {"$in": [each["_id"] for each in found]}})
        return int(done.deleted_count)

    # --- workers of one service

    async def heartbeat(self, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]) -> LeaseTable:
        self._opened()
        return await self._workers.heartbeat(worker, ttl_s, acquire, release)

    async def leases(self) -> LeaseTable:
        self._opened()
        return await self._workers.table()

    async def resign(self, worker: str) -> None:
        self._opened()
        await self._workers.resign(worker)

    async def hindrances(self) -> Sequence[str]:
        return ()


def _checkpoint_of(document: Mapping[str, Any] | None) -> Checkpoint:
    if document is None:
        return Checkpoint()
    state = _decode_state(document["state"])
    return Checkpoint(state.offset, document["revision"], state.watermarks, state.gaps, state.counters)


async def _insert(server: Server, name: str, document: Document) -> bool:
    """Return whether it was not there yet."""
    from pymongo.errors import DuplicateKeyError

    try:
        await server.collection(name).insert_one(document)
    except DuplicateKeyError:
        return False
    return True
