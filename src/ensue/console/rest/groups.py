"""Groups of failures: what there is, to try one again with a brake, to give one up."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Response
from fastapi.responses import StreamingResponse
from msgspec import structs

from ensue.addresses import masked
from ensue.console.access import Action
from ensue.console.apart import Following, apart
from ensue.console.payloads import shown_error
from ensue.console.rest.answers import HEADERS, GroupList, LettersDecided, answered, written
from ensue.console.rest.asked import GroupName, Named, Who
from ensue.console.rest.bodies import DiscardGroup, Why
from ensue.console.rest.finding import looking_up
from ensue.console.rest.letters import decided_of
from ensue.console.rest.route import ActionRoute, again, asks
from ensue.errors import EnsueError
from ensue.operations import group_decisions
from ensue.operations.group_decisions import Progress
from ensue.operations.repeats import Repeated, done_once

router = APIRouter(route_class=ActionRoute, tags=["dead letters"])

_GROUPS = "/services/{service}/groups"
#: One JSON document a line.
LINES = "application/x-ndjson"


@router.get(_GROUPS, **asks(Action.SEE))
async def list_groups(service: Named, who: Who) -> Response:
    """List what has failed by its cause: handler, type of error and line of the service's own code; the largest group
    first."""
    async with who.desk.services.opened(service) as access:
        found = await group_decisions.groups(access)
    mode = who.payloads
    return answered(GroupList([structs.replace(each, error=shown_error(each.error, mode)) for each in found]))


@router.post(_GROUPS + "/{group}/discard", **asks(Action.LETTER_DISCARD))
async def discard_group(service: Named, group: GroupName, body: DiscardGroup, who: Who) -> Response:
    """Give up every letter of a group that is dead. `dead` has to be how many these are, and `seen` of the group says
    that they are the same ones."""
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> LettersDecided:
            with looking_up():
                ids = await group_decisions.group_ids(access, group)
            group_decisions.check_confirmed(group, ids, body.dead, body.seen)
            found = []
            async with aclosing(group_decisions.discard_group(access, group, by, ids, why_not=who.why_not)) as decided:
                async for each in decided:
                    repeated.started = True
                    found.append(each)
            return decided_of(found)

        return await who.done_once(access, do)


@router.post(
    _GROUPS + "/{group}/retry",
    response_class=StreamingResponse,
    **asks(Action.LETTER_RETRY),
)
async def retry_group(service: Named, group: GroupName, body: Why, who: Who) -> Response:
    """Try a group's dead letters again in waves: 1, then 10, then 100, then the rest. The first that fails anew ends
    it, and so does a wave to which nothing happens for a minute; what was not released then is as it was. Before each
    wave it is asked again whether the actor still may: an `end` of `not allowed any more` says `why`.

    Answers with a line of JSON whenever it has come further; the last one has an `end`. Whoever closes the connection
    stops it before the next letters are released. Under an Idempotency-Key that came before only the last line is
    given.
    """
    by = who.why(body.reason)
    key, fingerprint = await who.key()
    before: list[Repeated] = []

    async def lines() -> AsyncGenerator[bytes, None]:
        async with who.desk.services.opened(service) as access, done_once(access, key, fingerprint) as repeated:
            if repeated.answer is not None:  # of a group that is gone since, perhaps
                before.append(repeated)
                return
            with looking_up():
                await group_decisions.group_ids(access, group)
            async with (
                aclosing(group_decisions.retry_group(access, group, by, why_not=who.why_not)) as progress,
                aclosing(_lines(repeated, progress)) as found,
            ):
                async for each in found:
                    yield each

    rest = apart(lines)
    first = await anext(rest, b"")  # what is refused is refused here, as a problem
    if before:
        return again(before[0])
    return Following(first, rest, headers=HEADERS, media_type=LINES)


async def _lines(repeated: Repeated, progress: AsyncGenerator[Progress, None]) -> AsyncGenerator[bytes, None]:
    line = b""
    try:
        async for each in progress:
            repeated.started = True
            line = written(each) + b"\n"
            yield line
    except EnsueError as error:
        if not repeated.started:
            raise
        line = written({"end": "stopped", "detail": masked(str(error))}) + b"\n"  # the status has gone out
        yield line
    await repeated.keep(200, {"Content-Type": LINES}, line)
