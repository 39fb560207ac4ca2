"""`MongoDbStore`: the `Store` port on a server of the MongoDB protocol, with nothing but one-document writes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar

from ensue.errors import StoreOutdated, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Capabilities, Table
from ensue.stores.collected import ServedStore
from ensue.stores.identity import check_ends, epoch_of
from ensue.stores.mongodb.documents import check_names, sorted_field
from ensue.stores.mongodb.outbox import Outbox
from ensue.stores.mongodb.own import OwnRows, insert_missing
from ensue.stores.mongodb.row_reader import MongoDbRows
from ensue.stores.mongodb.server import Server
from ensue.stores.mongodb.transaction import MongoDbTransaction
from ensue.tables import VERSION

T = TypeVar("T")
#: How often a relay that waits looks for what other processes did, seconds.
_LOOK_S = 0.25


class MongoDbStore(ServedStore[Server]):
    """A service's own database: `mongodb://host:27017/<database>`, by default named after the service.

    Entities are documents of collections named as their tables; Ensue's own collections begin with `ensue_`.
    reached: called with a name after each write of a step or of the relay's side, for tests that die there.
    documents_at_once: entities written in one command.
    """

    kind = "MongoDB"
    capabilities = Capabilities(sessions=False, locks=False, transactions=False)

    def __init__(
        self,
        url: str,
        service: str,
        *,
        reached: Callable[[str], None] = lambda name: None,
        documents_at_once: int = 500,
    ) -> None:
        super().__init__(service)
        self.reached = reached
        self._url = url
        self._at_once = documents_at_once
        self._news = asyncio.Event()
        self._seen = 0

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
            await insert_missing(server, "ensue_meta", [{"_id": "version", "version": VERSION}])
            meta = server.collection("ensue_meta")
            with server.translated():
                found = await meta.find_one({"_id": "version"})
                await server.collection("ensue_outbox").create_index([("topic", 1), ("partition", 1), ("_id", 1)])
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
        self.own = OwnRows(server, self.reached)

    async def now(self) -> float:
        return await self._opened().time()

    async def new_epoch(self, published_through: int, ends: str) -> str:
        self._opened()
        self._epoch = await self._outbox.new_epoch(
            published_through, lambda epoch: check_ends(self.service, epoch, epoch_of(ends))
        )
        self.notify()
        return self.source

    async def known(self, table: Table) -> None:
        """Make a table's indexes, once in a process."""
        if table in self._known:
            return
        server = self._opened()
        if not table.own:
            if table.name.startswith("ensue_"):
                raise UsageError(f"table {table.name}: names that begin with ensue_ are taken, give it another")
            check_names(table)
            await insert_missing(server, "ensue_tables", [{"_id": table.name}])
        with server.translated():
            collection = server.collection(table.name)
            for lookup in table.lookups:
                await collection.create_index(
                    [(sorted_field(table, name), 1) for name in (*lookup.equal, *lookup.order)]
                )
            if not table.own:
                await collection.create_index([("_ensue.pending", 1)], sparse=True)
        self._known[table] = True

    async def _tables(self) -> Sequence[str]:
        server = self._opened()
        with server.translated():
            return sorted(each["_id"] for each in await server.collection("ensue_tables").find().to_list())

    # --- steps and queries

    def transaction(
        self, *, upkeep: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[MongoDbTransaction]:
        return MongoDbTransaction(self, self._turns, self._opened())

    def chunks(self, writes: Sequence[T]) -> Iterator[Sequence[T]]:
        for begin in range(0, len(writes), self._at_once):
            yield writes[begin : begin + self._at_once]

    def rows(self) -> MongoDbRows:
        return MongoDbRows(self._opened(), self.known, self.own.settle)

    # --- the relay's side

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._opened()
        self._news.clear()
        state, found = await self._outbox.after(position, limit)
        self._epoch = state["epoch"]
        self._seen = state["last"]
        return found

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        self._opened()
        return await self._outbox.of(topic, partition, after, through, limit)

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        self._opened()
        return await self._outbox.heads()

    async def outbox_wait(self, timeout_s: float) -> None:
        self._opened()
        try:
            async with asyncio.timeout(timeout_s):
                while not self._news.is_set() and not await self._outbox.beyond(self._seen):
                    try:
                        async with asyncio.timeout(min(_LOOK_S, timeout_s)):
                            await self._news.wait()
                    except TimeoutError:
                        continue
        except TimeoutError:
            return

    def notify(self) -> None:
        """Entities of this process carry something: whoever waits here need not look for it."""
        self._news.set()

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        await self.own.forget(before_s, await self._opened().time())
        return await self._outbox.prune(before_s, through, limit)
