"""The stream by which a page hears that something has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from functools import partial
from typing import Any, Generic, Self, TypeVar

from starlette.responses import Response, StreamingResponse

from ensue.console.apart import apart
from ensue.console.changes import standing, stream
from ensue.console.visit import Visit, said
from ensue.errors import EnsueError
from ensue.operations.views import OpenedView
from ensue.view import View

A = TypeVar("A")
Ask = Callable[[A], Awaitable[str]]
_RUN_LOOK_S = 0.25
#: How long a database may take to say how it stands. After that the page is asked for anew, and says what is wrong:
#: a stream that only waited would leave it as it was, without a word.
LOOK_S = 5.0


async def changes(visit: Visit) -> Response:
    parameters = visit.request.query_params
    seen = visit.request.headers.get("last-event-id", "")[:64]
    if run_id := parameters.get("run"):
        events = apart(lambda: _of_run(visit, run_id, seen), visit.why_not)
    else:
        names = [visit.services.service(name).name for name in dict.fromkeys(parameters.getlist("service"))]
        events = apart(lambda: _of_services(visit, names, seen), visit.why_not)
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _of_run(visit: Visit, run_id: str, seen: str) -> AsyncGenerator[bytes, None]:
    async def look() -> str:
        run = visit.runs.get(run_id)
        return "gone" if run is None else f"{run.state} {run.revision}"

    async for each in stream(look, seen, _RUN_LOOK_S):
        yield each


async def _of_services(visit: Visit, names: list[str], seen: str) -> AsyncGenerator[bytes, None]:
    async with AsyncExitStack() as stack:
        watched = [await stack.enter_async_context(each) for name in names for each in _watched(visit, name)]

        async def look() -> str:
            return "\n".join([await each.look() for each in watched])

        async for each in stream(look, seen):
            yield each


class _Watched(Generic[A]):
    """One database, kept open from look to look while it answers."""

    def __init__(self, name: str, open_: Callable[[], AbstractAsyncContextManager[A]], ask: Ask[A]) -> None:
        self._name, self._open, self._ask = name, open_, ask
        self._stack = AsyncExitStack()
        self._access: A | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self) -> str:
        try:
            if self._access is None:
                self._access = await self._stack.enter_async_context(self._open())
            async with asyncio.timeout(LOOK_S):
                return await self._ask(self._access)
        except (EnsueError, TimeoutError) as error:
            self._access = None
            await self._stack.aclose()
            return f"{self._name}: {said(error) or 'no answer'}"


def _watched(visit: Visit, name: str) -> list[_Watched[Any]]:
    """A service's database; of a view also the place where the row of its versions is."""
    found: list[_Watched[Any]] = [_Watched(name, partial(visit.opened, name), standing)]
    if isinstance(visit.services.service(name), View):
        found.append(_Watched(name, partial(visit.services.opened_view, name), _row))
    return found


async def _row(access: OpenedView) -> str:
    return str((await access.versions.book.row()).revision)
