"""As `pipeline`, with a plain handler that sends a statement of its own for each event, against the same by hand."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from benchmarks.backlog import Backlog
from benchmarks.bare_plain import ADD, drain_in_a_thread, drain_on_the_loop
from benchmarks.figures import Report, at_least
from benchmarks.rounds import alternate
from benchmarks.workload import BalanceChanged, TransferMade, amount_told, metadata
from ensue import Service, Step

BATCH = 100


def make_service() -> Service:
    service = Service("bench", publishes=[BalanceChanged], tables=metadata)

    @service.on
    async def add(event: TransferMade, step: Step) -> None:
        await step.session.execute(ADD, {"account": event.account_id, "amount": event.amount})
        step.publish(amount_told(event))

    return service


def run(quick: bool) -> Report:
    count, few, rounds = (300, 50, 1) if quick else (10_000, 3_000, 7)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        backlog = Backlog(Path(name, "many"), count, make_service)
        short = Backlog(Path(name, "few"), few, make_service)
        measured = alternate(
            {
                "bare": lambda: backlog.bare(lambda files, _: asyncio.run(drain_on_the_loop(files, BATCH))),
                "ensue": lambda: backlog.ensue(BATCH),
                "thread": lambda: short.bare(lambda files, where: asyncio.run(drain_in_a_thread(files, where, BATCH))),
            },
            rounds,
        )
    return Report(
        name="pipeline_plain",
        question="What does Ensue cost a plain handler that sends one statement of its own for each event?",
        scale=f"{rounds} rounds of {count:,} events ({few:,} with aiosqlite), batches of {BATCH}.",
        bad="below 0.6 of the bare loop, or slower than the loop with aiosqlite.",
        bound="SQLAlchemy's `AsyncSession.execute`: a greenlet and a compiled statement for each event.",
        figures=(
            measured.rate("bare", "bare loop, AsyncSession on the event loop"),
            measured.rate("ensue", "Ensue, plain handler"),
            measured.ratio("ensue", "bare", "ratio", goal=at_least(0.8)),
            measured.rate("thread", "bare loop, AsyncSession by aiosqlite"),
        ),
    )
