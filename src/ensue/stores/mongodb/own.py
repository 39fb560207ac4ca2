"""Ensue's own rows as documents, where nothing but the write of one document is whole.

What a step writes of them goes into the checkpoint's document first, in the one write that is guarded by its revision:
there it waits (`_waiting`) until somebody moves it to its own documents, which whoever reads them does. Each of these
moves may be done twice, by anybody, and late, so a crash between any two writes is of no account.

An answer to a request from outside, where there is no checkpoint, is written around the document of its step: first it
is kept as in doubt, with the document that will name the step; then that document is written; then the doubt goes. Who
finds a row in doubt looks whether the document names the step: that alone decides. See docs/adr/0021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pymongo.errors import BulkWriteError

from ensue.errors import RetryableError, StoreConflict
from ensue.ports import Row, Table
from ensue.stores import rules
from ensue.stores.mongodb.server import Document, Server
from ensue.tables import CHECKPOINTS, LETTERS

_DUPLICATE = 11000
_IDS_MAX = 1000
#: A step writes its documents within this time or not at all (each wait for the server has an end), seconds.
IN_DOUBT_S = 60.0
#: How long the id of a row that was deleted under its revision stays taken at least: longer than any process stands
#: still between two of its commands and lives, seconds.
REMEMBERED_S = 7 * 86_400.0
#: Rows that are there: not the marks of those that were deleted.
THERE: Document = {"_removed": {"$exists": False}}


@dataclasses.dataclass(slots=True)
class OwnRow:
    """One row inside a step."""

    table: Table
    row_id: Any
    found: Document | None
    """As it was read."""
    row: Row | None
    """As the step leaves it; None: there is none."""
    guarded: bool = False
    """Whether it must be as it was found, also where it only goes."""
    changed: bool = False

    @property
    def document(self) -> Document:
        assert self.row is not None
        return document_of(self.table, self.row)

    def guard(self) -> Document:
        """What it must still be when it is written."""
        assert self.found is not None
        revision = self.table.revision
        names = (revision,) if revision else (name for name in self.table.columns if name != self.table.id_column)
        return {"_id": self.row_id} | {name: self.found[name] for name in names}


def document_of(table: Table, row: Row) -> Document:
    return {"_id" if name == table.id_column else name: value for name, value in zip(table.columns, row, strict=True)}


def row_of(table: Table, document: Mapping[str, Any]) -> Row:
    return tuple(document["_id" if name == table.id_column else name] for name in table.columns)


async def insert_missing(server: Server, name: str, documents: Sequence[Document]) -> None:
    """Insert those that are not there yet."""
    try:
        with server.translated():
            await server.collection(name).insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(each.get("code") != _DUPLICATE for each in error.details["writeErrors"]):
            raise


class OwnRows:
    """reached: see MongoDbStore."""

    def __init__(self, server: Server, reached: Callable[[str], None]) -> None:
        self._server = server
        self._reached = reached

    # --- reading

    async def load(self, table: Table, ids: Sequence[Any], now: float) -> dict[Any, OwnRow]:
        """The rows with these ids, also those that do not exist. Raises RetryableError for one that is in doubt."""
        if table is not CHECKPOINTS:
            await self.settle()
        found: dict[Any, Document] = {}
        for begin in range(0, len(ids), _IDS_MAX):
            where = {"_id": {"$in": list(ids[begin : begin + _IDS_MAX])}, **THERE}
            with self._server.translated():
                documents = await self._server.collection(table.name).find(where).to_list()
            for each in documents:
                if "_doubt" not in each or await self._took_place(table, each, now):
                    found[each["_id"]] = each
        return {
            each: OwnRow(table, each, found.get(each), row_of(table, found[each]) if each in found else None)
            for each in ids
        }

    async def settle(self) -> None:
        """Move what waits in checkpoints to its own documents."""
        with self._server.translated():
            heads = await self._server.collection(CHECKPOINTS.name).find({"_waiting.0": {"$exists": True}}).to_list()
        for head in heads:
            await self._move(head)

    async def _move(self, head: Document) -> None:
        for each in head["_waiting"]:
            await self._apply(each)
        guard = {"_id": head["_id"], "revision": head["revision"]}
        with self._server.translated():
            await self._server.collection(CHECKPOINTS.name).update_one(guard, {"$unset": {"_waiting": ""}})
        self._reached("settled")

    async def _apply(self, change: Mapping[str, Any]) -> None:
        """Do one change; it may have been done before. What has become of a row since then is left as it is.

        Its table may be one that only a newer Ensue knows, which works beside this one.
        """
        if change["guard"] is None:
            await insert_missing(self._server, change["table"], [change["document"]])
        else:
            with self._server.translated():
                await self._server.collection(change["table"]).replace_one(change["guard"], change["document"])
        self._reached("moved")

    async def _took_place(self, table: Table, document: Document, now: float) -> bool:
        """Whether the step that wrote this row in doubt was done. Raises RetryableError while it may be at it."""
        doubt = document["_doubt"]
        with self._server.translated():
            named = await self._server.collection(doubt["table"]).find_one(
                {"_id": doubt["id"], "_ensue.steps.step": doubt["step"]}, {"_id": 1}
            )
        if named is not None:
            return True
        if now - doubt["at"] < IN_DOUBT_S:
            raise RetryableError(
                f"table {table.name}, row {document['_id']}: a step is writing it, or the process that did died less "
                f"than {IN_DOUBT_S:g} s ago: try again"
            )
        await self.withdraw([table], doubt["step"])
        return False

    # --- writing

    async def write(self, rows: Sequence[OwnRow], now: float) -> None:
        """Write the changes of a step: all of them with the checkpoint's, or one after the other where there is none.

        Raises RowConflict when the checkpoint, or a row alone, is not as it was found.
        """
        head = next((each for each in rows if each.table is CHECKPOINTS), None)
        if head is None:
            await self._write_alone(rows, now)
            return
        if head.found is not None and head.found.get("_waiting"):
            await self._move(head.found)  # of the step before, if a crash came between
        others = [each for each in rows if each is not head]
        document = head.document
        if others:
            document["_waiting"] = [
                {
                    "table": each.table.name,
                    "guard": None if each.found is None else each.guard(),
                    "document": self._after(each, now),
                }
                for each in others
            ]
        await self._replace(head, document)
        self._reached("checkpoint")
        if others:
            await self._move({**document, "_id": head.row_id})

    async def _write_alone(self, rows: Sequence[OwnRow], now: float) -> None:
        gone: dict[str, list[Any]] = {}
        for each in rows:
            if each.row is None and not each.guarded:
                gone.setdefault(each.table.name, []).append(each.row_id)
            elif each.row is not None or each.found is not None:
                await self._replace(each, self._after(each, now))
        for name, ids in gone.items():
            with self._server.translated():
                await self._server.collection(name).delete_many({"_id": {"$in": ids}})
        self._reached("rows")

    def _after(self, each: OwnRow, now: float) -> Document:
        """A row that goes leaves a mark, or whoever is late with its insert would bring it back."""
        return {"_id": each.row_id, "_removed": now} if each.row is None else each.document

    async def _replace(self, each: OwnRow, document: Document) -> None:
        collection = self._server.collection(each.table.name)
        try:
            with self._server.translated():
                if each.found is None:
                    await collection.insert_one(document)
                    return
                done = await collection.replace_one(each.guard(), document)
        except StoreConflict as error:
            raise rules.row_exists(each.table.name, each.row_id) from error
        if not done.matched_count:
            raise rules.rows_changed(each.table.name, [each.row_id], 0)

    # --- rows of a step from outside

    async def intend(self, rows: Sequence[OwnRow], now: float, table: str, row_id: Any, step: str) -> None:
        """Insert them in doubt, until document `row_id` of `table` names the step."""
        doubt = {"table": table, "id": row_id, "step": step, "at": now}
        for each in rows:
            await self._replace(each, {**each.document, "_doubt": doubt})
            self._reached("answer")

    async def withdraw(self, tables: Sequence[Table], step: str) -> None:
        """The step's document was not written, for certain."""
        for table in tables:
            with self._server.translated():
                await self._server.collection(table.name).delete_many({"_doubt.step": step})

    async def confirm(self, rows: Sequence[OwnRow]) -> None:
        for each in rows:
            with self._server.translated():
                await self._server.collection(each.table.name).update_one(
                    {"_id": each.row_id}, {"$unset": {"_doubt": ""}}
                )
            self._reached("answered")

    # ---

    async def forget(self, before_s: float, now: float) -> None:
        """Take the marks of letters that were removed before `before_s`, and REMEMBERED_S ago at least."""
        with self._server.translated():
            await self._server.collection(LETTERS.name).delete_many(
                {"_removed": {"$lt": min(before_s, now - REMEMBERED_S)}}
            )
