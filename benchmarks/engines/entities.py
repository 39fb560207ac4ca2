"""Relay and consumer together, an entity step with a plain dataclass entity, on real servers, against a loop by hand.

Both begin with the same events in the broker and end when each has changed its account, written its own event to the
outbox, and that event is acknowledged by the broker.
"""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.engines.bare_side import BareSide
from benchmarks.engines.ensue_side import EnsueSide, make_service
from benchmarks.engines.pairs import PAIRS, Pair, running
from benchmarks.figures import Figure, Report, at_least
from benchmarks.rounds import alternate
from benchmarks.workload import TransferMade, transfers

BATCH = 500


def run(quick: bool, names: Sequence[str] = ()) -> Report:
    """names: of the pairs, by default all, or the first one when it shall be quick.

    One whose servers are not installed is left out, and said to be.
    """
    names = names or tuple(PAIRS)[: 1 if quick else None]
    count, few, rounds = (600, 30, 1) if quick else (20_000, 2_000, 5)
    events = list(transfers(count))
    figures: list[Figure] = []
    for pair in (PAIRS[name] for name in names):
        if pair.missing:
            figures.append(Figure(name=f"{pair.name}: left out, {pair.missing}", value=0, unit=""))
        else:
            figures += _compare(pair, events, few, rounds)
    durability = "; ".join(f"{PAIRS[name].name}: {PAIRS[name].durability}" for name in names)
    return Report(
        name="engines",
        question="How much of a hand-written batched loop's rate on the same drivers is left with all that Ensue does?",
        scale=" ".join(
            [
                f"{rounds} rounds of {count:,} events of 300 bytes ({few:,} at one transaction an event),",
                f"1,000 accounts, batches of {BATCH}.",
                f"Durability: {durability}.",
            ]
        ),
        bad="below 0.5 of the loop, or less than 5 times a transaction an event: then write the loop.",
        bound="the CPU of one core: Python's work for each event. The servers work on the other one meanwhile.",
        figures=tuple(figures),
    )


def _compare(pair: Pair, events: Sequence[TransferMade], few: int, rounds: int) -> list[Figure]:
    name = pair.name
    with running(pair) as servers:
        bare = BareSide(servers, events)
        one = EnsueSide(servers, events, make_service, partitions=1, batch=BATCH)
        eight = EnsueSide(servers, events, make_service, partitions=8, batch=BATCH)
        measured = alternate(
            {
                "bare": lambda: bare.run(BATCH),
                "ensue": one.run,
                "default": eight.run,
                "single": lambda: bare.run(BATCH, lambda database: database.apply_each, few=few),
            },
            rounds,
        )
    return [
        measured.rate("bare", f"{name}: bare loop"),
        measured.rate("ensue", f"{name}: Ensue, 1 partition"),
        measured.ratio("ensue", "bare", f"{name}: ratio, 1 partition", goal=at_least(0.7)),
        measured.rate("default", f"{name}: Ensue, 8 partitions"),
        measured.ratio("default", "bare", f"{name}: ratio, 8 partitions"),
        measured.rate("single", f"{name}: by hand, a transaction an event"),
        measured.ratio("ensue", "single", f"{name}: Ensue, 1 partition, to that", goal=at_least(7)),
    ]
