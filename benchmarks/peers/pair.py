"""What a comparison of Ensue with one peer has in common with another: the command line, and figures of rounds."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from statistics import median

from rich.console import Console

from benchmarks import machine, report
from benchmarks.figures import Figure, Report
from benchmarks.peers.sides import missing


def figure(name: str, values: Sequence[float], unit: str) -> Figure:
    """The median of the rounds, with the lowest and the highest."""
    return Figure(name=name, value=median(values), unit=unit, low=min(values), high=max(values))


def run(
    program: str,
    about: str | None,
    sides: Sequence[str],
    compare: Callable[[int, bool], Awaitable[Report]],
    arguments: Sequence[str] | None,
) -> int:
    """compare: is told how many rounds, and whether a few events are enough.

    Return 1 when a goal was missed; with --quick, which measures nothing, no goal counts.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=about)
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (3)")
    parser.add_argument("--quick", action="store_true", help="a few only: shows that it runs")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown at the end")
    options = parser.parse_args(arguments)
    if lacking := missing(sides):
        print(lacking, file=sys.stderr)
        return 2
    console = Console(width=140 if not sys.stdout.isatty() else None)
    for name, value in machine.describe().items():
        console.print(f"{name:>10}: {value}", highlight=False)

    async def work() -> Report:
        return await compare(1 if options.quick else options.rounds, options.quick)

    found = asyncio.run(work())
    report.show(found, console)
    if options.markdown:
        print(report.as_markdown(found))
    return 1 if found.missed and not options.quick else 0
