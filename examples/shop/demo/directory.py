"""The directory of a run's data: made, emptied, or gone on with; never shared by two runs, never anybody else's."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

MARK = "demo.json"


class CannotRun(Exception):
    """The options do not fit what is there; the text says what to do instead."""


@contextmanager
def prepared(
    directory: Path,
    *,
    fresh: bool,
    orders: int | None,
    placement: str = "choreography",
    customers: str = "state",
) -> Iterator[Path]:
    """Have the directory ready inside the block, marked as in use. Raises CannotRun, also when it cannot be written.

    fresh: without anything of an earlier run. Otherwise that run's data must be of the same orders, since credit
    limits follow from the orders of a run, and placed in the same way, since a card may be refused, and keep
    customers in the same way, since none are moved.
    """
    try:
        mark = _prepare(directory, fresh, orders, placement, customers)
    except OSError as error:
        raise CannotRun(f"{directory} cannot hold a run's data ({error}): choose another --directory") from error
    try:
        yield directory
    finally:
        _write(mark, orders, placement, customers, 0, 0.0)


def _prepare(directory: Path, fresh: bool, orders: int | None, placement: str, customers: str) -> Path:
    mark = directory / MARK
    if directory.exists() and any(directory.iterdir()):
        if not mark.exists():
            raise CannotRun(f"{directory} holds files that are no demo's: choose another --directory")
        found = json.loads(mark.read_text())
        if _runs(found["pid"], found["process_started"]):
            raise CannotRun(f"a demo (process {found['pid']}) is running in {directory}: stop it, or use --directory")
        if fresh:
            shutil.rmtree(directory)
        held = found["orders"], found.get("placement", "choreography"), found.get("customers", "state")
        if not fresh and held != (orders, placement, customers):
            raise CannotRun(
                f"{directory} holds a run with {_option(*held)}, this is one with "
                f"{_option(orders, placement, customers)}: use the same, or --fresh"
            )
    directory.mkdir(parents=True, exist_ok=True)
    _write(mark, orders, placement, customers, os.getpid(), psutil.Process().create_time())
    return mark


def _write(mark: Path, orders: int | None, placement: str, customers: str, pid: int, started: float) -> None:
    of_the_run = {"orders": orders, "placement": placement, "customers": customers}
    mark.write_text(json.dumps({**of_the_run, "pid": pid, "process_started": started}))


def _runs(pid: int, started: float) -> bool:
    """Whether that very process still runs; another may have its number by now."""
    try:
        return pid > 0 and abs(psutil.Process(pid).create_time() - started) < 1.0
    except psutil.Error:
        return False


def _option(orders: int | None, placement: str, customers: str) -> str:
    said = "the whole year" if orders is None else f"--orders {orders}"
    if placement != "choreography":
        said += f" --placement {placement}"
    return said if customers == "state" else f"{said} --customers {customers}"
