"""`ensue partitions`: to have nobody work on a partition for a while, or somebody else."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer

from ensue.cli.beside import run_beside
from ensue.cli.loading import load_service
from ensue.cli.operator import deciding
from ensue.cli.options import By, Reason, Target
from ensue.cli.output import say
from ensue.deciding import Deciding
from ensue.errors import UsageError
from ensue.operations import partitions as operations
from ensue.operations.opening import Opened
from ensue.operations.partitions import Steered

app = typer.Typer(help="Partitions: have nobody work on one for a while, or another worker.", no_args_is_help=True)

_WHERE = typer.Argument(metavar="TOPIC/N", help="As `ensue status` shows it")

_Steer = Callable[[Opened, str, int, Deciding], Awaitable[Steered]]


@app.command()
def pause(
    service: Target,
    partition: Annotated[str, _WHERE],
    by: By = "",
    reason: Reason = "",
) -> None:
    """Have nobody read and handle a partition until `resume`, also after a restart. All else of the service goes on."""
    found = _steer(service, partition, operations.pause, deciding(by, reason))
    until = f" as soon as {found.worker} has finished what it is at" if found.worker else ""
    say(f"partition {partition}: paused{until}; what comes waits in the log")
    say(f"to go on: ensue partitions resume {service} {partition}")


@app.command()
def resume(
    service: Target,
    partition: Annotated[str, _WHERE],
    by: By = "",
    reason: Reason = "",
) -> None:
    """Have a paused partition worked on again."""
    _steer(service, partition, operations.resume, deciding(by, reason))
    say(f"partition {partition}: goes on as soon as a worker sees this")


@app.command()
def release(
    service: Target,
    partition: Annotated[str, _WHERE],
    by: By = "",
    reason: Reason = "",
) -> None:
    """Have a partition's worker give it up when it has finished what it is at. Whoever has least takes it then."""
    found = _steer(service, partition, operations.release, deciding(by, reason))
    say(f"partition {partition}: {found.worker} gives it up as soon as it has finished what it is at")


def _steer(service: str, partition: str, steer: _Steer, by: Deciding) -> Steered:
    definition = load_service(service)
    topic, _, number = partition.rpartition("/")
    if not topic or not re.fullmatch("[0-9]{1,9}", number):
        raise UsageError(f"{partition!r} is no partition: expected TOPIC/N, such as orders/0")

    return run_beside(definition, lambda access: steer(access, topic, int(number), by), target=service)
