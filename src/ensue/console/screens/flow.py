"""Flow: one business transaction across services, as a drawing, as a list, and as a Mermaid diagram for elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.responses import PlainTextResponse, Response

from ensue.console.drawing import DRAWN_MAX, flow_drawing
from ensue.console.flow_shown import shown_flow
from ensue.console.services import NotFound
from ensue.console.traces import traces
from ensue.console.visit import Visit
from ensue.operations.flow.gather import Found, gather
from ensue.operations.flow.mermaid import as_mermaid
from ensue.operations.flow.sagas import SagaSeen, in_time
from ensue.operations.flow.sequence import Published, sequence_of

#: So many of the last records of each partition, and of each outbox, are looked at.
_RECORDS_MAX = 10_000


async def flow(visit: Visit) -> Response:
    flow_id = visit.asked("id", "")
    found = await _found(visit, flow_id) if flow_id else Found()
    events, sagas = _told(visit, found)
    return visit.page(
        "flow",
        changes=visit.services.names if flow_id else [],
        id=flow_id,
        events=events,
        since_cause=_since_causes(events),
        drawing=flow_drawing(events) if events else "",
        # Of a longer one, which nobody reads on a page either, there is the file.
        mermaid=_diagram(events, sagas) if 0 < len(events) <= DRAWN_MAX else "",
        traces=traces(visit.console.trace_url, (each.message.envelope.traceparent for each in found.sightings)),
        sagas=sagas,
        flow_of=found.flow_of,
        unseen=found.unseen,
        troubles=[f"{part}: {reason}" for part, reason in found.unanswered.items()],
    )


async def mermaid(visit: Visit) -> Response:
    """The diagram as a file. Raises NotFound when nothing of the flow is found."""
    flow_id = visit.asked("id")
    events, sagas = _told(visit, await _found(visit, flow_id))
    if not events:
        raise NotFound(f"nothing of flow {flow_id:.100} was found")
    name = "".join(each if each.isascii() and each.isalnum() else "-" for each in flow_id[:80])
    headers = {"Content-Disposition": f'attachment; filename="flow-{name}.mmd"'}
    return PlainTextResponse(_diagram(events, sagas), headers=headers)


async def _found(visit: Visit, flow_id: str) -> Found:
    return await gather(visit.services.all, flow_id, _RECORDS_MAX, visit.services.flow_bounds)


def _told(visit: Visit, found: Found) -> tuple[list[Published], list[SagaSeen]]:
    """As far as the visitor may read it."""
    sagas = in_time(found.sagas)
    events = sequence_of(found.sightings, found.subscribers, {each.saga for each in sagas}, found.cut)
    return shown_flow(events, sagas, visit.payloads)


def _diagram(events: Sequence[Published], sagas: Sequence[SagaSeen]) -> str:
    return "\n".join([*as_mermaid(events, sagas), ""])


def _since_causes(events: Sequence[Published]) -> dict[int, float]:
    """How long after its cause each event was published, seconds, by its number; those alone of which both are known.
    The clocks of two services may differ, so that it may seem to be before."""
    at = {each.number: each.at for each in events}
    found = {}
    for each in events:
        begun = None if each.because_of is None else at[each.because_of]
        if begun is not None and each.at is not None:
            found[each.number] = each.at - begun
    return found
