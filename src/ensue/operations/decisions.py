"""What people have decided about a service, who, and why."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from ensue.app import Service
from ensue.deciding import Decision
from ensue.engine.books import Books
from ensue.operations.opening import opened
from ensue.view import View


@asynccontextmanager
async def opened_decisions(service: Service) -> AsyncIterator[list[Books]]:
    """Where the decisions of a service are. Of a view: those on its versions outlive these, the others, on dead letters
    say, are in the place of the code's version. Raises UsageError when there is no database."""
    async with AsyncExitStack() as stack:
        books: list[Books] = []
        if isinstance(service, View):
            base = service.make_base()
            if await base.exists():
                await base.open()
                stack.push_async_callback(base.close)
                books.append(Books(base, service.view))
        if not books or await _has_store(service):
            access = await stack.enter_async_context(opened(service))
            books.append(access.books)
        yield books


async def _has_store(service: Service) -> bool:
    store = service.make_store()
    try:
        return await store.exists()
    finally:
        await store.close()


async def decisions(books: list[Books], after: tuple[float, str] | None = None) -> AsyncGenerator[Decision, None]:
    """All of them in the order in which they were taken, read in pages: nothing prunes them, so there may be many.
    after: time and id of one, behind which to begin."""
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(aclosing(each.decisions(after))) for each in books]
        heads = [(await anext(each, None), each) for each in streams]
        while left := [(head, stream) for head, stream in heads if head is not None]:
            first, stream = min(left, key=lambda each: (each[0].decided_at, each[0].id))
            yield first
            heads = [(each if each is not first else await anext(stream, None), of) for each, of in left]


async def last_decisions(books: list[Books], limit: int, before: tuple[float, str] | None = None) -> list[Decision]:
    """Up to `limit` of the last ones, in the order in which they were taken; read from the end, so that it takes no
    longer where there are many. before: time and id of one; those alone that were taken before it."""
    found = [each for one in books for each in await one.last_decisions(limit, before)]
    found.sort(key=lambda each: (each.decided_at, each.id))
    return found[-limit:]


async def newest(
    books: list[Books], limit: int, before: tuple[float, str] | None = None
) -> tuple[list[Decision], bool]:
    """As `last_decisions`, and whether there are more before these. How many is not counted: nothing prunes them."""
    found = await last_decisions(books, limit + 1, before)
    return found[-limit:], len(found) > limit
