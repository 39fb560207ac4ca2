"""Reports as a table in the terminal, as JSON, and as Markdown for docs/explanation/performance.md."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.figures import Figure, Report, number

_VERDICT = {True: "yes", False: "NO", None: ""}


def show(report: Report, console: Console) -> None:
    console.print(f"\n[bold]{report.name}[/bold]: {report.question}\n{report.scale}", highlight=False)
    table = Table("figure", "value", "unit", "rounds", "goal", "met")
    for figure in report.figures:
        style = "red" if figure.met is False else None
        table.add_row(*_cells(figure), style=style)
    console.print(table)
    if report.plot:
        console.print(report.plot, highlight=False)
    console.print(f"Bad would be: {report.bad}\nBounded by: {report.bound}", highlight=False)


def as_json(reports: Sequence[Report], machine: Mapping[str, str]) -> str:
    """`{"machine": …, "benchmarks": [{name, …, figures: [{name, value, unit, goal, met, …}]}]}`."""
    benchmarks = []
    for report in reports:
        values = dataclasses.asdict(report)
        values["figures"] = [dataclasses.asdict(figure) | {"met": figure.met} for figure in report.figures]
        benchmarks.append(values)
    return json.dumps({"machine": dict(machine), "benchmarks": benchmarks}, indent=2, ensure_ascii=False) + "\n"


def as_markdown(report: Report) -> str:
    """What stands between the marks of this benchmark in the documentation."""
    lines = [f"{report.question} *{report.scale}*", "", "| figure | value | unit | rounds | goal | met |"]
    lines.append("|---|---:|---|---:|---:|---|")
    lines += [f"| {' | '.join(_cells(figure))} |" for figure in report.figures]
    if report.plot:
        lines += ["", "```text", report.plot, "```"]
    lines += ["", f"**Bad would be** {report.bad}", "", f"**Bounded by** {report.bound}"]
    return "\n".join(lines)


def machine_as_markdown(machine: Mapping[str, str]) -> str:
    lines = ["| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in machine.items())])


def write_into(page: Path, blocks: Mapping[str, str]) -> list[str]:
    """Replace what stands between `<!-- measured: NAME -->` and `<!-- end -->`; return the names that are not there."""
    text = page.read_text()
    missing = []
    for name, block in blocks.items():
        pattern = re.compile(rf"(<!-- measured: {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        text, count = pattern.subn(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text)  # type: ignore[misc]
        if not count:
            missing.append(name)
    page.write_text(text)
    return missing


def _cells(figure: Figure) -> tuple[str, ...]:
    name = f"{figure.name} ({figure.about})" if figure.about else figure.name
    goal = "" if figure.goal is None else str(figure.goal)
    return name, number(figure.value), figure.unit, figure.spread, goal, _VERDICT[figure.met]
