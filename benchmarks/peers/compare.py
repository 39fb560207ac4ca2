"""Every side in turn, several rounds, on one PostgreSQL and one NATS; the report with its ratios and goals."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from servers import NatsServer, PostgresServer

from benchmarks.figures import Figure, Goal, Report, at_least, at_most
from benchmarks.peers.measures import Round, Sizes, measure
from benchmarks.peers.sides import OURS, Description, describe

QUICK, FULL = Sizes(drain=0.01, fast_s=0.2, paced=10), Sizes(drain=1.0, fast_s=3.0, paced=500)
#: Set-based SQL for a whole batch is what its user wrote by hand, not what the library does.
BY_HAND = "faststream_batches"


async def compare(
    names: Sequence[str], rounds: int, sizes: Sizes, say: Callable[[str], None], keep: Callable[[str], None]
) -> Report:
    """A round is every side once; with several rounds, all sides are measured again in the same order.

    say: is told a line after each side. keep: is given all rounds so far as JSON, should a later side fail.
    """
    about = {name: await describe(name) for name in names}
    measured: dict[str, list[Round]] = {name: [] for name in names}
    with PostgresServer(durable=True) as postgres, NatsServer() as nats:
        for number in range(rounds):
            for name in names:
                found = await measure(name, about[name].backlog, postgres, nats, sizes)
                measured[name].append(found)
                say(
                    f"round {number + 1} {about[name].title}: drain {found.drain:,.0f}/s ({found.drained:,} in "
                    f"{found.drain_s:.1f} s, {found.drain_us:,.0f} µs of processor time each), "
                    f"alone {found.raw:,.0f}/s, end to end {found.through:,.0f}/s, "
                    f"p50 {found.p50_ms:.1f} ms, p99 {found.p99_ms:.1f} ms",
                )
                keep(_json(about, measured))
    return _report(about, measured, rounds, sizes)


def _report(
    about: Mapping[str, Description], measured: Mapping[str, Sequence[Round]], rounds: int, sizes: Sizes
) -> Report:
    figures: list[Figure] = []
    for name, found in measured.items():
        title, ours = about[name].title, name == OURS
        figures += [
            _figure(f"{title}: backlog drain", [each.drain for each in found], "events/s"),
            _figure(f"{title}: processor time in the drain", [each.drain_us for each in found], "µs/event"),
            _figure(f"{title}: producer alone", [each.raw for each in found], "events/s"),
            _figure(f"{title}: end to end", [each.through for each in found], "events/s"),
            _figure(
                f"{title}: end to end / producer alone", [each.ratio for each in found], "", ours and at_least(0.95)
            ),
            _figure(f"{title}: p50 at 50/s", [each.p50_ms for each in found], "ms", ours and at_most(4.0)),
            _figure(f"{title}: p99 at 50/s", [each.p99_ms for each in found], "ms", ours and at_most(10.0)),
        ]
    peers = [name for name in measured if name != OURS]
    if peers and OURS in measured:
        figures += _ratios(measured, peers)
    return Report(
        name="peers",
        question="How does Ensue on PostgreSQL and NATS compare with other Python libraries doing the same work?",
        scale=f"{rounds} rounds of {sizes.paced:,} orders at 50/s and {sizes.fast_s:g} s of producing; medians.",
        bad="a drain below 5 times the best peer, a slower p50 than any peer's.",
        bound="in the drain processor time: PostgreSQL, NATS, the relay and the consumer, about alike; at 50/s three "
        "commits, each with its sync to one disk: the order's, the relay's stamp, the consumer's.",
        figures=tuple(figures),
    )


def _ratios(measured: Mapping[str, Sequence[Round]], peers: Sequence[str]) -> list[Figure]:
    """Each within a round, Ensue to the best of the peers in that round."""
    turns = list(zip(*measured.values(), strict=True))
    each = [dict(zip(measured, turn, strict=True)) for turn in turns]
    libraries = [name for name in peers if name != BY_HAND] or list(peers)

    def drains(among: Sequence[str]) -> list[float]:
        return [turn[OURS].drain / max(turn[name].drain for name in among) for turn in each]

    return [
        _figure("drain / best peer", drains(libraries), "", at_least(15.0)),
        _figure("drain / best peer, batched SQL by hand among them", drains(peers), ""),
        _figure(
            "processor time of the best peer / Ensue's",
            [min(turn[name].drain_us for name in libraries) / turn[OURS].drain_us for turn in each],
            "",
        ),
        _figure(
            "p50 / best peer's",
            [turn[OURS].p50_ms / min(turn[n].p50_ms for n in peers) for turn in each],
            "",
            at_most(1),
        ),
        _figure(
            "p99 / best peer's",
            [turn[OURS].p99_ms / min(turn[n].p99_ms for n in peers) for turn in each],
            "",
            at_most(1),
        ),
    ]


def _figure(name: str, values: Sequence[float], unit: str, goal: Goal | bool | None = None) -> Figure:
    return Figure(
        name=name, value=median(values), unit=unit, goal=None if isinstance(goal, bool) else goal,
        low=min(values), high=max(values),
    )  # fmt: skip


def _json(about: Mapping[str, Description], measured: Mapping[str, Sequence[Round]]) -> str:
    sides = {
        name: dataclasses.asdict(about[name]) | {"rounds": [dataclasses.asdict(each) for each in found]}
        for name, found in measured.items()
    }
    return json.dumps(sides, indent=2, ensure_ascii=False) + "\n"
