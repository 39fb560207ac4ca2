"""What is there, and how it stands: services, topology, flows, decisions."""

from __future__ import annotations

from collections import Counter
from contextlib import aclosing
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Path, Query, Response

from ensue.console.access import Action, Role
from ensue.console.flow_shown import shown_flow
from ensue.console.payloads import shown_change
from ensue.console.rest.answers import (
    DecisionPage,
    DecisionShown,
    EventFlow,
    Flow,
    Me,
    SagaDeclared,
    ServiceList,
    ServiceSummary,
    Topology,
    answered,
)
from ensue.console.rest.asked import PAGE, After, Limit, Named, Who
from ensue.console.rest.cursors import cursor_of, read_cursor
from ensue.console.rest.finding import invalid
from ensue.console.rest.route import ActionRoute, Asking, asks
from ensue.console.services import Answer, NotFound
from ensue.deciding import Decision
from ensue.operations import decisions as operations
from ensue.operations.flow.gather import gather
from ensue.operations.flow.sagas import in_time
from ensue.operations.flow.sequence import sequence_of
from ensue.operations.status import ServiceStatus, service_status
from ensue.operations.topology import find_flows, find_sagas, find_warnings
from ensue.view import View

router = APIRouter(route_class=ActionRoute, tags=["services"])


@router.get("/me", **asks(Action.SEE))
async def show_me(who: Who) -> Response:
    """Who asks, by the host's word, and what they may do."""
    roles = sorted((Role(each) for each in who.actor.roles), key=list(Role).index)
    return answered(Me(who.actor.name, roles, who.actor.allowed, who.payloads))


@router.get("/services", **asks(Action.SEE))
async def list_services(who: Who) -> Response:
    """List the services, a line each. One whose database does not answer says why, and hides nothing of the others."""
    services = who.desk.services
    found = await services.each(service_status, broker=True)
    views = {each.name for each in services.all if isinstance(each, View)}
    return answered(ServiceList([summary_of(each, view=each.service in views) for each in found]))


def summary_of(answer: Answer[ServiceStatus], *, view: bool) -> ServiceSummary:
    status = answer.found
    if status is None:
        return ServiceSummary(service=answer.service, view=view, error=answer.error)
    sagas: Counter[str] = Counter()
    for each in status.sagas:
        sagas[each.status] += each.count
    hindrances = [*status.relay, *status.warnings, *(f"{part}: {why}" for part, why in status.unanswered.items())]
    return ServiceSummary(
        service=answer.service,
        view=view,
        error="",
        workers=len(status.workers) - len(set(status.workers) & set(status.gone)),
        gone=len(status.gone),
        unsent=status.outbox.unsent,
        lag=status.lag,
        dead_letters=status.dead_letters,
        gaps=dict(Counter(gap.state.value for each in status.partitions for gap in each.gaps)),
        sagas=dict(sagas),
        paused=status.paused,
        hindrances=hindrances + ([f"log: {status.broker_error}"] if status.broker_error else []),
    )


@router.get("/services/{service}", **asks(Action.SEE))
async def show_service(service: Named, who: Who) -> Response:
    """Show all that database and log say of one service, as `ensue status` does."""
    async with who.desk.services.opened(service, broker=True) as access:
        return answered(await service_status(access))


@router.get("/topology", **asks(Action.SEE))
async def show_topology(who: Who) -> Response:
    """Show who publishes, calls and handles what: from the declarations alone, whether anything runs or not."""
    services = who.desk.services.all
    flows = find_flows(services)
    events = [
        EventFlow(each.type, each.topic, each.publishers, each.callers, dict(each.subscribers), each.reply)
        for each in flows
    ]
    sagas = [SagaDeclared(*each) for each in find_sagas(services)]
    return answered(Topology(events, sagas, find_warnings(services, flows)))


@router.get("/flows/{correlation_id}", **asks(Action.SEE))
async def show_flow(
    correlation_id: Annotated[str, Path(min_length=1, max_length=300)],
    who: Who,
    records: Annotated[
        int, Query(ge=1, le=100_000, description="Look at so many of the last records of each partition and outbox")
    ] = 10_000,
) -> Response:
    """Show one business transaction across the services: its events in order, what each followed from, what came of it.
    Where something could not be looked at, it says so; also where it was cut, since one search looks at 100,000 records
    in all, and shows 5,000 events."""
    services = who.desk.services
    found = await gather(services.all, correlation_id, records, services.flow_bounds)
    sagas = in_time(found.sagas)
    events = sequence_of(found.sightings, found.subscribers, {each.saga for each in sagas}, found.cut)
    if not events and not found.unanswered:
        other = f": it is the id of a message, whose flow is {found.flow_of}" if found.flow_of else ""
        raise NotFound(f"no event of flow {correlation_id[:80]!r} is known{other}; the retention may have taken it")
    shown = shown_flow(events, sagas, who.payloads)
    return answered(Flow(correlation_id, *shown, found.unseen, found.unanswered))


@router.get("/services/{service}/decisions", tags=["decisions"], **asks(Action.SEE))
async def list_decisions(
    service: Named,
    who: Who,
    after: After = None,
    before: Annotated[str | None, Query(max_length=1_000, description="`previous` of the page after it")] = None,
    last: Annotated[bool, Query(description="The last ones instead of the first; goes with no `after`")] = False,
    limit: Limit = PAGE,
) -> Response:
    """List what people have decided, in the order in which they did. Nothing prunes it. From the end: the page that
    `last` has, then with `before` those that come before it."""
    if after is not None and (last or before is not None):
        raise invalid("after goes with neither last nor before: a page begins at one place")
    begin, end = (None if each is None else read_cursor(each) for each in (after, before))
    async with who.desk.services.opened_decisions(service) as books:
        from_end = last or end is not None
        if from_end:
            found, more = await operations.newest(books, limit, end)
        else:
            found, more = [], False
            async with aclosing(operations.decisions(books, begin)) as all_of_them:
                async for each in all_of_them:
                    if more := len(found) == limit:
                        break
                    found.append(each)
    following = cursor_of(found[-1].decided_at, found[-1].id) if more and not from_end else None
    previous = cursor_of(found[0].decided_at, found[0].id) if more and from_end else None
    total = None if more or begin or end else len(found)
    return answered(DecisionPage([_shown(each, who) for each in found], total, following, who.payloads, previous))


def _shown(decision: Decision, who: Asking) -> DecisionShown:
    before, after = (
        shown_change(decision.action, _read(each), who.payloads) for each in (decision.before, decision.after)
    )
    return DecisionShown(
        decision.id, decision.decided_at, decision.actor, decision.origin, decision.action, decision.target,
        decision.reason, before, after,
    )  # fmt: skip


def _read(state: msgspec.Raw) -> Any:
    return msgspec.json.decode(state)
