"""The report for people: a few tables."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shop.demo.latency import HOW
from shop.demo.progress import STYLES
from shop.demo.report import Report, machine, versions

MEBIBYTE = 1024 * 1024


def print_summary(console: Console, report: Report) -> None:
    console.print(_invariants(report))
    for each in report.invariants:
        for difference in each.differences:
            console.print(Text(f"  {each.name} ({each.seen_through}): {difference}", "red"))
    console.print(_figures(report))
    for rule in (*report.rules, f"latency: {HOW}"):
        console.print(Text(rule, "dim"))
    if report.ok:
        console.print(Text(f"All {len(report.invariants)} invariants hold.", "bold green"))
    else:
        broken = sum(not each.holds for each in report.invariants)
        console.print(Text(f"{broken} of {len(report.invariants)} invariants do NOT hold.", "bold red"))


def _invariants(report: Report) -> Table:
    """One row an invariant; how many were compared, as seen over HTTP and in the databases."""
    seen = {(each.name, each.seen_through): each for each in report.invariants}
    table = _table("invariant", "over HTTP", "in databases", "")
    table.columns[1].justify = table.columns[2].justify = "right"
    for name in dict.fromkeys(each.name for each in report.invariants):
        found = [seen.get((name, through)) for through in ("HTTP", "databases")]
        differing = sum(each.differing for each in found if each)
        verdict = Text("holds", "green") if not differing else Text(f"{differing:,} differ", "bold red")
        table.add_row(name, *(f"{each.compared:,}" if each else "" for each in found), verdict)
    return table


def _figures(report: Report) -> Table:
    plan, sent, durations, latency = report.plan, report.sent, report.durations, report.latency
    numbers = report.to_json()
    events, throughput = numbers["events"], numbers["throughput"]
    table = _table("", "")
    table.show_header = False

    orders = Text()
    for status, style in STYLES.items():
        orders.append(f"{report.statuses.get(status, 0):,} {status}  ", style)
    table.add_row("orders", orders)
    table.add_row(
        "asked",
        f"{plan.orders:,} orders of {plan.customers:,} customers, {plan.cancellations:,} cancellations "
        f"({sent.refused:,} refused: the order was rejected); left out: {plan.zero_invoices:,} invoices of zero, "
        f"{plan.nothing_to_cancel:,} credit notes with nothing to cancel",
    )
    table.add_row(
        "events",
        f"{events['published_total']:,} published, {events['applied_total']:,} applied, "
        f"{events['duplicates_skipped']:,} duplicates skipped, {events['gaps_healed']:,} of "
        f"{events['gaps_seen']:,} gaps healed, {events['retries']:,} retries",
    )
    resent = ", ".join(f"{count:,} {reason}" for reason, count in sorted(sent.resent.items()))
    table.add_row(
        "requests",
        f"{sent.operations:,} done, {sent.resent.total():,} sent again{f' ({resent})' if resent else ''}, "
        f"{sent.known_before:,} found done by an earlier try; {sent.undecided:,} cancellations asked again because "
        "the order was still NEW",
    )
    if report.kills is not None:
        of_each = ", ".join(f"{service} {count}" for service, count in sorted(report.kills.items()))
        table.add_row(
            "chaos",
            f"{sum(report.kills.values())} kills with SIGKILL ({of_each}), "
            f"{report.kills_while_starting} of them while it was starting",
        )
    if report.faults:
        table.add_row("faults", ", ".join(f"{kind} {count}" for kind, count in sorted(report.faults.items())))
    if report.recovery_s:
        times = [f"{kind} {median(found):.1f} s" for kind, found in sorted(report.recovery_s.items())]
        table.add_row("next order OPEN", f"after the end of the fault: {', '.join(times)}")
    if report.provider:
        of_each = ", ".join(f"{count:,} {kind.replace('_', ' ')}" for kind, count in report.provider.items())
        table.add_row("provider", f"by its own book: {of_each}")
    if report.losses:
        table.add_row("broker", f"its data was {', '.join(report.losses)}")
    table.add_row(
        "throughput",
        f"{throughput['orders_per_s']:,.0f} orders/s, {throughput['requests_per_s']:,.0f} requests/s, "
        f"{throughput['events_applied_per_s']:,.0f} events applied/s",
    )
    table.add_row(
        "latency",
        f"POST /orders to OPEN: p50 {_ms(latency.p50_s)}, p99 {_ms(latency.p99_s)}, worst {_ms(latency.max_s)} "
        f"({latency.samples:,} orders followed)",
    )
    table.add_row(
        "memory at most",
        ", ".join(f"{name} {peak / MEBIBYTE:,.0f} MiB" for name, peak in report.memory_peak.items()),
    )
    table.add_row("processor time", ", ".join(f"{name} {seconds:,.1f} s" for name, seconds in report.cpu.items()))
    table.add_row(
        "duration",
        f"{durations.total:.1f} s: start {durations.start:.1f}, replay {durations.replay:.1f}, "
        f"until quiet {durations.settle:.1f}, checks {durations.check:.1f}",
    )
    about = machine()
    table.add_row(
        "machine",
        f"{about['cores']} cores, {about['memory_bytes'] / MEBIBYTE / 1024:.0f} GiB, {about['system']}, "
        + ", ".join(_pairs(versions().items())),
    )
    table.add_row("stack", report.stack)
    table.add_row("placement", report.placement)
    table.add_row("customers", report.customers)
    table.add_row("seed", str(report.seed))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, style="" if column else None)
    return table


def _pairs(items: Iterable[tuple[str, Any]]) -> list[str]:
    return [f"{name} {value}" for name, value in items]


def _ms(seconds: float | None) -> str:
    return "none" if seconds is None else f"{seconds * 1000:,.1f} ms"
