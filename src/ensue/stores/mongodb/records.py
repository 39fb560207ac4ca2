"""Ensue's own records as documents: dead letters, answers, claims."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pymongo.errors import BulkWriteError

from ensue.errors import RetryableError, StoreConflict, UsageError
from ensue.message import DeadLetter, DeadLetterState, Partition, StoredResponse
from ensue.stores import rules
from ensue.stores.mongodb.server import Document, Server

_encode = msgspec.msgpack.Encoder().encode
_decode_letter = msgspec.msgpack.Decoder(DeadLetter).decode
_decode_response = msgspec.msgpack.Decoder(StoredResponse).decode
_DUPLICATE = 11000
#: A step writes its documents within this time or not at all (each wait for the server has an end), seconds.
IN_DOUBT_S = 60.0
#: How long the number of a dead letter that was removed stays taken at least: longer than any process stands still
#: between two of its commands and lives, seconds.
REMEMBERED_S = 7 * 86_400.0


def no_sessions() -> UsageError:
    return UsageError(
        "a MongoDB store has no SQLAlchemy sessions: declare entities with TableRepository, and read them by `rows`"
    )


def claim_name(subscription: str, source: str, message_id: str) -> str:
    return f"{subscription} {source} {message_id}"


def letter_document(letter: DeadLetter) -> Document:
    error = letter.error.encode("utf-8", "replace").decode()  # half a character cannot be stored
    return {
        "_id": letter.id,
        "of": str(letter.partition),
        "state": letter.state.value,
        "letter": _encode(msgspec.structs.replace(letter, error=error)),
    }


def letter_of(document: Document) -> DeadLetter:
    return _decode_letter(document["letter"])


async def insert_missing(server: Server, name: str, documents: Sequence[Document]) -> None:
    """Insert those that are not there yet."""
    try:
        with server.translated():
            await server.collection(name).insert_many(documents, ordered=False)
    except BulkWriteError as error:
        if any(each.get("code") != _DUPLICATE for each in error.details["writeErrors"]):
            raise


class Letters:
    """Dead letters. New ones come with the checkpoint's own write, and are moved into their collection after it.

    Of one that was removed a mark stays, `removed` with the time, since somebody who read the checkpoint before may
    still be about to insert it: a letter that is settled late finds its number taken. `forget` takes old marks.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._documents = server.collection("ensue_dead_letters")
        self._checkpoints = server.collection("ensue_checkpoints")
        self._meta = server.collection("ensue_meta")

    async def numbers(self, count: int) -> int:
        """Take `count` numbers; return the first."""
        with self._server.translated():
            found = await self._meta.find_one_and_update(
                {"_id": "letters"}, {"$inc": {"last": count}}, upsert=True, return_document=True
            )
        assert found is not None
        return int(found["last"]) - count + 1

    async def settle(self) -> None:
        """Move what came with checkpoints. Whoever reads letters does it, so a crash before it is of no account."""
        with self._server.translated():
            waiting = await self._checkpoints.find({"letters.0": {"$exists": True}}).to_list()
        for each in waiting:
            await insert_missing(self._server, "ensue_dead_letters", each["letters"])
            with self._server.translated():
                await self._checkpoints.update_one(
                    {"_id": each["_id"], "revision": each["revision"]}, {"$set": {"letters": []}}
                )

    async def insert(self, letters: Sequence[DeadLetter]) -> None:
        with self._server.translated():
            await self._documents.insert_many([letter_document(each) for each in letters])

    async def find(
        self, partition: Partition | None, states: Sequence[DeadLetterState], limit: int
    ) -> Sequence[DeadLetter]:
        await self.settle()
        where: Document = {"of": {"$exists": True} if partition is None else str(partition)}
        if states:
            where["state"] = {"$in": [each.value for each in states]}
        with self._server.translated():
            found = await self._documents.find(where).sort("_id", 1).limit(min(limit, 1_000_000)).to_list()
        return [letter_of(each) for each in found]

    async def get(self, letter_id: int) -> DeadLetter | None:
        await self.settle()
        with self._server.translated():
            found = await self._documents.find_one({"_id": letter_id, "of": {"$exists": True}})
        return None if found is None else letter_of(found)

    async def change(self, before: DeadLetter, after: DeadLetter | None, now: float) -> None:
        """Change or remove it (None), if it still is as it was found. Raises CheckpointConflict otherwise."""
        guard = {"_id": before.id, "letter": letter_document(before)["letter"]}
        fresh = {"_id": before.id, "removed": now} if after is None else letter_document(after)
        with self._server.translated():
            done = await self._documents.replace_one(guard, fresh)
        if not done.matched_count:
            raise rules.letter_gone(before.id)

    async def forget(self, before_s: float, now: float) -> None:
        """Take the marks of letters that were removed before `before_s`, and REMEMBERED_S ago at least."""
        with self._server.translated():
            await self._documents.delete_many({"removed": {"$lt": min(before_s, now - REMEMBERED_S)}})


class Answers:
    """Answers to Idempotency-Keys, each written around the document of its step.

    First it is kept as in doubt, with the document that will name the step; then that document is written; then the
    doubt goes. Who finds one in doubt looks whether the document names the step: that alone decides.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._documents = server.collection("ensue_responses")

    async def load(self, key: str, now: float) -> StoredResponse | None:
        """Raises RetryableError while the step may still be at it."""
        with self._server.translated():
            found = await self._documents.find_one({"_id": key})
        if found is None:
            return None
        doubt: Mapping[str, Any] | None = found.get("doubt")
        if doubt is None:
            return _decode_response(found["response"])
        with self._server.translated():
            named = await self._server.collection(doubt["table"]).find_one(
                {"_id": doubt["id"], "_ensue.steps.step": doubt["step"]}, {"_id": 1}
            )
        if named is not None:
            return _decode_response(found["response"])
        if now - found["at"] < IN_DOUBT_S:
            raise RetryableError(
                f"Idempotency-Key {key!r} is being answered, or the process that did it died less than "
                f"{IN_DOUBT_S:g} s ago: try again",
                key=key,
            )
        with self._server.translated():
            await self._documents.delete_one({"_id": key, "doubt.step": doubt["step"]})
        return None

    async def intend(self, answer: StoredResponse, now: float, table: str, row_id: Any, step: str) -> None:
        await self._insert(answer, {"at": now, "doubt": {"table": table, "id": row_id, "step": step}})

    async def withdraw(self, answer: StoredResponse, step: str) -> None:
        """The step's document was not written, for certain."""
        with self._server.translated():
            await self._documents.delete_one({"_id": answer.key, "doubt.step": step})

    async def confirm(self, answer: StoredResponse, now: float, *, in_doubt: bool) -> None:
        if not in_doubt:
            await self._insert(answer, {"at": now})
            return
        with self._server.translated():
            await self._documents.update_one({"_id": answer.key}, {"$unset": {"doubt": ""}})

    async def _insert(self, answer: StoredResponse, more: Document) -> None:
        try:
            with self._server.translated():
                await self._documents.insert_one({"_id": answer.key, "response": _encode(answer), **more})
        except StoreConflict as error:
            raise rules.answered_meanwhile(answer.key) from error
