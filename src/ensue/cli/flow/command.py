"""`ensue flow`: one business transaction, across services, as a sequence."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ensue.cli.completing import services_here
from ensue.cli.flow.text import as_text
from ensue.cli.loading import load_services
from ensue.cli.options import Json
from ensue.cli.output import complain, print_json, say
from ensue.errors import UsageError
from ensue.operations.flow.gather import Found, gather
from ensue.operations.flow.mermaid import as_mermaid
from ensue.operations.flow.sagas import in_time
from ensue.operations.flow.sequence import Published, sequence_of


def flow(
    correlation_id: Annotated[
        str, typer.Argument(metavar="CORRELATION_ID", help="The flow's, as the X-Correlation-Id of an answer has it")
    ],
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several"),
    ],
    records: Annotated[
        int,
        typer.Option(min=1, metavar="COUNT", help="Look at so many of the last records of each partition and outbox"),
    ] = 10_000,
    mermaid: Annotated[bool, typer.Option("--mermaid", help="As a Mermaid sequence diagram")] = False,
    json: Json = False,
) -> None:
    """Show one business transaction across services: its events in order, what each followed from, what came of it.

    What is set aside, not sent yet, not applied yet or published later is shown as that; of a saga what it has asked
    for, and what it waits for. Fields of events are not shown, but keys are.
    """
    if mermaid and json:
        raise UsageError("--mermaid and --json: the flow is written in one way, so give one of them")
    found = asyncio.run(gather(load_services(services), correlation_id, records))
    sagas = in_time(found.sagas)
    events = sequence_of(found.sightings, found.subscribers, {each.saga for each in sagas}, found.cut)
    if not events:
        raise UsageError(_unknown(correlation_id, found), correlation_id=correlation_id)
    if json:
        print_json(
            {
                "correlation_id": correlation_id,
                "events": events,
                "sagas": sagas,
                "not_looked_at": found.unseen,
                "unanswered": found.unanswered,
            }
        )
    else:
        say(*(as_mermaid(events, sagas) if mermaid else as_text(correlation_id, events, sagas)))
        for line in _left_out(found, events, records):
            complain(f"not looked at: {line}")
    for part, reason in found.unanswered.items():
        complain(f"could not be looked at: {part}: {reason}")
    if found.unanswered:
        raise typer.Exit(1)


def _left_out(found: Found, events: list[Published], records: int) -> list[str]:
    """What may belong to the flow all the same."""
    named = {each.name for each in found.subscribers}
    others = {each.sender for each in events if each.source != each.sender} - named
    unnamed = [f"outbox, timers and dead letters of {each}, which was not named" for each in sorted(others)]
    return [*(f"{each} (--records {records})" for each in found.unseen), *unnamed]


def _unknown(correlation_id: str, found: Found) -> str:
    lines = [f"no event of flow {correlation_id} is known: looked at {'; '.join(found.looked_at) or 'nothing'}"]
    lines += [f"not looked at: {each} (--records looks further back)" for each in found.unseen]
    lines += [f"could not be looked at: {part}: {reason}" for part, reason in found.unanswered.items()]
    if found.flow_of:
        lines.append(f"{correlation_id} is the id of a message; its flow is {found.flow_of}")
    else:
        lines.append(
            "a flow's id is the correlation id of its events: `X-Correlation-Id` of the answer to a request, "
            "`step.correlation_id`, `correlationid` in `ensue outbox list --json`; the retention may have taken it"
        )
    return "\n".join(lines)
