"""`ensue status`: what a service's database and the log say, beside the running service. Takes and changes nothing."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from typing import Annotated

import typer

from ensue.app import Service
from ensue.cli.completing import services_here
from ensue.cli.loading import load_services
from ensue.cli.options import Json
from ensue.cli.output import complain, print_json, print_table, say
from ensue.errors import EnsueError
from ensue.operations.opening import opened
from ensue.operations.status import ANSWER_S, PartitionStatus, ServiceStatus, service_status


def status(
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several"),
    ],
    json: Json = False,
) -> None:
    """Show outbox, partitions, lag, leases, gaps and dead letters of services, running or not."""
    found: list[ServiceStatus] = []
    failed = False
    for service in load_services(services):
        try:
            found.append(asyncio.run(_look(service)))
        except EnsueError as error:
            complain(str(error))
            failed = True
        else:
            failed = failed or bool(found[-1].unanswered)
    if json:
        print_json({"services": found})
    else:
        for each in found:
            _show(each)
    if failed:
        raise typer.Exit(1)


async def _look(service: Service) -> ServiceStatus:
    async with opened(service, broker=True, answer_s=ANSWER_S) as access:
        return await service_status(access, ANSWER_S)


def _show(status: ServiceStatus) -> None:
    relay = next((_marked(lease.worker, status) for lease in status.leases if lease.name == "relay"), "nobody")
    counters = status.counters
    say(f"{status.service}: source {status.source}, database {status.database}, broker {status.broker}")
    if status.broker_error:
        say(f"  the log cannot be asked: {status.broker_error}")
    for part, reason in status.unanswered.items():
        say(f"  unknown  {part}: {reason}")
    outbox = status.outbox
    say(f"  outbox   written to position {outbox.head}, sent to {outbox.sent}, {outbox.unsent} unsent; relay: {relay}")
    for reason in status.relay:
        say(f"  unsent   {reason}")
    for held in outbox.held:
        say(f"  held     {held}")
    say(f"  tables   schema {status.tables.schema}, for processes of schema {status.tables.readable_by} or later")
    workers = ", ".join(_marked(each, status) for each in status.workers)
    say(f"  workers  {workers or 'none: nothing is sent or handled'}")
    say(
        f"  so far   {counters.applied} applied, {counters.duplicates} duplicates skipped, {counters.unknown} of other "
        f"types, {counters.retries} retries, {counters.gaps_seen} gaps seen, {counters.gaps_healed} healed"
    )
    for line in _passed_over(status.partitions):
        say(f"  records  {line}")
    say(f"  lag      {'unknown' if status.lag is None else status.lag}")
    letters = ", ".join(f"{count} {state}" for state, count in status.dead_letters.items()) or "none"
    say(f"  letters  {letters}")
    if status.sagas:
        counted = [f"{each.count} {each.saga} v{each.version} {each.status}" for each in status.sagas]
        say(f"  sagas    {', '.join(counted)}")
    for group in status.sagas:
        if not group.code:
            many = f"{group.count} saga{'s' * (group.count != 1)} of {group.saga} v{group.version}"
            say(f"  no code  {many}, {group.status}: they wait for a process that has this version")
    for busy in status.busy:
        say(f"  busy     {busy.worker}, for {busy.running_s:.0f} s with one transaction: {busy.what}")
    if status.suspects:
        say(f"  suspect  {', '.join(status.suspects)}: the last worker died there, and messages may go one by one")
    if status.paused:
        say(f"  paused   {', '.join(status.paused)}: nobody reads and handles them until ensue partitions resume")
    if status.stranger is not None:
        stranger = status.stranger
        say(
            f"  refused  {stranger.worker}, {stranger.seen_s:.0f} s ago, with another log ({stranger.log}): is another "
            "environment on this database?"
        )
    for each in status.partitions:
        for source in each.doubted:
            say(
                f"  doubted  {source} in {each.topic}/{each.partition}: applied up to {each.watermarks[source]}, and "
                "its last word lies below: its database went back, or somebody else wrote as it (ensue gaps rewind)"
            )
    for line in status.warnings:
        say(f"  held up  {line}")
    if status.partitions:
        columns = ("partition", "offset#", "log end#", "lag#", "gaps", "set aside", "worker")
        print_table("", columns, [_row(each, status) for each in status.partitions])


def _passed_over(partitions: Iterable[PartitionStatus]) -> list[str]:
    """Records that nobody could handle, by topic, where there are any."""
    counts: dict[str, Counter[str]] = {}
    for each in partitions:
        found = each.counters
        counts.setdefault(each.topic, Counter()).update(
            {
                "damaged (sent again)": found.damaged,
                "not signed by their source (refused)": found.refused,
                "no messages (dead letters)": found.garbage,
            }
        )
    return [
        f"of {topic} passed over: {', '.join(f'{number} {what}' for what, number in found.items() if number)}"
        for topic, found in counts.items()
        if found.total()
    ]


def _marked(worker: str, status: ServiceStatus) -> str:
    return f"{worker} (gone)" if worker in status.gone else worker


def _row(each: PartitionStatus, status: ServiceStatus) -> tuple[object, ...]:
    gaps = "; ".join(
        f"{gap.source} {gap.state.value} after {gap.watermark}, needs {gap.needed}"
        + (f", gone through {gap.lost_through}" if gap.lost_through else "")
        for gap in each.gaps
    )
    aside = ", ".join(f"{count} {state}" for state, count in each.dead_letters.items())
    return (
        f"{each.topic}/{each.partition}", each.offset, "?" if each.log_end is None else each.log_end,
        "?" if each.lag is None else each.lag, gaps, aside,
        _marked(each.worker, status) if each.worker else "-",
    )  # fmt: skip
