"""The whole year of the shop by the demo's own summary: once undisturbed, once with services killed all the time.

`python -m shop.demo --json` in a process of its own: 22,190 invoices of 4,372 customers over HTTP, as fast as they are
answered, through the three services, from starting the services to the last check of the invariants. A run in which an
invariant does not hold measures nothing and is an error. Takes minutes, so it runs only when it is named.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

from benchmarks.child import environment
from benchmarks.figures import Figure, Goal, Report, at_most

SERVICES = ("orders", "customers", "order_history")


def run(quick: bool) -> Report:
    options = ["--orders", "50"] if quick else []
    calm = _demo(*options)
    figures = _figures(calm, "undisturbed", at_most(120))
    if not quick:
        figures += _figures(_demo(*options, "--chaos"), "with chaos", at_most(180))
    orders, cancellations, customers = (calm["plan"][name] for name in ("orders", "cancellations", "customers"))
    return Report(
        name="year",
        question="How long does a real shop's year take, over HTTP, checks included?",
        scale=f"{orders:,} orders and {cancellations:,} cancellations of {customers:,} customers.",
        bad="longer than 300 s, or a service that takes more memory the more orders it has seen.",
        bound="CPU: FastAPI and SQLAlchemy in three services, and the demo's own client, on the machine's cores.",
        figures=tuple(figures),
    )


def _demo(*options: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as directory:
        command = [sys.executable, "-m", "shop.demo", "--json", "--directory", directory, *options]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        said = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise RuntimeError(f"{' '.join(command)} ended with status {done.returncode}:\n{said}")
    return dict(json.loads(done.stdout))


def _figures(result: dict[str, Any], how: str, duration: Goal) -> list[Figure]:
    events, throughput = result["events"], result["throughput"]
    memory = {name: result["memory_peak_bytes"][name] / 1e6 for name in SERVICES}
    figures = [
        Figure(name=f"{how}: whole run", value=result["duration_s"]["total"], unit="s", goal=duration),
        Figure(name=f"{how}: orders", value=throughput["orders_per_s"], unit="orders/s"),
        Figure(name=f"{how}: events applied", value=throughput["events_applied_per_s"], unit="events/s"),
        Figure(
            name=f"{how}: peak memory of a service",
            value=max(memory.values()),
            unit="MB",
            goal=at_most(150),
            about=", ".join(f"{name} {size:.0f}" for name, size in memory.items()),
        ),
    ]
    if result.get("chaos"):
        figures += [
            Figure(name=f"{how}: services killed", value=result["chaos"]["kills_total"], unit="times"),
            Figure(name=f"{how}: duplicates skipped", value=events["duplicates_skipped"], unit="events"),
        ]
    return figures
