"""Views: their versions, how far each is; and to build one, to have it asked, to go back, to remove one."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.pace import Going
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.visit import Fields, Visit
from ensue.errors import UsageError
from ensue.operations import views as operations
from ensue.operations.views import Missing, ViewStatus, view_status
from ensue.view import View
from ensue.views import states
from ensue.views.states import ViewRow

_ACTIONS = {
    "rebuild": Action.VIEW_REBUILD,
    "pause": Action.VIEW_PAUSE,
    "resume": Action.VIEW_RESUME,
    "swap": Action.VIEW_SWAP,
    "accept-missing": Action.VIEW_ACCEPT_MISSING,
    "rollback": Action.VIEW_ROLLBACK,
    "drop": Action.VIEW_DROP,
}
_DANGEROUS = ("swap", "accept-missing", "rollback", "drop")
_SAID = {
    "rebuild": (
        "Rebuild",
        "Begin to build the code's version beside the one that is asked. Processes that run its code build it.",
    ),
    "pause": ("Pause", "Feed the version that is being built no more, until somebody resumes it."),
    "resume": ("Resume", "The building goes on."),
    "swap": ("Swap", "Queries are answered by the code's version from now on. Refused while it is not ready."),
    "accept-missing": ("Go on without it", "Have the code's version go on without what it lacks, for ever."),
    "rollback": ("Roll back", "Queries are answered by the version that was asked before."),
    "drop": ("Drop", "Feed a version no more, and remove it with all its rows, for good."),
}


async def views(visit: Visit) -> Response:
    names = [name for name in visit.services.names if isinstance(visit.services.service(name), View)]
    answers = await asyncio.gather(*(visit.services.answer(name, partial(_status, visit, name)) for name in names))
    known = [(each.service, each.found) for each in answers if each.found is not None]
    return visit.page(
        "views",
        changes=names,
        troubles=[each for each in answers if each.error],
        views=known,
        paces={(name, number): pace for name, found in known for number, pace in _paces(visit, name, found).items()},
    )


async def _status(visit: Visit, name: str) -> ViewStatus:
    return await view_status(visit.services.view(name))


def _paces(visit: Visit, name: str, found: ViewStatus) -> dict[int, Going | None]:
    """How fast each version is read, by its number."""
    pace = visit.console.pace
    return {each.version: pace.look(name, each.version, each.done, each.total) for each in found.versions}


async def view(visit: Visit) -> Response:
    name = visit.asked("service")
    of, may = visit.services.view(name), visit.may(_ACTIONS)
    async with visit.services.opened_view(name) as access:
        found = await operations.status_in(access)
        lacks = await operations.missing(access, of.version)
    can = _possible(found, of.version, lacks)
    return visit.page(
        "view",
        changes=[name],
        service=name,
        view=found,
        version=of.version,
        lacks=lacks,
        paces=_paces(visit, name, found),
        choices=[(do, *_SAID[do], do in _DANGEROUS) for do in _ACTIONS if may[do] and can[do]],
    )


def _possible(row: ViewRow, version: int, lacks: Missing) -> Mapping[str, bool]:
    """What the table of states lets anybody do now: a form for anything else would only be refused."""
    return {
        "rebuild": _allows(states.begin(version, ""), row),
        "pause": _allows(states.pause(""), row),
        "resume": _allows(states.resume(""), row),
        "swap": _allows(states.swap(version, ""), row),
        "accept-missing": bool(lacks.positions),
        "rollback": _allows(states.rollback(""), row),
        "drop": bool(row.previous or row.building),
    }


def _allows(rule: states.Rule, row: ViewRow) -> bool:
    try:
        rule(row, 0.0)
    except UsageError:
        return False
    return True


async def decide(visit: Visit) -> Response:
    """A form of the page of one view."""
    fields = await visit.form()
    name, do = fields.text("service"), fields.text("do")
    by, of = visit.deciding(fields.one_of("do", _ACTIONS), fields.text("reason")), visit.services.view(name)
    version = fields.number("version") if do in ("rollback", "drop", "accept-missing") else 0
    count, seen = (fields.number("count"), fields.text("seen")) if do == "accept-missing" else (0, "")
    rate = _rate(fields) if do in ("rebuild", "resume") else None

    async def work(run: Run) -> None:
        async with visit.services.opened_view(name, make=do == "rebuild") as access:
            if do == "accept-missing":
                accepted = await operations.accept_missing(access, version, count, by, seen)
                without = [f"{each.topic}/{each.partition} of {each.source}" for each in accepted]
                run.tell(f"view {of.view}: version {version} goes on without {count} positions: {', '.join(without)}")
                return
            versions = access.deciding(by, f"views {do}")
            done: dict[str, Callable[[], Awaitable[ViewRow]]] = {
                "rebuild": lambda: versions.rebuild(of.version, by.actor, rate or 0.0),
                "pause": lambda: versions.book.change(states.pause(by.actor)),
                "resume": lambda: versions.book.change(states.resume(by.actor, rate)),
                "swap": lambda: versions.swap(of.version, by.actor, access.broker),
                "rollback": lambda: versions.rollback(by.actor, access.broker, version),
                "drop": lambda: versions.drop(version, by.actor),
            }
            run.tell(_now(await done[do]()))

    back = link("/view", service=name)
    return await visit.decided(fields, f"{do} view {of.view}", by, (name, do), back, work)


def _rate(fields: Fields) -> float | None:
    """Events per second; 0: as fast as it can; None: nothing was typed. Raises UsageError for what is no number."""
    typed = fields.text("rate", "").strip()
    try:
        rate = float(typed) if typed else None
    except ValueError:
        rate = math.nan
    if rate is not None and not 0 <= rate < math.inf:
        raise UsageError(f"rate: {typed[:40]!r}, expected events a second, such as 500 or 0.5")
    return rate


def _now(row: ViewRow) -> str:
    others = [
        f"version {row.previous} was asked before" * bool(row.previous),
        f"version {row.building} is {row.state.value}" * bool(row.building),
    ]
    return "; ".join([f"view {row.name}: version {row.active} is asked", *filter(None, others)])
