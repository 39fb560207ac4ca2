"""The report: it is good only when there were invariants and all of them hold; people and machines read the same."""

from __future__ import annotations

import dataclasses
import io
import json

import pytest
from rich.console import Console

from shop.demo.checks import Invariant
from shop.demo.dataset import invoices
from shop.demo.driver import Sent
from shop.demo.latency import LatencySummary
from shop.demo.model import run_model
from shop.demo.plan import first_orders, make_plan
from shop.demo.report import Durations, Report
from shop.demo.snapshot import Traffic
from shop.demo.summary import print_summary

HOLDS = Invariant("no order is NEW", "HTTP", 20, 0, ())
BROKEN = Invariant("no order is NEW", "databases", 20, 7, ("order 4711 is NEW",))
PLAN = make_plan(first_orders(invoices(), 20), seed=1)


@pytest.fixture
def report() -> Report:
    sent = Sent(undecided=3, refused=1, known_before=2)
    sent.done.update(orders=20, customers=18)
    sent.resent.update({"no answer": 4, "no connection": 9})
    return Report(
        seed=1,
        rate=None,
        stack="postgres-kafka",
        plan=PLAN,
        model=run_model(PLAN),
        statuses={"NEW": 0, "OPEN": 18, "REJECTED": 2, "CANCELLED": 0},
        sent=sent,
        invariants=[HOLDS],
        published={"orders": 40, "customers": 38},
        traffic=[
            Traffic("customers", ("orders",), 20, 20, 5, 2, 2, 6, 0),
            Traffic("orders", ("customers",), 20, 18, 1, 0, 0, 0, 0),
        ],
        latency=LatencySummary(11, 0.0123, 0.5, 0.6),
        kills={"orders": 3, "customers": 1},
        kills_while_starting=1,
        faults={"kafka (broker) killed": 2},
        recovery_s={"kafka (broker) killed": [1.5, 2.5]},
        losses=["copied", "emptied"],
        placement="orchestration",
        customers="state",
        provider={"captures": 18, "asked_again": 3},
        cpu={"orders": 1.5},
        memory_peak={"orders": 80 * 1024 * 1024},
        durations=Durations(1.0, 2.0, 3.0, 4.0),
    )


def shown(report: Report) -> str:
    text = io.StringIO()
    print_summary(Console(file=text, width=200), report)
    return text.getvalue()


def test_report_is_good_when_every_invariant_holds(report: Report) -> None:
    assert report.ok
    assert "All 1 invariants hold." in shown(report)


def test_report_without_invariants_is_not_good(report: Report) -> None:
    assert not dataclasses.replace(report, invariants=[]).ok


def test_one_broken_invariant_spoils_the_report_and_is_shown_with_its_first_difference(report: Report) -> None:
    broken = dataclasses.replace(report, invariants=[HOLDS, BROKEN])
    assert not broken.ok
    assert broken.to_json()["ok"] is False
    text = shown(broken)
    assert "7 differ" in text
    assert "no order is NEW (databases): order 4711 is NEW" in text
    assert "1 of 2 invariants do NOT hold." in text


def test_people_and_machines_are_told_the_same_figures(report: Report) -> None:
    numbers = json.loads(json.dumps(report.to_json()))
    assert numbers["events"]["published_total"] == 78
    assert numbers["events"]["applied_total"] == 40
    assert numbers["events"]["duplicates_skipped"] == 6
    assert numbers["throughput"] == {"orders_per_s": 10.0, "requests_per_s": 19.0, "events_applied_per_s": 8.0}
    assert numbers["chaos"] == {"kills": {"orders": 3, "customers": 1}, "kills_total": 4, "kills_while_starting": 1}
    assert numbers["duration_s"]["total"] == 10.0
    text = shown(report)
    for said in (
        "78 published, 40 applied, 6 duplicates skipped, 2 of 2 gaps healed, 6 retries",
        "4 kills with SIGKILL (customers 1, orders 3), 1 of them",
        "13 sent again (4 no answer, 9 no connection), 2 found done",
        "10 orders/s, 19 requests/s, 8 events applied/s",
        "p50 12.3 ms, p99 500.0 ms, worst 600.0 ms (11 orders followed)",
        "orders 80 MiB",
        "10.0 s: start 1.0, replay 2.0, until quiet 3.0, checks 4.0",
    ):
        assert said in text
    assert "SIGKILL" not in shown(dataclasses.replace(report, kills=None))
