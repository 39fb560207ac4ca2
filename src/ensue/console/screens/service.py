"""A service and its partitions; and to have nobody work on one for a while, or somebody else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.rendering import link
from ensue.console.runs import Run
from ensue.console.screens.overview import wrong
from ensue.console.visit import Visit
from ensue.deciding import Deciding
from ensue.message import Partition
from ensue.operations import partitions
from ensue.operations.opening import Opened
from ensue.operations.partitions import Steered
from ensue.operations.status import ANSWER_S, service_status

_Steer = Callable[[Opened, str, int, Deciding], Awaitable[Steered]]
_ACTIONS = {
    "pause": Action.PARTITION_PAUSE,
    "resume": Action.PARTITION_RESUME,
    "release": Action.PARTITION_RELEASE,
}
_STEER: dict[str, _Steer] = {"pause": partitions.pause, "resume": partitions.resume, "release": partitions.release}


async def service(visit: Visit) -> Response:
    name = visit.request.path_params["service"]
    async with visit.opened(name, broker=True) as access:
        status = await service_status(access, ANSWER_S)
        lines = list(wrong(name, access.target, status, of_view=access.service.is_view))
    counters, outbox = status.counters, status.outbox
    return visit.page(
        "service",
        changes=[name],
        service=name,
        lines=lines,
        facts=[
            ("Source", status.source),
            ("Database", status.database),
            ("Broker", status.broker),
            ("Outbox", f"written to {outbox.head}, sent to {outbox.sent}, {outbox.unsent} unsent"),
            ("Workers", ", ".join(status.workers) or "none"),
            ("Lag", "?" if status.lag is None else status.lag),
            (
                "So far",
                f"{counters.applied} applied, {counters.duplicates} duplicates skipped, {counters.retries} retries",
            ),
            ("Gaps so far", f"{counters.gaps_seen} seen, {counters.gaps_healed} healed"),
            ("Tables", f"schema {status.tables.schema}"),
        ],
        partitions=status.partitions,
        paused=status.paused,
        leases=status.leases,
    )


async def partition(visit: Visit) -> Response:
    name, topic, number = visit.asked("service"), visit.asked("topic"), visit.asked_number("number")
    place = f"{topic}/{number}"
    async with visit.opened(name) as access:
        table = await access.books.leases()
        checkpoint = await access.books.checkpoint(Partition(access.service.name, topic, number))
    counters = checkpoint.counters
    return visit.page(
        "partition",
        changes=[name],
        service=name,
        topic=topic,
        number=number,
        worker=next((each.owner for each in table.leases if each.name == place), ""),
        paused=place in table.paused,
        checkpoint=checkpoint,
        since=counters.since,
        counters=[(each, count) for each, count in msgspec.structs.asdict(counters).items() if each != "since"],
        may=visit.may(_ACTIONS),
    )


async def steer(visit: Visit) -> Response:
    """A form of the page of a partition."""
    fields = await visit.form()
    name, topic, number = fields.text("service"), fields.text("topic"), fields.number("number")
    do, by = fields.text("do"), visit.deciding(fields.one_of("do", _ACTIONS), fields.text("reason"))

    async def work(run: Run) -> None:
        async with visit.opened(name) as access:
            found = await _STEER[do](access, topic, number, by)
        has = f"{found.worker} has it" if found.worker else "nobody has it"
        run.tell(f"partition {topic}/{number}: {do} is done; {'paused' if found.paused else 'not paused'}, {has} now")

    back = link("/partition", service=name, topic=topic, number=number)
    return await visit.decided(fields, f"{do} {topic}/{number}", by, (name, f"{topic}/{number}"), back, work)
