"""Losses: holes in what was received, sources that write below what was applied of them, databases that went back; and
what a person decides of the first two. What is decided is what their page has shown, and a count is typed for it."""

from __future__ import annotations

import dataclasses

from starlette.responses import Response

from ensue.addresses import masked
from ensue.console.access import Action
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.visit import Visit
from ensue.errors import EnsueError, UsageError
from ensue.message import Gap, GapState, Partition
from ensue.operations import gaps as operations
from ensue.operations.asked import Asked
from ensue.operations.epoch import compared, epochs
from ensue.operations.gaps import GapAt, positions_missing
from ensue.operations.opening import Opened
from ensue.operations.status import ANSWER_S, Doubted, doubted
from ensue.views.ready import missing_through

_OF_GAPS = {"accept": Action.GAP_ACCEPT, "forget": Action.GAP_FORGET}
_OF_SOURCES = {"rewind": Action.GAP_REWIND}


@dataclasses.dataclass(frozen=True)
class _Losses:
    """Of one service. source: as which it writes. unasked: why the log was not asked for doubted sources."""

    gaps: list[GapAt]
    doubted: list[Doubted]
    source: str
    unasked: str


async def losses(visit: Visit) -> Response:
    only = visit.asked("service", "")
    names = [only] if only else visit.services.names
    answers = await visit.services.each(_losses, names, broker=True)
    known = [(each.service, each.found) for each in answers if each.found is not None]
    return visit.page(
        "losses",
        changes=names,
        service=only,
        troubles=[each for each in answers if each.error],
        gaps=[(name, each) for name, found in known for each in found.gaps],
        doubted=[(name, each) for name, found in known for each in found.doubted],
        known=known,
    )


async def _losses(access: Opened) -> _Losses:
    ask = Asked(ANSWER_S)
    doubts = await ask("log", doubted(access), [])
    unasked = access.broker_error or ask.unanswered.get("log", "")
    return _Losses(await operations.gaps(access), doubts, access.store.source, unasked)


async def loss(visit: Visit) -> Response:
    """One gap."""
    name, topic, number = visit.asked("service"), visit.asked("topic"), visit.asked_number("number")
    source = visit.asked("source")
    async with visit.opened(name) as access:
        found = _found(await operations.gaps(access), topic, number, source)
        target = access.target
    return visit.page(
        "loss",
        changes=[name],
        service=name,
        topic=topic,
        number=number,
        source=source,
        gap=found,
        count=0 if found is None else positions_missing(found),
        through=0 if found is None else missing_through(found),
        of_view=visit.services.service(name).is_view,
        target=target,
        may=visit.may(_OF_GAPS),
    )


async def decide_on_gap(visit: Visit) -> Response:
    """A form of the page of one gap."""
    fields = await visit.form()
    name, topic, number = fields.text("service"), fields.text("topic"), fields.number("number")
    source, count, do = fields.text("source"), fields.number("count"), fields.text("do")
    by = visit.deciding(fields.one_of("do", _OF_GAPS), fields.text("reason"))
    shown = Gap(
        source, fields.number("watermark"), fields.number("through"), 0.0,
        fields.one_of("state", {each.value: each for each in GapState}), fields.number("through"),
    )  # fmt: skip

    async def work(run: Run) -> None:
        async with visit.opened(name) as access:
            gap = _found(await operations.gaps(access), topic, number, source)
            missing = 0 if gap is None else positions_missing(gap)
            if gap is None or not operations.same(gap, shown) or missing != count:
                what = f"{missing} messages of {source} are {'lost' if shown.state is GapState.LOST else 'missing'} now"
                raise UsageError(
                    f"{topic}/{number} of {name}: {what}, and {count} was typed: nothing was decided; look at the gap "
                    "again"
                )
            where = Partition(name, topic, number)
            if do == "forget":
                await operations.forget(access, where, source, by, gap)
                run.tell(f"{topic}/{number}: {source} is asked no more for what is missing")
                return
            goes_on = await operations.accept(access, where, gap, by)
        run.tell(f"{topic}/{number} goes on behind position {goes_on} of {source}")

    back = link("/loss", service=name, topic=topic, number=number, source=source)
    return await visit.decided(fields, f"{do} {topic}/{number} {source}", by, (name, source), back, work)


async def applied(visit: Visit) -> Response:
    """How far one source is applied in one partition."""
    name, topic, number = visit.asked("service"), visit.asked("topic"), visit.asked_number("number")
    source = visit.asked("source")
    async with visit.opened(name, broker=True) as access:
        # Its log may be long: it is looked at when somebody asks, and not with each change.
        found = await operations.applied(access, Partition(name, topic, number), source, ANSWER_S)
    return visit.page(
        "applied",
        service=name,
        topic=topic,
        number=number,
        source=source,
        found=found,
        may=visit.may(_OF_SOURCES),
    )


async def decide_on_source(visit: Visit) -> Response:
    """The form of the page of one source."""
    fields = await visit.form()
    name, topic, number = fields.text("service"), fields.text("topic"), fields.number("number")
    source, watermark = fields.text("source"), fields.number("watermark")
    by = visit.deciding(fields.one_of("do", _OF_SOURCES), fields.text("reason"))
    position, count = fields.number("position"), fields.number("count")

    async def work(run: Run) -> None:
        if watermark - position != count:
            raise UsageError(
                f"{topic}/{number} of {name}: from position {watermark} back to {position} are {watermark - position} "
                f"positions, and {count} was typed: nothing was taken back; look at it again"
            )
        async with visit.opened(name) as access:
            await operations.rewind(access, Partition(name, topic, number), source, position, by, watermark)
        run.tell(f"{topic}/{number} goes on behind position {position} of {source}: what follows is asked for again")

    back = link("/applied", service=name, topic=topic, number=number, source=source)
    return await visit.decided(fields, f"rewind {topic}/{number} {source}", by, (name, source), back, work)


async def restored(visit: Visit) -> Response:
    """Whether a service's database went back to an older copy, and what was done about that before. Compares it with
    the log, so it is looked at when somebody asks, and not with each change."""
    name = visit.asked("service")
    trouble, report = "", None
    async with visit.opened(name, broker=True) as access:
        target, source = access.target, access.store.source
        if access.store.capabilities.publishes:
            try:
                report = await compared(access)
            except EnsueError as error:  # no log, or it cannot tell: its text says what a person has to find out
                trouble = masked(str(error))
    async with visit.services.opened_decisions(name) as books:
        begun = await epochs(books)
    return visit.page(
        "restored", service=name, source=source, target=target, report=report, trouble=trouble, epochs=begun
    )


def _found(gaps: list[GapAt], topic: str, number: int, source: str) -> Gap | None:
    for each in gaps:
        if (each.topic, each.partition, each.gap.source) == (topic, number, source):
            return each.gap
    return None
