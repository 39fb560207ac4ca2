"""As `engines`, with a plain handler that sends a statement of its own for each event, on PostgreSQL + NATS."""

from __future__ import annotations

import dataclasses

from benchmarks.engines.accounts import ADD, metadata
from benchmarks.engines.bare_sessions import BareSessions
from benchmarks.engines.bare_side import BareSide
from benchmarks.engines.ensue_side import EnsueSide
from benchmarks.engines.pairs import PAIRS, running
from benchmarks.figures import Figure, Report, at_least
from benchmarks.rounds import alternate
from benchmarks.workload import BalanceChanged, TransferMade, amount_told, transfers
from ensue import Service, Step

BATCH = 500


def make_service() -> Service:
    service = Service("bench", publishes=[BalanceChanged], tables=metadata)

    @service.on
    async def add(event: TransferMade, step: Step) -> None:
        await step.session.execute(ADD, {"account": event.account_id, "amount": event.amount})
        step.publish(amount_told(event))

    return service


def run(quick: bool) -> Report:
    count, rounds = (200, 1) if quick else (5_000, 5)
    pair = dataclasses.replace(PAIRS["nats"], open_database=BareSessions.open)
    figures: list[Figure] = []
    if pair.missing:
        figures.append(Figure(name=f"left out: {pair.missing}", value=0, unit=""))
    else:
        events = list(transfers(count))
        with running(pair) as servers:
            bare = BareSide(servers, events)
            ensue = EnsueSide(servers, events, make_service, partitions=1, batch=BATCH)
            measured = alternate(
                {
                    "bare": lambda: bare.run(BATCH, lambda database: database.apply_statements),
                    "ensue": ensue.run,
                },
                rounds,
            )
        figures += [
            measured.rate("bare", "bare loop, AsyncSession with asyncpg"),
            measured.rate("ensue", "Ensue, plain handler"),
            measured.ratio("ensue", "bare", "ratio", goal=at_least(0.85)),
        ]
    return Report(
        name="engines_plain",
        question="What does Ensue cost a plain handler that sends one statement of its own for each event?",
        scale=f"{rounds} rounds of {count:,} events on {pair.name}, one partition, batches of {BATCH}. "
        f"Durability: {pair.durability}.",
        bad="below 0.6 of the same statements by hand.",
        bound="SQLAlchemy's `AsyncSession.execute`, and a round trip to the server, for each event.",
        figures=tuple(figures),
    )
