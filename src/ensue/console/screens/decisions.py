"""Decisions: what people have decided, who, and why; and all of them for another place, a line each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.responses import Response, StreamingResponse

from ensue.console.visit import Trouble, Visit
from ensue.deciding import Decision
from ensue.errors import EnsueError
from ensue.operations.decisions import decision_count, decisions, last_decisions, opened_decisions

#: On one page, of all services together.
_SHOWN = 200


async def all_decisions(visit: Visit) -> Response:
    names = visit.services.names
    found = await asyncio.gather(*(_last(visit, name) for name in names))
    rows = [
        (name, each) for name, one in zip(names, found, strict=True) if not isinstance(one, Trouble) for each in one[0]
    ]
    rows.sort(key=lambda each: (each[1].decided_at, each[1].id), reverse=True)
    return visit.page(
        "decisions",
        changes=names,
        names=names,
        troubles=[each for each in found if isinstance(each, Trouble)],
        total=sum(one[1] for one in found if not isinstance(one, Trouble)),
        decisions=rows[:_SHOWN],
        shown=visit.shows_all,
        payloads=visit.payloads.value,
    )


async def _last(visit: Visit, name: str) -> tuple[list[Decision], int] | Trouble:
    try:
        async with opened_decisions(visit.services.service(name)) as books:
            return await last_decisions(books, _SHOWN), await decision_count(books)
    except EnsueError as error:
        return Trouble.of(name, error)


async def as_lines(visit: Visit) -> Response:
    """All decisions on a service as JSON, a line each; before and after only where payloads are shown whole."""
    service = visit.services.service(visit.asked("service"))
    shows_all = visit.shows_all
    async with opened_decisions(service) as books:
        await decision_count(books)  # what is wrong is said before the answer begins

    async def lines() -> AsyncGenerator[bytes, None]:
        async with opened_decisions(service) as books, aclosing(decisions(books)) as found:
            async for each in found:
                fields = msgspec.structs.asdict(each)
                if not shows_all:
                    del fields["before"], fields["after"]
                yield msgspec.json.encode(fields) + b"\n"

    name = "".join(each if each.isalnum() else "-" for each in service.name)
    headers = {"Content-Disposition": f'attachment; filename="decisions-{name}.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)
