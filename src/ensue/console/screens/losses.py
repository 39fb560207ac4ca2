"""Losses: holes in what was received; and to go on without what nobody has any more."""

from __future__ import annotations

from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.visit import Visit
from ensue.errors import UsageError
from ensue.message import Gap, GapState, Partition
from ensue.operations import gaps as operations
from ensue.operations.gaps import GapAt
from ensue.operations.opening import Opened


async def losses(visit: Visit) -> Response:
    only = visit.asked("service", "")
    names = [only] if only else visit.services.names
    answers = await visit.services.each(_gaps, names)
    known = [(each.service, each.found) for each in answers if each.found is not None]
    return visit.page(
        "losses",
        changes=names,
        service=only,
        troubles=[each for each in answers if each.error],
        gaps=[(name, each) for name, (gaps, _) in known for each in gaps],
        epochs=[(name, source) for name, (_, source) in known],
    )


async def _gaps(access: Opened) -> tuple[list[GapAt], str]:
    return await operations.gaps(access), access.store.source


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
        of_view=visit.services.service(name).is_view,
        may=visit.may({"accept": Action.GAP_ACCEPT}),
    )


async def accept(visit: Visit) -> Response:
    """The form of the page of one gap."""
    fields = await visit.form()
    name, topic, number = fields.text("service"), fields.text("topic"), fields.number("number")
    source, through, count = fields.text("source"), fields.number("through"), fields.number("count")
    by = visit.deciding(fields.one_of("do", {"accept": Action.GAP_ACCEPT}), fields.text("reason"))

    async def work(run: Run) -> None:
        async with visit.opened(name) as access:
            gap = _found(await operations.gaps(access), topic, number, source)
            if gap is None or gap.lost_through != through or _lost(gap) != count:
                raise UsageError(
                    f"{topic}/{number} of {name}: {_lost(gap)} messages of {source} are lost now, and {count} was "
                    "typed: nothing was accepted; look at the gap again"
                )
            goes_on = await operations.accept(access, Partition(name, topic, number), gap, by)
        run.tell(f"{topic}/{number} goes on behind position {goes_on} of {source}")

    back = link("/loss", service=name, topic=topic, number=number, source=source)
    return await visit.decided(fields, f"accept {topic}/{number} {source}", by, (name, source), back, work)


def _found(gaps: list[GapAt], topic: str, number: int, source: str) -> Gap | None:
    for each in gaps:
        if (each.topic, each.partition, each.gap.source) == (topic, number, source):
            return each.gap
    return None


def _lost(gap: Gap | None) -> int:
    """How many positions nobody has any more."""
    return gap.lost_through - gap.watermark if gap is not None and gap.state is GapState.LOST else 0
