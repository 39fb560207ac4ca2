"""The command `ensue`: its commands, and how their errors end it.

Exit status: 0 done; 1 refused or failed, with one message on standard error; 2 a command line that makes no sense.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated

import typer

from ensue.cli import (
    asyncapi,
    config,
    console,
    db,
    dead_letters,
    decisions,
    gaps,
    new,
    outbox,
    partitions,
    publish,
    replay,
    run,
    sagas,
    schemas,
    status,
    timers,
    topology,
    view_check,
    views,
)
from ensue.cli.bash_words import whole_words
from ensue.cli.flow.command import flow
from ensue.cli.help_texts import unwrap
from ensue.cli.output import complain
from ensue.errors import EnsueError

app = typer.Typer(
    name="ensue",
    help="Run services, look at them, and decide what waits for a person. SERVICE is always MODULE:NAME, "
    "e.g. shop.orders:orders.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ensue {version('ensue')}")
        raise typer.Exit


@app.callback()
def _options(
    shown: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit")
    ] = False,
) -> None:
    pass


app.command()(new.new)
app.command()(run.run)
app.command()(status.status)
app.command()(publish.publish)
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(gaps.app, name="gaps")
app.add_typer(partitions.app, name="partitions")
app.add_typer(decisions.app, name="decisions")
app.add_typer(outbox.app, name="outbox")
app.add_typer(timers.app, name="timers")
app.add_typer(sagas.app, name="sagas")
views.app.command()(view_check.check)
views.app.command()(view_check.at)
app.add_typer(views.app, name="views")
app.add_typer(db.app, name="db")
app.add_typer(config.app, name="config")
app.command()(replay.replay)
app.command()(topology.topology)
app.command()(asyncapi.asyncapi)
app.add_typer(schemas.app, name="schemas")
app.command()(flow)
app.command()(console.console)
unwrap(app)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit. arguments: those after the command's name; None: the process's."""
    try:
        with whole_words(os.environ):
            app(None if arguments is None else list(arguments), prog_name="ensue")
    except EnsueError as error:
        complain(str(error))
        sys.exit(1)
