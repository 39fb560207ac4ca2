"""`ensue run`: services in this process, or in several that share the work."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from ensue.app import Service
from ensue.cli.completing import services_here
from ensue.cli.http import Address, probes, read_address
from ensue.cli.loading import load_services
from ensue.cli.processes import Supervisor, follow_parent
from ensue.cli.reloading import watched, watching
from ensue.cli.serving import Stop, serve
from ensue.config import LOG_FORMATS
from ensue.errors import UsageError
from ensue.logs import choose_format, configure

LEVELS = ("debug", "info", "warning", "error")


def run(
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several"),
    ],
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Child processes that share the work; one that ends is started again")
    ] = 1,
    http: Annotated[
        str,
        typer.Option(
            metavar="[HOST]:PORT",
            help="Answer /livez, /healthz, /readyz and /metrics there; of several processes at ports that follow",
        ),
    ] = "",
    reload: Annotated[
        bool, typer.Option("--reload", help="Start anew when a Python file has changed; for development")
    ] = False,
    reload_dir: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIRECTORY", help="With --reload: look here, and not in this directory; repeatable"),
    ] = None,
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
    with 70 when a handler hangs: start it again, and after some times that message is set aside. With --processes the
    parent starts a child that ends so again, after a pause that grows to 30 seconds, for as long as nobody stops it;
    with --reload it waits for the code to change.
    """
    choose_format(log_format)
    if log_level not in LEVELS:
        raise UsageError(f"--log-level is {log_level!r}, expected one of {', '.join(LEVELS)}")
    address = read_address(http) if http else None
    addresses = [address and address.of_process(number) for number in range(1, processes + 1)]
    if reload_dir and not reload:
        raise UsageError("--reload-dir says where --reload looks: give that too")
    directories = watched(reload_dir or []) if reload else []
    # With --reload the code may be broken just now, and the parent has to live longer than one version of it.
    definitions = [] if reload else load_services(services)
    configure(log_level)
    if processes > 1 or reload:
        command = [sys.executable, "-m", "ensue", "run", *services, "--log-level", log_level, "--follow-parent"]
        commands = [[*command, *(() if each is None else ("--http", str(each)))] for each in addresses]
        code = asyncio.run(_supervise(commands, directories))
    else:
        with Stop(followed=child) as stop:
            if child:
                follow_parent()
            code = asyncio.run(_serve(definitions, stop, address))
    raise typer.Exit(code)


async def _supervise(commands: Sequence[Sequence[str]], directories: Sequence[Path]) -> int:
    """directories: where code that changes has all of them start anew; none: nowhere."""
    supervisor = Supervisor(commands, patient=bool(directories))
    if not directories:
        return await supervisor.run()
    async with watching(directories, supervisor.reload):
        return await supervisor.run()


async def _serve(services: Sequence[Service], stop: Stop, address: Address | None) -> int:
    if address is None:
        return await serve(services, stop)
    async with probes(address, services):
        return await serve(services, stop)
