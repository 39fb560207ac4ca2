"""The result of a run, as data: what `--json` prints and the summary shows."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import platform
import sqlite3
from collections.abc import Mapping
from typing import Any

import psutil

from shop.demo.checks import Invariant
from shop.demo.dataset import ATTRIBUTION
from shop.demo.driver import Sent
from shop.demo.latency import HOW, LatencySummary
from shop.demo.model import Model
from shop.demo.plan import RULES, RULES_PAID, Plan
from shop.demo.snapshot import Traffic

PACKAGES = ("ensue", "fastapi", "uvicorn", "sqlalchemy", "msgspec", "aiohttp", "uvloop")


@dataclasses.dataclass(frozen=True, slots=True)
class Durations:
    """Seconds. replay: first to last request. settle: until quiet after it."""

    start: float
    replay: float
    settle: float
    check: float

    @property
    def total(self) -> float:
        return self.start + self.replay + self.settle + self.check


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """stack: which databases and broker. kills: by service, None without --chaos. faults: of servers and lines, by
    kind. recovery_s: from the end of a fault until the next order was OPEN, by kind. losses: what the broker was made
    to forget, in order. provider: what it did, by its own book; by orchestration alone. cpu, memory_peak: by process,
    over all its lives: seconds of processor time, bytes at most.
    """

    seed: int
    rate: float | None
    stack: str
    plan: Plan
    model: Model
    statuses: Mapping[str, int]
    sent: Sent
    invariants: list[Invariant]
    published: Mapping[str, int]
    traffic: list[Traffic]
    latency: LatencySummary
    kills: Mapping[str, int] | None
    kills_while_starting: int
    faults: Mapping[str, int]
    recovery_s: Mapping[str, list[float]]
    losses: list[str]
    placement: str
    customers: str
    provider: Mapping[str, int]
    cpu: Mapping[str, float]
    memory_peak: Mapping[str, int]
    durations: Durations

    @property
    def ok(self) -> bool:
        """Whether every invariant holds, and there were some."""
        return bool(self.invariants) and all(each.holds for each in self.invariants)

    @property
    def rules(self) -> tuple[str, ...]:
        return RULES if self.placement == "choreography" else RULES + RULES_PAID

    @property
    def applied(self) -> int:
        return sum(each.applied for each in self.traffic)

    def to_json(self) -> dict[str, Any]:
        """Return the report for a machine. Seconds and bytes; amounts of events and orders are counts."""
        plan, sent, durations = self.plan, self.sent, self.durations
        working_s = durations.replay + durations.settle
        return {
            "ok": self.ok,
            "seed": self.seed,
            "rate_orders_per_s": self.rate,
            "stack": self.stack,
            "placement": self.placement,
            "customers": self.customers,
            "data": ATTRIBUTION,
            "rules": list(self.rules),
            "plan": {
                "customers": plan.customers,
                "orders": plan.orders,
                "cancellations": plan.cancellations,
                "zero_invoices_left_out": plan.zero_invoices,
                "credit_notes_with_nothing_to_cancel": plan.nothing_to_cancel,
            },
            "orders": dict(self.statuses),
            "expected_orders": dict(self.model.by_status()),
            "requests": {
                "done": dict(sent.done),
                "resent": dict(sent.resent),
                "resent_total": sent.resent.total(),
                "found_done_by_an_earlier_try": sent.known_before,
                "cancellations_refused": sent.refused,
                "cancellations_asked_again_because_new": sent.undecided,
            },
            "invariants": [dataclasses.asdict(each) | {"holds": each.holds} for each in self.invariants],
            "events": {
                "published": dict(self.published),
                "published_total": sum(self.published.values()),
                "applied_total": self.applied,
                "duplicates_skipped": sum(each.duplicates for each in self.traffic),
                "gaps_seen": sum(each.gaps_seen for each in self.traffic),
                "gaps_healed": sum(each.gaps_healed for each in self.traffic),
                "retries": sum(each.retries for each in self.traffic),
                "by_subscriber": {each.subscriber: dataclasses.asdict(each) for each in self.traffic},
            },
            "throughput": {
                "orders_per_s": round(plan.orders / durations.replay, 1),
                "requests_per_s": round(sent.operations / durations.replay, 1),
                "events_applied_per_s": round(self.applied / working_s, 1),
            },
            "latency_post_to_open": dataclasses.asdict(self.latency) | {"how": HOW},
            "chaos": self._chaos(),
            "faults": dict(self.faults),
            "recovery_s": {kind: [round(each, 3) for each in times] for kind, times in self.recovery_s.items()},
            "broker_losses": self.losses,
            "provider": dict(self.provider),
            "cpu_s": {name: round(seconds, 2) for name, seconds in self.cpu.items()},
            "memory_peak_bytes": dict(self.memory_peak),
            "duration_s": {**dataclasses.asdict(durations), "total": durations.total},
            "machine": machine(),
            "versions": versions(),
        }

    def _chaos(self) -> dict[str, Any] | None:
        if self.kills is None:
            return None
        return {
            "kills": dict(self.kills),
            "kills_total": sum(self.kills.values()),
            "kills_while_starting": self.kills_while_starting,
        }


def machine() -> dict[str, Any]:
    """What the run had to work with."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": platform.machine(),
        "cores": usable,
        "memory_bytes": psutil.virtual_memory().total,
    }


def versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"  # uvloop on Windows
    return found
