"""Overview: each service in a line, and a line for each thing that is wrong, with the command that repairs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from starlette.responses import Response

from ensue.codec import decode_envelope
from ensue.console.rendering import link
from ensue.console.visit import Visit
from ensue.engine.clock import seconds_of
from ensue.message import GapState
from ensue.operations.opening import Opened
from ensue.operations.status import ANSWER_S, SagaStatus, ServiceStatus, service_status
from ensue.saga.instance import Status


@dataclasses.dataclass(frozen=True)
class Wrong:
    """One thing that is wrong. path: of the screen that shows it. command: what repairs it; empty: there is no one."""

    service: str
    text: str
    path: str
    command: str = ""


@dataclasses.dataclass(frozen=True)
class Overview:
    """One service. target: how the command line names it. oldest_unsent_s: age of the first event that is not sent, in
    seconds, 0: all are."""

    service: str
    target: str
    of_view: bool
    status: ServiceStatus
    alive: int
    gone: int
    gaps: int
    oldest_unsent_s: float


async def overview(visit: Visit) -> Response:
    answers = await visit.services.each(_look, broker=True)
    services = [each.found for each in answers if each.found is not None]
    return visit.page(
        "overview",
        changes=visit.services.names,
        troubles=[each for each in answers if each.error],
        found=services,
        lines=[
            line for each in services for line in wrong(each.service, each.target, each.status, of_view=each.of_view)
        ],
    )


async def _look(access: Opened) -> Overview:
    status = await service_status(access, ANSWER_S)
    unsent = 0.0
    if status.outbox.unsent and access.store.capabilities.publishes:
        unsent = await _oldest_s(access, status.outbox.sent)
    alive = len(set(status.workers) - set(status.gone))
    return Overview(
        access.service.name, access.target, access.service.is_view, status, alive, len(status.gone),
        sum(len(each.gaps) for each in status.partitions), unsent,
    )  # fmt: skip


async def _oldest_s(access: Opened, sent: int) -> float:
    """The age of the first event that is not sent, by the time that it says itself, seconds."""
    now = await access.store.now()
    first = await access.store.outbox_after(sent, 1)
    return max(now - seconds_of(decode_envelope(first[0].envelope).time, now), 0.0) if first else 0.0


def _sagas(group: SagaStatus) -> str:
    return f"{group.count} saga{'s' * (group.count != 1)} {group.saga}"


def wrong(name: str, target: str, status: ServiceStatus, *, of_view: bool = False) -> Iterator[Wrong]:
    """What is wrong with a service. A pure rule over its status. target: how the command line names it. of_view: it is
    a view, which other commands repair."""
    here = f"/services/{name}"
    if status.broker_error:
        yield Wrong(name, f"the log cannot be asked: {status.broker_error}", here)
    for part, reason in status.unanswered.items():
        yield Wrong(name, f"{part}: {reason}", here)
    if not set(status.workers) - set(status.gone):
        yield Wrong(name, "no worker lives: nothing is sent or handled", here, f"ensue run {target}")
    else:
        for reason in status.relay:
            yield Wrong(name, reason, here)
    for held in status.outbox.held:
        yield Wrong(name, str(held), here)
    if dead := status.dead_letters.get("dead", 0):
        yield Wrong(name, f"{dead} dead letter{'s' * (dead != 1)}", "/failures", f"ensue dead-letters groups {target}")
    gaps = [(each, gap) for each in status.partitions for gap in each.gaps]
    # What a view goes on without is kept with its version.
    repairs = "ensue views accept-missing" if of_view else "ensue gaps accept"
    for each, gap in gaps:
        if gap.state is GapState.LOST:
            text = f"{each.topic}/{each.partition}: messages of {gap.source} are lost"
            yield Wrong(name, text, link("/losses", service=name), f"{repairs} {target}")
    if still := len([gap for _, gap in gaps if gap.state is not GapState.LOST]):
        yield Wrong(name, f"{still} open gap{'s' * (still != 1)}: asked for again", link("/losses", service=name))
    for group in status.sagas:
        if group.status == Status.PARKED:
            path = link("/sagas", service=name, status=group.status)
            yield Wrong(name, f"{_sagas(group)} parked", path, f"ensue sagas list {target}")
        if not group.code:
            yield Wrong(name, f"{_sagas(group)} without code here, version {group.version}", here)
    for place in status.paused:
        yield Wrong(name, f"partition {place} is paused", here, f"ensue partitions resume {target} {place}")
    for each_busy in status.busy:
        yield Wrong(name, f"{each_busy.worker} is busy for {each_busy.running_s:.0f} s with {each_busy.what}", here)
    if status.suspects:
        yield Wrong(name, f"the last worker died at {', '.join(status.suspects)}", here)
    if status.stranger is not None:
        yield Wrong(name, f"{status.stranger.worker} came with another log and was refused", here)
    for each in status.partitions:
        for source in each.doubted:
            text = f"{each.topic}/{each.partition}: {source} writes below what was applied of it"
            yield Wrong(name, text, link("/losses", service=name), f"ensue gaps rewind {target}")
    for line in status.warnings:
        yield Wrong(name, line, here)
