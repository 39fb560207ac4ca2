"""Flow: one business transaction across services, as a drawing and as a list."""

from __future__ import annotations

from starlette.responses import Response

from ensue.console.drawing import flow_drawing
from ensue.console.flow_shown import shown_flow
from ensue.console.visit import Visit
from ensue.operations.flow.gather import Found, gather
from ensue.operations.flow.sagas import in_time
from ensue.operations.flow.sequence import sequence_of

#: So many of the last records of each partition, and of each outbox, are looked at.
_RECORDS_MAX = 10_000


async def flow(visit: Visit) -> Response:
    flow_id = visit.asked("id", "")
    found = await gather(visit.services.all, flow_id, _RECORDS_MAX, visit.services.flow_bounds) if flow_id else Found()
    sagas = in_time(found.sagas)
    events = sequence_of(found.sightings, found.subscribers, {each.saga for each in sagas})
    events, sagas = shown_flow(events, sagas, visit.payloads)
    return visit.page(
        "flow",
        changes=visit.services.names if flow_id else [],
        id=flow_id,
        events=events,
        drawing=flow_drawing(events) if events else "",
        sagas=sagas,
        flow_of=found.flow_of,
        unseen=found.unseen,
        troubles=[f"{part}: {reason}" for part, reason in found.unanswered.items()],
    )
