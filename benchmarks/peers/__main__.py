"""`python -m benchmarks.peers [SIDE ...] [--rounds N] [--drain PART] [--quick] [--json FILE] [--rounds-json FILE]`."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import machine, report
from benchmarks.peers.compare import FULL, QUICK, compare
from benchmarks.peers.sides import NAMES, missing


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when a goal was missed; with --quick, which measures nothing, no goal counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SIDE", help=f"one or more of: {', '.join(NAMES)}; by default all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side is measured (3)")
    parser.add_argument(
        "--drain", type=float, default=1.0, metavar="PART", help="of each backlog, on a slow machine (1)"
    )
    parser.add_argument("--quick", action="store_true", help="a few events only: shows that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures and ratios to FILE")
    parser.add_argument("--rounds-json", type=Path, metavar="FILE", help="write every round of every side to FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown at the end")
    options = parser.parse_args(arguments)
    names = options.names or list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        parser.error(f"no side {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if lacking := missing(names):
        print(lacking, file=sys.stderr)
        return 2
    console = Console(width=140 if not sys.stdout.isatty() else None)
    where = machine.describe()
    for name, value in where.items():
        console.print(f"{name:>10}: {value}", highlight=False)
    sizes, rounds = (QUICK, 1) if options.quick else (dataclasses.replace(FULL, drain=options.drain), options.rounds)

    def keep(text: str) -> None:
        if options.rounds_json:
            options.rounds_json.write_text(text)

    def say(line: str) -> None:
        console.print(line, highlight=False)

    found = asyncio.run(compare(names, rounds, sizes, say, keep))
    report.show(found, console)
    if options.json:
        options.json.write_text(report.as_json([found], where))
    if options.markdown:
        print(report.as_markdown(found))
    return 1 if found.missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
