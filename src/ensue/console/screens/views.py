"""Views: their versions, how far each is; and to build one, to have it asked, to go back, to remove one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.visit import Visit
from ensue.operations.views import ViewStatus, view_status
from ensue.view import View
from ensue.views import states
from ensue.views.states import ViewRow

_ACTIONS = {
    "rebuild": Action.VIEW_REBUILD,
    "pause": Action.VIEW_PAUSE,
    "resume": Action.VIEW_RESUME,
    "swap": Action.VIEW_SWAP,
    "rollback": Action.VIEW_ROLLBACK,
    "drop": Action.VIEW_DROP,
}
_DANGEROUS = ("swap", "rollback", "drop")
_SAID = {
    "rebuild": (
        "Rebuild",
        "Begin to build the code's version beside the one that is asked. Processes that run its code build it.",
    ),
    "pause": ("Pause", "Feed the version that is being built no more, until somebody resumes it."),
    "resume": ("Resume", "The building goes on."),
    "swap": ("Swap", "Queries are answered by the code's version from now on. Refused while it is not ready."),
    "rollback": ("Roll back", "Queries are answered by the version that was asked before."),
    "drop": ("Drop", "Feed a version no more, and remove it with all its rows, for good."),
}


async def views(visit: Visit) -> Response:
    names = [name for name in visit.services.names if isinstance(visit.services.service(name), View)]
    answers = await asyncio.gather(*(visit.services.answer(name, partial(_status, visit, name)) for name in names))
    return visit.page(
        "views",
        changes=names,
        troubles=[each for each in answers if each.error],
        views=[(each.service, each.found) for each in answers if each.found is not None],
    )


async def _status(visit: Visit, name: str) -> ViewStatus:
    return await view_status(visit.services.view(name))


async def view(visit: Visit) -> Response:
    name = visit.asked("service")
    of, may = visit.services.view(name), visit.may(_ACTIONS)
    choices = [(do, *_SAID[do], do in _DANGEROUS) for do in _ACTIONS if may[do]]
    return visit.page(
        "view", changes=[name], service=name, view=await view_status(of), version=of.version, choices=choices
    )


async def decide(visit: Visit) -> Response:
    """A form of the page of one view."""
    fields = await visit.form()
    name, do = fields.text("service"), fields.text("do")
    by, of = visit.deciding(fields.one_of("do", _ACTIONS), fields.text("reason")), visit.services.view(name)
    version = fields.number("version") if do in ("rollback", "drop") else 0

    async def work(run: Run) -> None:
        async with visit.services.opened_view(name, make=do == "rebuild") as access:
            versions = access.deciding(by, f"views {do}")
            done: dict[str, Callable[[], Awaitable[ViewRow]]] = {
                "rebuild": lambda: versions.rebuild(of.version, by.actor, 0.0),
                "pause": lambda: versions.book.change(states.pause(by.actor)),
                "resume": lambda: versions.book.change(states.resume(by.actor, None)),
                "swap": lambda: versions.swap(of.version, by.actor, access.broker),
                "rollback": lambda: versions.rollback(by.actor, access.broker, version),
                "drop": lambda: versions.drop(version, by.actor),
            }
            run.tell(_now(await done[do]()))

    back = link("/view", service=name)
    return await visit.decided(fields, f"{do} view {of.view}", by, (name, do), back, work)


def _now(row: ViewRow) -> str:
    others = [
        f"version {row.previous} was asked before" * bool(row.previous),
        f"version {row.building} is {row.state.value}" * bool(row.building),
    ]
    return "; ".join([f"view {row.name}: version {row.active} is asked", *filter(None, others)])
