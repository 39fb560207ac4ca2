"""As `engines`, with SQLAlchemy ORM entities on both sides, on PostgreSQL + NATS."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

from benchmarks.engines.accounts import MappedAccount, metadata
from benchmarks.engines.bare_sessions import BareSessions
from benchmarks.engines.bare_side import BareSide
from benchmarks.engines.ensue_side import EnsueSide
from benchmarks.engines.pairs import PAIRS, running
from benchmarks.figures import Figure, Report, at_least
from benchmarks.rounds import Sample, alternate
from benchmarks.workload import BalanceChanged, TransferMade, balance_changed, transfers
from ensue import Service, Step

BATCHES = (100, 500)


def make_service() -> Service:
    service = Service("bench", publishes=[BalanceChanged], tables=metadata)

    @service.on(id="account_id")
    def add(account: MappedAccount, event: TransferMade, step: Step) -> None:
        account.add(event.amount)
        step.publish(balance_changed(account, event))

    return service


def run(quick: bool) -> Report:
    count, rounds = (300, 1) if quick else (10_000, 5)
    pair = dataclasses.replace(PAIRS["nats"], open_database=BareSessions.open)
    figures: list[Figure] = []
    if pair.missing:
        figures.append(Figure(name=f"left out: {pair.missing}", value=0, unit=""))
    else:
        events = list(transfers(count))
        with running(pair) as servers:
            bare = BareSide(servers, events)
            for batch in BATCHES[: 1 if quick else None]:
                ensue = EnsueSide(servers, events, make_service, partitions=1, batch=batch)
                sides: dict[str, Callable[[], Sample]] = {
                    "bare": partial(bare.run, batch, lambda database: database.apply_entities),
                    "ensue": ensue.run,
                }
                measured = alternate(sides, rounds)
                figures += [
                    measured.rate("bare", f"bare loop with a session, batches of {batch}"),
                    measured.rate("ensue", f"Ensue with ORM entities, batches of {batch}"),
                    measured.ratio("ensue", "bare", f"ratio, batches of {batch}", goal=at_least(0.8)),
                ]
    return Report(
        name="engines_orm",
        question="What does an entity step cost on top of the same bulk load and flush by SQLAlchemy's ORM?",
        scale=f"{rounds} rounds of {count:,} events on {pair.name}, one partition, 1,000 accounts. "
        f"Durability: {pair.durability}.",
        bad="below 0.6 of the session's loop.",
        bound="SQLAlchemy: loading and flushing objects takes several times what everything else does.",
        figures=tuple(figures),
    )
