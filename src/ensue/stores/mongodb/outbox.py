"""The relay's side: events are collected from the entities that carry them, and get their positions here.

One document, `outbox`, says what positions there are. Whoever collects writes the batch that it is about to collect
into that document (compare and set), inserts the records under their positions, takes them out of the entities, and
clears the batch. Each of these steps may be done twice, by anybody: so a crash, or two relays, do no harm, positions
are dense, and a record is read only when all below it are there.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from ensue.errors import StoreConflict
from ensue.message import OutboxRecord
from ensue.stores.mongodb.own import insert_missing
from ensue.stores.mongodb.server import Document, Server

_ID = "outbox"
#: Events collected at once; a record of the batch is some 100 bytes in the document that is written twice for it.
COLLECT_MAX = 500
_RECORDS = "ensue_outbox"
Place = tuple[str, int]


class Outbox:
    """tables: names of the collections whose documents may carry events. reached: see MongoDbStore."""

    def __init__(
        self, server: Server, tables: Callable[[], Awaitable[Sequence[str]]], reached: Callable[[str], None]
    ) -> None:
        self._server = server
        self._tables = tables
        self._reached = reached
        self._meta = server.collection("ensue_meta")
        self._records = server.collection(_RECORDS)

    async def open(self) -> Document:
        """Make the document if there is none; return it."""
        fresh = {
            "_id": _ID, "version": 1, "epoch": secrets.token_hex(4), "last": 0, "first": 1, "heads": [], "starts": [],
            "batch": [],
        }  # fmt: skip
        await insert_missing(self._server, "ensue_meta", [fresh])
        return await self._state()

    async def _state(self) -> Document:
        with self._server.translated():
            found = await self._meta.find_one({"_id": _ID})
        if found is None:
            raise StoreConflict(f"{self._server.place}: ensue_meta was emptied while the store is open")
        return found

    async def collect(self) -> Document:
        """Give positions to up to COLLECT_MAX of the events that are carried now; return the state after it.

        One batch, and not until there is none: while steps publish faster than that, there always is one.
        """
        state = await self._settled()
        if carried := await self._carried():
            if await self._replace(state, _stamped(state, carried)):
                self._reached("stamped")
            state = await self._settled()
        return state

    async def _settled(self) -> Document:
        """Return the state without a batch: one that somebody has begun is finished first."""
        state = await self._state()
        return await self._finish(state) if state["batch"] else state

    async def beyond(self, position: int) -> bool:
        """Whether there is an event after this position, or one that has none yet."""
        if (await self._state())["last"] > position:
            return True
        for name in await self._tables():
            with self._server.translated():
                if await self._server.collection(name).find_one({"_ensue.pending": {"$gt": 0}}, {"_id": 1}):
                    return True
        return False

    async def _carried(self) -> list[tuple[str, Document]]:
        """(collection, document) of entities that carry events, those that began to first, up to COLLECT_MAX events."""
        found: list[tuple[str, Document]] = []
        for name in await self._tables():
            with self._server.translated():
                documents = (
                    await self._server.collection(name)
                    .find({"_ensue.pending": {"$gt": 0}}, {"_ensue.outbox": 1, "_ensue.pending": 1})
                    .sort("_ensue.pending", 1)
                    .limit(COLLECT_MAX)
                    .to_list()
                )
            found += [(name, each) for each in documents]
        return sorted(found, key=lambda each: float(each[1]["_ensue"]["pending"]))

    async def _carried_total(self) -> int:
        """How many events are carried now."""
        total = 0
        for name in await self._tables():
            where = {"_ensue.pending": {"$gt": 0}}
            with self._server.translated():
                async for each in self._server.collection(name).find(where, {"_ensue.outbox.n": 1}):
                    total += len(each["_ensue"]["outbox"])
        return total

    async def _replace(self, state: Document, fresh: Document) -> bool:
        fresh["version"] = state["version"] + 1
        with self._server.translated():
            done = await self._meta.replace_one({"_id": _ID, "version": state["version"]}, fresh)
        return bool(done.matched_count)

    async def _finish(self, state: Document) -> Document:
        """Insert the batch's records, take its events from their entities, clear it; return the state after it.

        All of it may be done again.
        """
        events: dict[tuple[str, Any, int], Document] = {}
        entities: dict[tuple[str, Any], int] = {}
        for each in state["batch"]:
            name, row_id, number = each["table"], each["id"], each["n"]
            entities[name, row_id] = max(number, entities.get((name, row_id), 0))
        for name, row_id in entities:
            with self._server.translated():
                found = await self._server.collection(name).find_one({"_id": row_id}, {"_ensue.outbox": 1})
            for each in found["_ensue"]["outbox"] if found else ():
                events[name, row_id, each["n"]] = each
        records = [
            {
                "_id": each["position"], "previous": each["previous"], "at": each["at"], "topic": event["topic"],
                "partition": event["partition"], "key": event["key"], "envelope": event["envelope"],
                "data": event["data"],
            }
            for each in state["batch"]
            if (event := events.get((each["table"], each["id"], each["n"]))) is not None
        ]  # fmt: skip
        if records:
            await insert_missing(self._server, _RECORDS, records)
        self._reached("inserted")
        for (name, row_id), number in entities.items():
            await self._take(name, row_id, number)
            self._reached("taken")
        cleared = {**state, "batch": []}
        await self._replace(state, cleared)
        self._reached("cleared")
        return cleared

    async def _take(self, name: str, row_id: Any, through: int) -> None:
        """Take events up to number `through` from an entity. Its version moves, so that no step writes them back."""
        collection = self._server.collection(name)
        while True:
            with self._server.translated():
                found = await collection.find_one({"_id": row_id}, {"_ensue.outbox": 1, "_ensue.version": 1})
            if found is None or not any(each["n"] <= through for each in found["_ensue"]["outbox"]):
                return
            left = [each for each in found["_ensue"]["outbox"] if each["n"] > through]
            version = found["_ensue"]["version"]
            change: Document = {"$set": {"_ensue.outbox": left, "_ensue.version": version + 1}}
            if not left:
                change["$unset"] = {"_ensue.pending": ""}
            with self._server.translated():
                done = await collection.update_one({"_id": row_id, "_ensue.version": version}, change)
            if done.matched_count:
                return

    # --- reading

    async def after(self, position: int, limit: int) -> tuple[Document, Sequence[OutboxRecord]]:
        state = await self.collect()
        where = {"_id": {"$gt": max(position, state["first"] - 1), "$lte": state["last"]}}
        return state, await self._find(state, where, limit)

    async def of(self, topic: str, partition: int, after: int, through: int, limit: int) -> Sequence[OutboxRecord]:
        state = await self._settled()
        where = {
            "topic": topic,
            "partition": partition,
            "_id": {"$gt": max(after, state["first"] - 1), "$lte": min(through, state["last"])},
        }
        return await self._find(state, where, limit)

    async def _find(self, state: Document, where: Document, limit: int) -> list[OutboxRecord]:
        starts = set(state["starts"])
        with self._server.translated():
            found = await self._records.find(where).sort("_id", 1).limit(limit).to_list()
        return [
            OutboxRecord(
                each["topic"], each["partition"], each["key"], each["envelope"], each["data"], each["_id"],
                0 if each["_id"] in starts else each["previous"],
            )
            for each in found
        ]  # fmt: skip

    async def heads(self) -> Mapping[Place, int]:
        """Heads of all that was carried when it was asked; of what steps publish meanwhile, perhaps not."""
        total = await self._carried_total()
        state = await self._settled()
        through = state["last"] + total
        while state["last"] < through:
            before, state = state, await self.collect()
            if state["last"] == before["last"]:
                break  # another relay has taken the rest
        return _heads(state)

    # --- pruning, epochs

    async def prune(self, before_s: float, through: int, limit: int) -> int:
        state = await self._settled()
        where = {"_id": {"$lte": min(through, state["last"])}, "at": {"$lt": before_s}}
        with self._server.translated():
            found = await self._records.find(where, {"_id": 1}).sort("_id", 1).limit(limit).to_list()
            done = await self._records.delete_many({"_id": {"$in": [each["_id"] for each in found]}})
        return int(done.deleted_count)

    async def new_epoch(self, published_through: int, check: Callable[[str], None]) -> str:
        """Return the name of the new one. check: raises UsageError unless the epoch that there is may end."""
        while True:
            state = await self.collect()
            check(state["epoch"])
            left = await self._find(state, {"_id": {"$gt": published_through, "$lte": state["last"]}}, 2**31 - 1)
            heads: dict[Place, int] = {}
            starts = []
            for record in left:
                place = (record.topic, record.partition)
                if place not in heads:
                    starts.append(record.position)
                heads[place] = record.position
            epoch = secrets.token_hex(4)
            fresh = {
                **state, "epoch": epoch, "last": max(state["last"], published_through), "first": published_through + 1,
                "heads": _listed(heads), "starts": starts,
            }  # fmt: skip
            if await self._replace(state, fresh):
                return epoch


def _stamped(state: Document, carried: Sequence[tuple[str, Document]]) -> Document:
    """The state with the next positions given to what is carried, an entity's events in their order."""
    heads = _heads(state)
    position = int(state["last"])
    batch: list[Document] = []
    for name, document in carried:
        own = document["_ensue"]
        for event in own["outbox"]:
            if len(batch) == COLLECT_MAX:
                break
            position += 1
            place = (event["topic"], event["partition"])
            batch.append(
                {
                    "table": name, "id": document["_id"], "n": event["n"], "position": position,
                    "previous": heads.get(place, 0), "at": own["pending"],
                }
            )  # fmt: skip
            heads[place] = position
    return {**state, "last": position, "heads": _listed(heads), "batch": batch}


def _heads(state: Document) -> dict[Place, int]:
    return {(each["topic"], each["partition"]): each["position"] for each in state["heads"]}


def _listed(heads: Mapping[Place, int]) -> list[Document]:
    return [{"topic": topic, "partition": number, "position": each} for (topic, number), each in heads.items()]
