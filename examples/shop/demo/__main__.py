"""The command: `python -m shop.demo`, `make demo ARGS="--orders 2000 --chaos"`.

Exit status: 0 every invariant holds; 1 one does not, or the run failed; 2 wrong options; 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import asyncio
import enum
import json
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.text import Text

from shop.demo.directory import CannotRun
from shop.demo.driver import OperationFailed
from shop.demo.over_http import AnswerUnexpected
from shop.demo.quiet import NotQuiet
from shop.demo.report import Report
from shop.demo.run import Options, run
from shop.demo.services import PROVIDER
from shop.demo.summary import print_summary
from shop.demo.supervisor import ServiceFailed, Supervisor

T = TypeVar("T")


class Placement(enum.StrEnum):
    CHOREOGRAPHY = "choreography"
    ORCHESTRATION = "orchestration"


class Customers(enum.StrEnum):
    STATE = "state"
    EVENT_SOURCED = "event-sourced"


EXPECTED = (CannotRun, ServiceFailed, OperationFailed, NotQuiet, AnswerUnexpected)


def main(
    orders: Annotated[int | None, typer.Option(min=1, help="The first so many orders; else the whole year.")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random: who interleaves with whom, whom chaos kills.")] = 1,
    rate: Annotated[float | None, typer.Option(min=0.1, help="Orders per second; else as fast as possible.")] = None,
    chaos: Annotated[
        bool,
        typer.Option(
            "--chaos", help="Kill a random service every second or so; with a stack its servers and lines too."
        ),
    ] = False,
    stack: Annotated[
        str, typer.Option(metavar="NAME", help="Databases and broker: embedded, polyglot, postgres-kafka, ...")
    ] = "embedded",
    placement: Annotated[
        Placement,
        typer.Option(help="How an order is placed: by events alone, or by a saga, with payments and a provider."),
    ] = Placement.CHOREOGRAPHY,
    customers: Annotated[
        Customers, typer.Option(help="How customers are kept: as rows, or as what has happened to them.")
    ] = Customers.STATE,
    lose_broker_data: Annotated[
        bool, typer.Option("--lose-broker-data", help="Let the broker forget what it has, three times.")
    ] = False,
    stay: Annotated[
        bool, typer.Option("--stay", help="Leave the services up until Ctrl-C, with the console from the start.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh/--keep", help="Begin anew, or go on with the data there is.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result for a machine.")] = False,
    directory: Annotated[Path, typer.Option(help="Where databases and logs go.")] = Path(".demo"),
) -> None:
    """Replay a real shop's year through the shop's services on this machine, and check that nothing was lost."""
    options = Options(
        directory=directory, orders=orders, seed=seed, rate=rate, chaos=chaos, fresh=fresh, stack=stack,
        lose_broker_data=lose_broker_data, placement=placement.value, customers=customers.value,
    )  # fmt: skip
    console = Console(stderr=True)  # standard output is for the result alone

    reports: list[Report] = []

    def show(report: Report) -> None:
        reports.append(report)
        if as_json:
            print(json.dumps(report.to_json(), indent=2))
        else:
            print_summary(Console(), report)
        sys.stdout.flush()

    async def show_and_stay(report: Report, services: Supervisor) -> None:
        show(report)
        for service in services:
            page = "book" if service.name == PROVIDER else "docs"
            console.print(f"{service.name:14} {service.url}/{page}", highlight=False)
        console.print("The services and the console stay up. Ctrl-C stops them.")
        await services.watch()

    try:
        report = run_until_signal(run(options, console, show_and_stay if stay else None))
        show(report)
    except Stopped as stopped:
        if not reports:
            console.print("Stopped; everything is down.")
            raise typer.Exit(stopped.status) from None
    except EXPECTED as error:
        console.print(Text(str(error), "red"), soft_wrap=True)
        raise typer.Exit(1) from None
    raise typer.Exit(0 if reports[0].ok else 1)


class Stopped(Exception):
    """A signal ended the run, in order. status: what the process should end with."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def run_until_signal(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end and return its result; SIGINT and SIGTERM cancel it, and Stopped is raised.

    Of a group of errors that come together, the first expected one is raised: the others follow from it.
    """
    stopped_by: signal.Signals | None = None
    result: list[T] = []  # not the task's own: asyncio shows tasks in full to the signal module, which takes seconds

    async def cancellable() -> None:
        task = asyncio.current_task()
        assert task is not None

        def stop(number: signal.Signals) -> None:
            nonlocal stopped_by
            stopped_by = stopped_by or number
            task.cancel()

        # SIGINT too: asyncio leaves it alone where it is ignored, as in what a shell starts in the background.
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop, number)
        result.append(await main)

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(cancellable())
        return result[0]
    except KeyboardInterrupt:  # before the handlers were there
        raise Stopped(128 + signal.SIGINT) from None
    except asyncio.CancelledError:
        if stopped_by is not None:
            raise Stopped(128 + stopped_by) from None
        raise
    except BaseExceptionGroup as group:
        for error in _leaves(group):
            if isinstance(error, EXPECTED):
                raise error from None
        raise


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    typer.run(main)
