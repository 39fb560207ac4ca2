"""`ensue run`: services in this process, or in several that share the work."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from ensue.cli.loading import load_services
from ensue.cli.processes import follow_parent, supervise
from ensue.cli.serving import Stop, serve
from ensue.config import LOG_FORMATS
from ensue.errors import UsageError
from ensue.logs import choose_format, configure

LEVELS = ("debug", "info", "warning", "error")


def run(
    services: Annotated[list[str], typer.Argument(metavar="SERVICE...", help="MODULE:NAME, one or several")],
    processes: Annotated[int, typer.Option(min=1, max=64, help="Child processes that share the work")] = 1,
    log_level: Annotated[
        str,
        typer.Option(
            metavar="|".join(LEVELS), help="How much to log, on standard error, unless the application sets logging up"
        ),
    ] = "info",
    log_format: Annotated[
        str,
        typer.Option(
            metavar="|".join(LOG_FORMATS), help="A line each for people or for a machine; else as ENSUE_LOG_FORMAT says"
        ),
    ] = "",
    child: Annotated[bool, typer.Option("--follow-parent", hidden=True)] = False,
) -> None:
    """Run services until SIGTERM or Ctrl-C: relay, handlers, retries. Starting it twice shares the work too.

    A stop lets the batches at hand finish and gives the leases up, within 5 seconds; a second signal ends it at once.
    Ends with status 1 when a service cannot start, or may not publish (its database was restored from an old copy), and
    with 70 when a handler hangs: start it again, and after some times that message is set aside.
    """
    choose_format(log_format)
    if log_level not in LEVELS:
        raise UsageError(f"--log-level is {log_level!r}, expected one of {', '.join(LEVELS)}")
    definitions = load_services(services)
    _log_to_stderr(log_level)
    if processes > 1:
        command = [sys.executable, "-m", "ensue", "run", *services, "--log-level", log_level, "--follow-parent"]
        code = asyncio.run(supervise(command, processes))
    else:
        with Stop() as stop:
            if child:
                follow_parent()
            code = asyncio.run(serve(definitions, stop))
    raise typer.Exit(code)


def _log_to_stderr(level: str) -> None:
    """Unless the application has set logging up, which it does when its modules are imported."""
    configure(level)
