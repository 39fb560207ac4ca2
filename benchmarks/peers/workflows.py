"""`python -m benchmarks.peers.workflows [--rounds N] [--quick] [--markdown]`: durable workflows of two steps.

A step writes down the order, the next one adds its amount to a customer. One process begins them and works on them.
Measured as in the comparison of events: from right before a workflow is begun until the second step's effect is to be
seen, at 50/s; and how many a second come to that when all are begun as fast as the library can.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time
from collections.abc import Sequence
from statistics import median

from servers import NatsServer, PostgresServer

from benchmarks.figures import Figure, Report, at_least, at_most
from benchmarks.latency import percentile
from benchmarks.peers.measures import RATE, watch
from benchmarks.peers.pair import figure, run
from benchmarks.peers.sides import WORKFLOWS, describe
from benchmarks.peers.stage import stage

OURS, PEER = "ensue_saga", "dbos_workflow"


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """rate: workflows/s. processor_us: of all that takes part, a workflow. p50_ms, p99_ms: see above."""

    rate: float
    processor_us: float
    p50_ms: float
    p99_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """part: of each side's backlog. paced: workflows of the latency measure."""

    part: float
    warm_up: int
    paced: int


FULL, QUICK = Sizes(1.0, 50, 500), Sizes(0.01, 5, 10)


async def measure(side: str, backlog: int, postgres: PostgresServer, nats: NatsServer, sizes: Sizes) -> Round:
    async with stage(side, postgres, nats) as ground:
        app = await ground.start("produce")
        await app.ask({"paced": RATE, "count": sizes.warm_up, "start": time.monotonic(), "first": 0})
        placed = sizes.warm_up
        await ground.wait_for(placed)

        start = time.monotonic() + 0.2
        watching = asyncio.ensure_future(watch(ground, start, placed, sizes.paced))
        done = await app.ask({"paced": RATE, "count": sizes.paced, "start": start, "first": placed})
        took = [at - stamp for at, stamp in zip(await watching, done["stamps"], strict=True)]
        placed += sizes.paced

        await ground.checkpoint()
        many = max(10, int(backlog * sizes.part))
        before, began = ground.processor_s(), time.monotonic()
        await app.ask({"fill": many, "first": placed})
        placed += many
        ended = await ground.wait_for(placed)
        processor_us = (ground.processor_s() - before) / many * 1e6
        await ground.check(placed)
    return Round(many / (ended - began), processor_us, median(took) * 1e3, percentile(took, 99) * 1e3)


async def compare(rounds: int, quick: bool) -> Report:
    sizes = QUICK if quick else FULL
    about = {name: await describe(name) for name in WORKFLOWS}
    found: dict[str, list[Round]] = {name: [] for name in WORKFLOWS}
    with PostgresServer(durable=True) as postgres, NatsServer() as nats:
        for _ in range(rounds):
            for name in WORKFLOWS:
                found[name].append(await measure(name, about[name].backlog, postgres, nats, sizes))
    figures: list[Figure] = []
    for name, each in found.items():
        title = about[name].title
        figures += [
            figure(f"{title}: rate", [one.rate for one in each], "workflows/s"),
            figure(f"{title}: processor time", [one.processor_us for one in each], "µs/workflow"),
            figure(f"{title}: p50 at 50/s", [one.p50_ms for one in each], "ms"),
            figure(f"{title}: p99 at 50/s", [one.p99_ms for one in each], "ms"),
        ]
    pairs = list(zip(found[OURS], found[PEER], strict=True))
    figures += [
        dataclasses.replace(figure("rate / DBOS's", [a.rate / b.rate for a, b in pairs], ""), goal=at_least(30)),
        dataclasses.replace(figure("p50 / DBOS's", [a.p50_ms / b.p50_ms for a, b in pairs], ""), goal=at_most(0.5)),
        figure("DBOS's processor time / Ensue's", [b.processor_us / a.processor_us for a, b in pairs], ""),
    ]
    return Report(
        name="workflows",
        question="How does a saga of two steps compare with a durable workflow of DBOS doing the same on PostgreSQL?",
        scale=f"{rounds} rounds; {sizes.paced:,} workflows at 50/s; then "
        + ", ".join(f"{max(10, int(about[name].backlog * sizes.part)):,} ({about[name].title})" for name in found)
        + ". " + "; ".join(f"{each.title}: {each.versions}" for each in about.values()) + ".",
        bad="a rate below ten times the peer's: one transaction for many sagas would not be worth its machinery.",
        bound="one by one, commits, one after the other: two and a passage through the log against five or so; many at "
        "once, processor time.",
        figures=tuple(figures),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    return run("benchmarks.peers.workflows", __doc__, WORKFLOWS, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
