"""The stream by which a page hears that something has changed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

from starlette.responses import Response, StreamingResponse

from ensue.console.apart import apart
from ensue.console.changes import standing, stream
from ensue.console.visit import Visit, said
from ensue.errors import EnsueError
from ensue.operations.opening import Opened

_RUN_LOOK_S = 0.25


async def changes(visit: Visit) -> Response:
    parameters = visit.request.query_params
    seen = visit.request.headers.get("last-event-id", "")[:64]
    if run_id := parameters.get("run"):
        events = _of_run(visit, run_id, seen)
    else:
        names = [visit.services.service(name).name for name in dict.fromkeys(parameters.getlist("service"))]
        events = apart(lambda: _of_services(visit, names, seen))
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _of_run(visit: Visit, run_id: str, seen: str) -> AsyncGenerator[bytes, None]:
    async def look() -> str:
        run = visit.runs.get(run_id)
        return "gone" if run is None else f"{run.state} {run.revision}"

    async for each in stream(look, seen, _RUN_LOOK_S):
        yield each


async def _of_services(visit: Visit, names: list[str], seen: str) -> AsyncGenerator[bytes, None]:
    async with AsyncExitStack() as stack:
        watched = [await stack.enter_async_context(_Watched(visit, name)) for name in names]

        async def look() -> str:
            return "\n".join([await each.look() for each in watched])

        async for each in stream(look, seen):
            yield each


class _Watched:
    """One service, kept open from look to look while it answers."""

    def __init__(self, visit: Visit, name: str) -> None:
        self._visit, self._name = visit, name
        self._stack, self._access = AsyncExitStack(), None

    _access: Opened | None

    async def __aenter__(self) -> _Watched:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def look(self) -> str:
        try:
            if self._access is None:
                self._access = await self._stack.enter_async_context(self._visit.opened(self._name))
            return await standing(self._access)
        except EnsueError as error:
            self._access = None
            await self._stack.aclose()
            return f"{self._name}: {said(error)}"
