"""Decisions: what people have decided, who, and why; and all of them for another place, a line each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from starlette.responses import Response, StreamingResponse

from ensue.console.apart import apart
from ensue.console.payloads import shown_change
from ensue.console.visit import Visit, read
from ensue.deciding import Decision
from ensue.operations.decisions import decisions, newest

#: On one page, of all services together.
_SHOWN = 200


async def all_decisions(visit: Visit) -> Response:
    names = visit.services.names
    found = await asyncio.gather(*(visit.services.answer(name, partial(_last, visit, name)) for name in names))
    known = [(each.service, each.found) for each in found if each.found is not None]
    rows = [(name, each) for name, (last, _) in known for each in last]
    rows.sort(key=lambda each: (each[1].decided_at, each[1].id), reverse=True)
    return visit.page(
        "decisions",
        changes=names,
        names=names,
        troubles=[each for each in found if each.error],
        cut=len(rows) > _SHOWN or any(more for _, (_, more) in known),
        decisions=[(name, each, *_states(visit, each)) for name, each in rows[:_SHOWN]],
    )


async def _last(visit: Visit, name: str) -> tuple[list[Decision], bool]:
    async with visit.services.opened_decisions(name) as books:
        return await newest(books, _SHOWN)


def _states(visit: Visit, decision: Decision) -> tuple[Any, Any]:
    """Before and after, as far as they are shown."""
    before, after = read(decision.before), read(decision.after)
    mode = visit.payloads
    return shown_change(decision.action, before, mode), shown_change(decision.action, after, mode)


async def as_lines(visit: Visit) -> Response:
    """All decisions on a service as JSON, a line each; before and after as far as payloads are shown."""
    service = visit.services.service(visit.asked("service"))
    async with visit.services.opened_decisions(service.name) as books:
        await newest(books, 1)  # what is wrong is said before the answer begins

    async def lines() -> AsyncGenerator[bytes, None]:
        async with visit.services.opened_decisions(service.name) as books, aclosing(decisions(books)) as found:
            async for each in found:
                before, after = _states(visit, each)
                yield msgspec.json.encode(msgspec.structs.asdict(each) | {"before": before, "after": after}) + b"\n"

    name = "".join(each if each.isalnum() else "-" for each in service.name)
    headers = {"Content-Disposition": f'attachment; filename="decisions-{name}.jsonl"'}
    return StreamingResponse(apart(lines), media_type="application/x-ndjson", headers=headers)
