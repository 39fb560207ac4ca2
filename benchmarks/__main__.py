"""`python -m benchmarks [NAME ...] [--quick] [--json FILE] [--markdown] [--write PAGE]`."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from rich.console import Console

from benchmarks import machine, report
from benchmarks.figures import Report

#: In the order in which they are shown. Each is a module with `run(quick: bool) -> Report`.
NAMES = (
    "pipeline",
    "pipeline_orm",
    "pipeline_plain",
    "dispatch",
    "overhead",
    "tracing",
    "step",
    "codecs",
    "brokers",
    "engines",
    "engines_orm",
    "engines_plain",
    "relay_modes",
    "publishing",
    "latency",
    "idle",
    "wakeup",
    "tokens",
    "timers",
    "views",
    "aggregates",
    "sagas",
    "sleeping_sagas",
    "checkpoint_sources",
    "growth",
    "growth_postgres",
    "scale_out",
    "year",
)
#: Take minutes and have goals for a whole machine: only when they are named.
ONLY_BY_NAME = ("views", "timers", "sagas", "sleeping_sagas", "growth_postgres", "scale_out", "year")


def load(name: str) -> Callable[[bool], Report]:
    return cast(Callable[[bool], Report], importlib.import_module(f"benchmarks.{name}").run)


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 1 when a goal was missed. With --quick, which is for tests, no goal counts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"one or more of: {', '.join(NAMES)}; by default all but {', '.join(ONLY_BY_NAME)}",
    )
    parser.add_argument("--quick", action="store_true", help="a few events only: shows that it runs, measures nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as JSON")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown at the end")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into PAGE between their marks")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in NAMES]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    # What a loop has to say goes to stderr; a benchmark that made one complain did not measure what it meant to.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    console = Console(width=120 if not sys.stdout.isatty() else None)
    where = machine.describe()
    for name, value in where.items():
        console.print(f"{name:>10}: {value}", highlight=False)
    reports: list[Report] = []
    for name in options.names or [name for name in NAMES if name not in ONLY_BY_NAME]:
        reports.append(load(name)(options.quick))
        report.show(reports[-1], console)
    blocks = {each.name: report.as_markdown(each) for each in reports} | {"machine": report.machine_as_markdown(where)}
    if options.json:
        options.json.write_text(report.as_json(reports, where))
    if options.write:
        for missing in report.write_into(options.write, blocks):
            console.print(f"{options.write} has no place for {missing}")
    if options.markdown:
        for name, block in blocks.items():
            print(f"\n### {name}\n\n{block}")
    missed = [f"{each.name}: {figure.name}" for each in reports for figure in each.missed]
    if missed and not options.quick:
        console.print(f"\nmissed: {'; '.join(missed)}")
    return 1 if missed and not options.quick else 0


if __name__ == "__main__":
    sys.exit(main())
