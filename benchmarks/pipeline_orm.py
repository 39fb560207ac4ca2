"""As `pipeline`, with SQLAlchemy ORM entities on both sides, and against the ORM at one transaction an event."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.backlog import Backlog
from benchmarks.bare_loop import drain
from benchmarks.bare_orm import MappedAccount, apply_one_by_one, apply_with_session
from benchmarks.figures import Figure, Report, at_least
from benchmarks.rounds import alternate
from benchmarks.workload import BalanceChanged, TransferMade, balance_changed, metadata
from ensue import Service, Step


def make_service() -> Service:
    service = Service("bench", publishes=[BalanceChanged], tables=metadata)

    @service.on(id="account_id")
    def add(account: MappedAccount, event: TransferMade, step: Step) -> None:
        account.add(event.amount)
        step.publish(balance_changed(account, event))

    return service


def run(quick: bool) -> Report:
    count, few, rounds = (300, 50, 1) if quick else (10_000, 2_000, 7)
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        backlog = Backlog(Path(name, "many"), count, make_service)
        short = Backlog(Path(name, "few"), few, make_service)
        figures = [*_compare(backlog, short, 100, rounds), *_compare(backlog, short, 500, rounds)]
    return Report(
        name="pipeline_orm",
        question="What does an entity step cost on top of the same bulk load and flush by SQLAlchemy's ORM?",
        scale=f"{rounds} rounds of {count:,} events ({few:,} for one transaction an event), 1,000 accounts.",
        bad="below 0.6 of the bare Session loop, or less than 3 times the ORM at one transaction an event.",
        bound="SQLAlchemy: loading and flushing objects takes several times what everything else does.",
        figures=tuple(figures),
    )


def _compare(backlog: Backlog, short: Backlog, batch: int, rounds: int) -> list[Figure]:
    measured = alternate(
        {
            "bare": lambda: backlog.bare(lambda files, _: drain(files, batch, apply_with_session(files))),
            "ensue": lambda: backlog.ensue(batch),
            "single": lambda: short.bare(lambda files, _: drain(files, batch, apply_one_by_one(files))),
        },
        rounds,
    )
    return [
        measured.rate("bare", f"bare loop with a Session, batches of {batch}"),
        measured.rate("ensue", f"Ensue with ORM entities, batches of {batch}"),
        measured.ratio("ensue", "bare", f"ratio, batches of {batch}", goal=at_least(0.8)),
        measured.rate("single", f"a transaction and a Session for each event, relayed in batches of {batch}"),
        measured.ratio("ensue", "single", f"Ensue, batches of {batch}, to that", goal=at_least(5)),
    ]
