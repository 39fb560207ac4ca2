"""Losses: holes in what was received; and to go on without what nobody has any more."""

from __future__ import annotations

import asyncio

from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.visit import Trouble, Visit
from ensue.errors import UsageError
from ensue.message import Gap, GapState, Partition
from ensue.operations import gaps as operations
from ensue.operations.gaps import GapAt


async def losses(visit: Visit) -> Response:
    only = visit.asked("service", "")
    names = [only] if only else visit.services.names
    found = await asyncio.gather(*(_gaps(visit, name) for name in names))
    known = [(name, one) for name, one in zip(names, found, strict=True) if not isinstance(one, Trouble)]
    return visit.page(
        "losses",
        changes=names,
        service=only,
        troubles=[each for each in found if isinstance(each, Trouble)],
        gaps=[(name, each) for name, (gaps, _) in known for each in gaps],
        epochs=[(name, source) for name, (_, source) in known],
    )


async def _gaps(visit: Visit, name: str) -> tuple[list[GapAt], str] | Trouble:
    async with visit.each(name) as access:
        return access if isinstance(access, Trouble) else (await operations.gaps(access), access.store.source)


async def loss(visit: Visit) -> Response:
    name, topic, number = visit.asked("service"), visit.asked("topic"), visit.asked_number("number")
    source = visit.asked("source")
    async with visit.opened(name) as access:
        found = _found(await operations.gaps(access), topic, number, source)
    return visit.page(
        "loss",
        changes=[name],
        service=name,
        topic=topic,
        number=number,
        gap=found,
        count=_lost(found),
        may={"accept": visit.may(Action.ACCEPT_LOSS)},
    )


async def accept(visit: Visit) -> Response:
    """The form of the page of one gap."""
    fields = await visit.form()
    name, topic, number = fields.text("service"), fields.text("topic"), fields.number("number")
    source, through, count = fields.text("source"), fields.number("through"), fields.number("count")
    visit.need(fields.one_of("do", {"accept": Action.ACCEPT_LOSS}))
    by = visit.deciding(fields.text("reason"))

    async def work(run: Run) -> None:
        async with visit.opened(name) as access:
            gap = _found(await operations.gaps(access), topic, number, source)
            if gap is None or gap.lost_through != through or _lost(gap) != count:
                raise UsageError(
                    f"{topic}/{number} of {name}: {_lost(gap)} messages of {source} are lost now, and {count} was "
                    "typed: nothing was accepted; look at the gap again"
                )
            goes_on = await operations.accept(access, Partition(name, topic, number), source, by)
        run.tell(f"{topic}/{number} goes on behind position {goes_on} of {source}")

    back = link("/loss", service=name, topic=topic, number=number, source=source)
    return visit.decided(await visit.once(f"accept {topic}/{number} {source}", by, (name, source), back, work))


def _found(gaps: list[GapAt], topic: str, number: int, source: str) -> Gap | None:
    for each in gaps:
        if (each.topic, each.partition, each.gap.source) == (topic, number, source):
            return each.gap
    return None


def _lost(gap: Gap | None) -> int:
    """How many positions nobody has any more."""
    return gap.lost_through - gap.watermark if gap is not None and gap.state is GapState.LOST else 0
