"""`python -m benchmarks.peers.event_sourced [--rounds N] [--quick] [--markdown]`: event-sourced orders, against a peer.

An order is an aggregate of one event, which is what is published. Measured: how many a second one process appends, 500
in a transaction and one by one, while nobody reads; and from right before the commit until the effect in the consumer's
database is to be seen, at 50/s.
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
from benchmarks.peers.measures import RATE, WARM_UP, begin, started, watch
from benchmarks.peers.pair import figure, run
from benchmarks.peers.sides import EVENT_SOURCED, describe
from benchmarks.peers.stage import stage

OURS, PEER = EVENT_SOURCED


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """batches, singles: events appended a second. p50_ms, p99_ms: until the effect."""

    batches: float
    singles: float
    p50_ms: float
    p99_ms: float


@dataclasses.dataclass(frozen=True, slots=True)
class Sizes:
    """part: of each side's backlog. fast_s: of appends one by one. paced: orders of the latency measure."""

    part: float
    fast_s: float
    paced: int


FULL, QUICK = Sizes(1.0, 5.0, 500), Sizes(0.01, 0.2, 10)


async def measure(side: str, backlog: int, postgres: PostgresServer, nats: NatsServer, sizes: Sizes) -> Round:
    async with stage(side, postgres, nats) as ground:
        producer = await ground.start("produce")
        workers = await started(ground)
        begin(workers)
        await producer.ask({"paced": RATE, "count": WARM_UP, "start": time.monotonic(), "first": 0})
        placed = WARM_UP
        await ground.wait_for(placed)
        start = time.monotonic() + 0.2
        watching = asyncio.ensure_future(watch(ground, start, placed, sizes.paced))
        done = await producer.ask({"paced": RATE, "count": sizes.paced, "start": start, "first": placed})
        took = [at - stamp for at, stamp in zip(await watching, done["stamps"], strict=True)]
        placed += sizes.paced
        for worker in workers:
            await worker.stop()

        await ground.checkpoint()
        done = await producer.ask({"fast": sizes.fast_s, "first": placed})
        singles = done["count"] / (done["ended"] - done["began"])
        placed += done["count"]

        await ground.checkpoint()
        many = max(500, int(backlog * sizes.part))
        began = time.monotonic()
        await producer.ask({"fill": many, "first": placed})
        batches = many / (time.monotonic() - began)
        placed += many

        begin(await started(ground))
        await ground.wait_for(placed)
        await ground.check(placed)  # nothing counts that did not take effect once
    return Round(batches, singles, median(took) * 1e3, percentile(took, 99) * 1e3)


async def compare(rounds: int, quick: bool) -> Report:
    sizes = QUICK if quick else FULL
    about = {name: await describe(name) for name in EVENT_SOURCED}
    found: dict[str, list[Round]] = {name: [] for name in EVENT_SOURCED}
    with PostgresServer(durable=True) as postgres, NatsServer() as nats:
        for _ in range(rounds):
            for name in EVENT_SOURCED:
                found[name].append(await measure(name, about[name].backlog, postgres, nats, sizes))
    figures: list[Figure] = []
    for name, each in found.items():
        title = about[name].title
        figures += [
            figure(f"{title}: appended, 500 in a transaction", [one.batches for one in each], "events/s"),
            figure(f"{title}: appended one by one", [one.singles for one in each], "events/s"),
            figure(f"{title}: p50 at 50/s", [one.p50_ms for one in each], "ms"),
            figure(f"{title}: p99 at 50/s", [one.p99_ms for one in each], "ms"),
        ]
    pairs = list(zip(found[OURS], found[PEER], strict=True))
    batches = figure("in batches / the peer's", [a.batches / b.batches for a, b in pairs], "")
    singles = figure("one by one / the peer's", [a.singles / b.singles for a, b in pairs], "")
    p50 = figure("p50 / the peer's", [a.p50_ms / b.p50_ms for a, b in pairs], "")
    figures += [
        dataclasses.replace(batches, goal=at_least(5)),
        dataclasses.replace(singles, goal=at_least(1.5)),
        dataclasses.replace(p50, goal=at_most(1.0)),
    ]
    return Report(
        name="event_sourced",
        question="How do event-sourced appends compare with those of eventsourcing on the same PostgreSQL?",
        scale=f"{rounds} rounds; {sizes.paced:,} orders at 50/s; {sizes.fast_s:g} s one by one; then "
        + ", ".join(f"{max(500, int(about[name].backlog * sizes.part)):,} ({about[name].title})" for name in found)
        + ". " + "; ".join(f"{each.title}: {each.versions}" for each in about.values()) + ".",
        bad="a batch that costs as much as its events one by one.",
        bound="one by one, a commit each; in batches, processor time and the rows: here a head with its snapshot, an "
        "event, and an outbox record for each, there one event.",
        figures=tuple(figures),
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    return run("benchmarks.peers.event_sourced", __doc__, EVENT_SOURCED, compare, arguments)


if __name__ == "__main__":
    sys.exit(main())
