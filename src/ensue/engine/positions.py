"""Which positions a committed step's events have: the store's side of a token.

SQLite gives them in the transaction. Elsewhere they are given to what has committed when somebody looks, the relay as a
rule; then a token names the heads of the step's places, which are its own positions or, when others were quicker, later
ones. See docs/adr/0045.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

from ensue.message import OutboxRecord, Timer
from ensue.ports import Store
from ensue.signatures import Trust
from ensue.token import Part, Token

Heads = Mapping[tuple[str, int], int]


class Positions:
    """Of one service's store. trust: has the key with which its tokens are signed, if any."""

    def __init__(self, service: str, store: Store, trust: Trust) -> None:
        self._service = service
        self._store = store
        self._sign = trust.signer(service)
        self._look = SharedLook(store.outbox_heads)

    async def of_records(self, records: Sequence[OutboxRecord]) -> Token:
        """For what a step has published, when that is committed. Raises StoreUnavailable, and UsageError for more
        places than a token may have."""
        sent = [each for each in records if not isinstance(each, Timer)]  # what is published later is not sent yet
        if all(each.position for each in sent):
            source = self._store.source
            return self._signed(Part(source, each.topic, each.partition, each.position) for each in sent)
        return await self.of_heads({(each.topic, each.partition) for each in sent})

    async def of_heads(self, places: Iterable[tuple[str, int]]) -> Token:
        """For all that is committed in these places by now."""
        heads = await self._look.heads()
        source = self._store.source
        return self._signed(Part(source, *each, heads[each]) for each in places if heads.get(each))

    def _signed(self, parts: Iterable[Part]) -> Token:
        return Token.of(parts).signed(self._service, self._sign)


class SharedLook:
    """Asks the store how far its outbox is, for all who ask meanwhile together: one look at a time, and who comes while
    one is under way has the next one, since that one may have looked before what they ask for was committed."""

    def __init__(self, look: Callable[[], Awaitable[Heads]]) -> None:
        self._look = look
        self._running: asyncio.Task[Heads] | None = None
        self._next: asyncio.Task[Heads] | None = None

    async def heads(self) -> Heads:
        if self._running is None or self._running.done():
            self._running = self._begun(None)
            return await asyncio.shield(self._running)
        if self._next is None:
            self._next = self._begun(self._running)
        return await asyncio.shield(self._next)

    def _begun(self, before: asyncio.Task[Heads] | None) -> asyncio.Task[Heads]:
        task = asyncio.create_task(self._ask(before))
        task.add_done_callback(lambda task: task.cancelled() or task.exception())  # who asked may have gone
        return task

    async def _ask(self, before: asyncio.Task[Heads] | None) -> Heads:
        if before is not None:
            await asyncio.wait([before])
            self._running, self._next = self._next, None
        return await self._look()
