"""`ensue replay`: have one event type handled again from the beginning of the log."""

from __future__ import annotations

from typing import Annotated

import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Reason, Target, Yes
from ensue.cli.output import confirm, say
from ensue.errors import UsageError
from ensue.operations import replay as operations
from ensue.operations.letters import anybody_works
from ensue.operations.opening import Opened


def replay(
    service: Target,
    type: Annotated[str, typer.Option(help="The event's type, as `ensue topology` and dead letters show it")],
    yes: Yes = False,
    by: By = "",
    reason: Reason = "",
) -> None:
    """Have one event type handled again: all of it that the log still has, by all its handlers, in order.

    A second handler of a type that is handled already sees what was published before it only so.
    """
    definition = load_service(service)
    topic = operations.topic_of(definition, type)
    names = ", ".join(each.name for each in definition.handlers[type])

    who = deciding(by, reason)

    async def ask(access: Opened) -> None:
        places = [each for each in await access.books.checkpoints() if each.topic == topic]
        if not places:
            raise UsageError(f"{definition.name} has read nothing of topic {topic} yet")
        say(
            f"All {type} that the log still has goes to {names} again, in {len(places)} partitions: what these did "
            "with it is done a second time. Other types wait until it is done."
        )
        confirm("Handle it again?", yes)
        for each in places:
            await operations.replay(access, each, type, who)
        say(f"asked for: {len(places)} partitions read it again, each as soon as its worker sees this")
        if not await anybody_works(access):
            say(f"No worker of {definition.name} lives: it begins when one runs (ensue run {service})")

    run_beside(definition, ask)
