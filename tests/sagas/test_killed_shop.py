"""A participant that is a saga answers once, and no money is moved twice, wherever a process is killed."""

from __future__ import annotations

import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tests.sagas.book import Book, served
from tests.sagas.shop import CREDIT
from tests.sagas.shop_child import TOTAL, UNDONE_EVERY, begun, ended

#: At which pass of each point the participant dies, from the reading of its command until its answer is sent; and whose
#: process it is, where it is the caller's.
DEATHS = {
    "consumer.begun": ("till:1",),
    "consumer.outbox_written": ("till:2",),
    "consumer.checkpoint_written": ("till:1", "till:3", "till:5", "sales:5"),
    "consumer.committed": ("till:1", "till:5"),
    "outside.called": ("till:1", "till:7", "sales:1"),
    "outside.written": ("till:2",),
    "outside.committed": ("till:1",),
    "relay.appended": ("till:1",),
}


def broken(book: Book, directory: Path) -> list[str]:
    """Where the books do not agree."""
    with (
        closing(sqlite3.connect(directory / "sales.db")) as sales,
        closing(sqlite3.connect(directory / "till.db")) as till,
        closing(sqlite3.connect(directory / "credit.db")) as credit,
    ):
        orders = dict(sales.execute('SELECT "order", status FROM cash_orders'))
        payments = dict(till.execute('SELECT "order", status FROM cash_payments'))
        customers = credit.execute('SELECT customer, "left", reserved FROM cash_customers').fetchall()
        unended = till.execute("SELECT id FROM ensue_saga WHERE status NOT IN ('COMPLETED', 'UNDONE')").fetchall()
        timers = [*sales.execute("SELECT id FROM ensue_timer"), *till.execute("SELECT id FROM ensue_timer")]
    wrong = [*book.twice(), *map(str, unended), *map(str, timers)]
    for number in range(1, TOTAL + 1):
        order, stands = f"o-{number}", bool(number % UNDONE_EVERY)
        found = (orders.get(order), payments.get(order), book.state(order))
        if found != (("OPEN", "HELD", "captured") if stands else ("REJECTED", "VOID", "")):
            wrong.append(f"{order}: {found}")
        if any(f" {order} " in reserved for _, _, reserved in customers) is not stands:
            wrong.append(f"{order}: {customers}")
    return wrong + [each for each, left, reserved in customers if left != CREDIT - 30 * len(reserved.split())]


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}-{death}" for point, deaths in DEATHS.items() for death in deaths])
def test_killed_at_any_point_a_participant_answers_once_and_no_money_is_moved_twice(where: str, tmp_path: Path) -> None:
    point, _, death = where.partition("-")
    service, _, times = death.partition(":")
    book = Book()
    with served(book) as url:
        assert ended(begun(tmp_path, url, f"{service}:{point}:{times}")) == -signal.SIGKILL, f"{where} was not passed"
        assert ended(begun(tmp_path, url)) == 0
    assert broken(book, tmp_path) == []
