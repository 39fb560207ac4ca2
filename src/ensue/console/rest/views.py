"""The versions of a view: how they stand, to build one, to have one asked, to go back."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Response

from ensue.console.access import Action
from ensue.console.rest.answers import answered
from ensue.console.rest.asked import Named, Who
from ensue.console.rest.bodies import AcceptMissing, DropVersion, Rebuild, ResumeBuild, RollBack, Why
from ensue.console.rest.route import ActionRoute, Asking, asks
from ensue.deciding import Deciding
from ensue.operations import views as operations
from ensue.operations.repeats import Repeated
from ensue.operations.views import OpenedView
from ensue.view import View
from ensue.views import states
from ensue.views.states import ViewRow

router = APIRouter(route_class=ActionRoute, tags=["views"])

_VIEW = "/services/{service}/view"

Decide = Callable[[OpenedView, View, Deciding], Awaitable[ViewRow]]


@router.get(_VIEW, **asks(Action.SEE))
async def show_view(service: Named, who: Who) -> Response:
    """Show a view's versions: which is asked, which are fed, how far each is, and what it is not ready for."""
    async with who.desk.services.opened_view(service) as access:
        return answered(await operations.status_in(access))


@router.post(_VIEW + "/rebuild", **asks(Action.VIEW_REBUILD))
async def rebuild_view(service: Named, body: Rebuild, who: Who) -> Response:
    """Begin to build the code's version beside the one that is asked. Processes that have its code build it."""

    async def begin(access: OpenedView, view: View, by: Deciding) -> ViewRow:
        versions = access.deciding(by, who.action.value)
        return await versions.rebuild(view.version, by.actor, body.rate)

    return await _decided(who, service, body, begin, make=True)


@router.post(_VIEW + "/pause", **asks(Action.VIEW_PAUSE))
async def pause_build(service: Named, body: Why, who: Who) -> Response:
    """Feed the version that is building no more until it is resumed: whichever that is, since it can be taken back."""
    return await _decided(who, service, body, _by_rule(who, lambda by: states.pause(by.actor)))


@router.post(_VIEW + "/resume", **asks(Action.VIEW_RESUME))
async def resume_build(service: Named, body: ResumeBuild, who: Who) -> Response:
    """Have a paused building go on, or one that runs go on at another rate."""
    return await _decided(who, service, body, _by_rule(who, lambda by: states.resume(by.actor, body.rate)))


@router.post(_VIEW + "/swap", **asks(Action.VIEW_SWAP))
async def swap_version(service: Named, body: Why, who: Who) -> Response:
    """Have queries answered by the code's version from now on. Refused, and said why, while that is not ready."""

    async def swap(access: OpenedView, view: View, by: Deciding) -> ViewRow:
        return await access.deciding(by, who.action.value).swap(view.version, by.actor, access.broker)

    return await _decided(who, service, body, swap)


@router.post(_VIEW + "/accept-missing", **asks(Action.VIEW_ACCEPT_MISSING))
async def accept_missing(service: Named, body: AcceptMissing, who: Who) -> Response:
    """Have the code's version go on without what log and outbox have lost; is kept and shown for ever after.
    `positions` has to be how many that are, and `seen` which: `missing` of the version, as the view was shown."""

    async def accept(access: OpenedView, view: View, by: Deciding) -> ViewRow:
        await operations.accept_missing(access, view.version, body.positions, by, body.seen)
        return await access.versions.book.row()

    return await _decided(who, service, body, accept)


@router.post(_VIEW + "/rollback", **asks(Action.VIEW_ROLLBACK))
async def roll_back(service: Named, body: RollBack, who: Who) -> Response:
    """Have queries answered by the version that was asked before: `previous` of the view, as it was seen."""

    async def back(access: OpenedView, view: View, by: Deciding) -> ViewRow:
        return await access.deciding(by, who.action.value).rollback(by.actor, access.broker, body.version)

    return await _decided(who, service, body, back)


@router.post(_VIEW + "/drop", **asks(Action.VIEW_DROP))
async def drop_version(service: Named, body: DropVersion, who: Who) -> Response:
    """Feed a version no more, previous or building, and remove its place with all that is in it."""

    async def drop(access: OpenedView, view: View, by: Deciding) -> ViewRow:
        return await access.deciding(by, who.action.value).drop(body.version, by.actor)

    return await _decided(who, service, body, drop)


def _by_rule(who: Asking, rule: Callable[[Deciding], states.Rule]) -> Decide:
    async def change(access: OpenedView, view: View, by: Deciding) -> ViewRow:
        return await access.deciding(by, who.action.value).book.change(rule(by))

    return change


async def _decided(who: Asking, service: str, body: Why, decide: Decide, *, make: bool = False) -> Response:
    """The view's row as it is then. Its states are a table, so what is asked for again is refused by itself; under its
    Idempotency-Key it is answered as it was."""
    by, view = who.why(body.reason), who.desk.services.view(service)
    async with who.desk.services.opened_view(service, make=make) as access:

        async def do(repeated: Repeated) -> ViewRow:
            return await decide(access, view, by)

        return await who.done_once(access, do)
