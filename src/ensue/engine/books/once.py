"""What took effect without a chain, and answers that are given again: each once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ensue.engine.books.answer_rows import answer_id, answer_of, answered_meanwhile, digest_of, row_of_answer
from ensue.engine.books.base import Base
from ensue.errors import CheckpointConflict, RowConflict
from ensue.message import StoredResponse
from ensue.ports import Row, StepTransaction
from ensue.reply import Reply, read_reply
from ensue.saga.instance import ENDED, LIVING, Instance, Status, instance_of
from ensue.saga.wake import after_all_of
from ensue.tables import ANSWERS, CLAIMS, REPLIES, SAGAS

#: Answers hold whole bodies: fewer of them are looked at in one go.
_ANSWERS_PAGE = 100
_BY_TIME, _BY_CODE, _OF_CODE = SAGAS.lookups


class Once(Base):
    """What has happened once already: messages without a chain, requests with an Idempotency-Key, commands, sagas."""

    async def claim(self, transaction: StepTransaction, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Claim (source, id) pairs of messages without a chain; return those claimed for the first time.

        A rollback gives the claims back. Raises CheckpointConflict when another worker claims one at the same time.
        """
        # All versions of a view have one name for it, so that one can be seeded from another.
        service = self.subscription.partition("@")[0]
        wanted = {digest_of(service, *message): message for message in messages}
        known = {row[0] for row in await transaction.load_rows(CLAIMS, sorted(wanted))}
        fresh = sorted(digest for digest in wanted if digest not in known)
        try:
            await transaction.insert_rows(CLAIMS, [(digest, transaction.now) for digest in fresh])
        except RowConflict as error:
            raise CheckpointConflict(
                f"{self.subscription}: another worker claimed the same messages at the same time; read them again"
            ) from error
        return {wanted[digest] for digest in fresh}

    async def answer(self, transaction: StepTransaction, key: str) -> StoredResponse | None:
        """The answer that was given for this Idempotency-Key."""
        rows = await transaction.load_rows(ANSWERS, [answer_id(key)])
        return answer_of(rows[0]) if rows else None

    async def keep_answer(self, transaction: StepTransaction, response: StoredResponse) -> None:
        """Keep the answer to an Idempotency-Key. A second one of a key raises IdempotencyConflict; a
        store that looks at the commit raises RetryableError there."""
        try:
            await transaction.insert_rows(ANSWERS, [row_of_answer(response, transaction.now)])
        except RowConflict as error:
            raise answered_meanwhile(response.key) from error

    async def give_answer(self, transaction: StepTransaction, response: StoredResponse) -> None:
        """Put another answer in the place of the one that is kept for its key."""
        await transaction.delete_rows(ANSWERS, [answer_id(response.key)])
        await self.keep_answer(transaction, response)

    async def forget_answer(self, transaction: StepTransaction, key: str) -> None:
        await transaction.delete_rows(ANSWERS, [answer_id(key)])

    async def reply(self, command_id: str) -> Reply | None:
        """The answer to a command that this service has called."""
        rows = await self._store.rows().get(REPLIES, [command_id])
        return read_reply(rows[0][1]) if rows else None

    async def prune_replies(self, before_s: float, limit: int) -> int:
        """Forget up to `limit` answers to commands that came before `before_s` (epoch seconds); return how many."""
        return await self._prune(REPLIES, before_s, limit, REPLIES.lookups[0])

    async def saga(self, key: str) -> Instance | None:
        """The saga of this key, as it is committed."""
        rows = await self._store.rows().get(SAGAS, [key])
        return instance_of(rows[0]) if rows else None

    async def sagas(
        self, statuses: Sequence[Status], limit: int, after: tuple[float, str] | None = None
    ) -> list[Instance]:
        """Up to `limit` sagas, of each status the one first that was at work longest ago. after: when one of the first
        status was at work, and its key: behind which to begin."""
        found: list[Instance] = []
        for at, status in enumerate(statuses):
            left, begin = limit - len(found), (after or ()) if at == 0 else ()
            found += [instance_of(row) async for row in self._all(SAGAS, _BY_TIME, [status.value], left, after=begin)]
        return found

    async def living_sagas(self) -> AsyncIterator[Row]:
        """The rows of those that have not ended. One that goes on meanwhile may come twice."""
        for status in LIVING:
            async for row in self._all(SAGAS, _BY_TIME, [status.value]):
                yield row

    async def saga_groups(self) -> dict[tuple[str, int, Status], int]:
        """How many sagas have not ended, by name, version and status. Asks an index, twice a group."""
        found: dict[tuple[str, int, Status], int] = {}
        reader = self._store.rows()
        for status in LIVING:
            place: Sequence[Any] = ()
            while rows := await reader.find(SAGAS, _BY_CODE, [status.value], after=place, limit=1):
                _, name, version, *_ = rows[0]
                found[name, version, status] = await reader.count(SAGAS, _OF_CODE, [status.value, name, version])
                place = [name, version, after_all_of(name)]
        return found

    async def saga_count(self, status: Status) -> int:
        return await self._store.rows().count(SAGAS, _BY_TIME, [status.value])

    async def prune_sagas(self, before_s: float, limit: int) -> int:
        """Forget up to `limit` sagas that ended before `before_s` (epoch seconds); return how many."""
        found = 0
        for status in ENDED:
            found += await self._prune(SAGAS, before_s, limit - found, _BY_TIME, [status.value])
        return found

    async def prune_claims(self, before_s: float, limit: int) -> int:
        """Forget up to `limit` claims made before `before_s` (epoch seconds); return how many."""
        return await self._prune(CLAIMS, before_s, limit, CLAIMS.lookups[0])

    async def prune_answers(self, before_s: float, limit: int) -> int:
        """Forget up to `limit` answers kept before `before_s` (epoch seconds); return how many."""
        return await self._prune(ANSWERS, before_s, min(limit, _ANSWERS_PAGE), ANSWERS.lookups[0])
