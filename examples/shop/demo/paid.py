"""By orchestration: what became of the money, in the shop's books and in the provider's own."""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import aiohttp

from shop.demo.checks import Invariant, invariant, unequal
from shop.demo.databases import Database
from shop.demo.model import CANCELLED, OPEN, Model, ModelOrder
from shop.demo.over_http import ask, pages
from shop.demo.services import PROVIDER
from shop.demo.snapshot import PaymentState

#: The file in the directory of a run.
BOOK = "provider.db"
KINDS = ("authorisations", "voids", "captures", "refunds")
#: How often the provider may have done each of these for a payment that has ended so.
DONE = {
    "REFUSED": [(0, 0, 0, 0)],
    "VOIDED": [(0, 0, 0, 0), (1, 1, 0, 0)],
    "CAPTURED": [(1, 0, 1, 0)],
    "REFUNDED": [(1, 0, 1, 1)],
}


class Entry(NamedTuple):
    """Of the provider's book: what was done under a key. status: 200: done. asked: how often it was asked for."""

    key: str
    kind: str
    payment: UUID
    pence: int
    status: int
    asked: int


class Money(NamedTuple):
    """seen_through: `HTTP` or `databases`. payments: the shop's, by order. book: the provider's."""

    seen_through: str
    payments: dict[UUID, PaymentState]
    book: list[Entry]


async def money_over_http(client: aiohttp.ClientSession, urls: Mapping[str, str]) -> Money:
    payments = {
        UUID(each["order_id"]): PaymentState(Decimal(each["amount"]), each["status"])
        async for each in pages(client, f"{urls['payments']}/payments", "payments")
    }
    found = await ask(client, f"{urls[PROVIDER]}/book")
    return Money("HTTP", payments, [_entry(each) for each in found["entries"]])


def money_from_databases(payments: Database, directory: Path) -> Money:
    uri = f"{(directory / BOOK).absolute().as_uri()}?mode=ro"
    with payments.reading() as reader, closing(sqlite3.connect(uri, uri=True, timeout=10)) as book:
        book.row_factory = sqlite3.Row
        entries = [_entry(each) for each in book.execute("SELECT * FROM effects")]
        return Money("databases", reader.payments(), entries)


def check_money(money: Money, model: Model) -> list[Invariant]:
    """Check that exactly what was opened is paid, once, and that the provider thinks so too."""
    seen, payments, book = money.seen_through, money.payments, money.book
    expected = {key: PaymentState(each.total, _end(each)) for key, each in model.orders.items() if _end(each)}
    return [
        invariant("OPEN is captured, CANCELLED is refunded", seen, len(model.orders), unequal(expected, payments)),
        invariant("the provider's book = ours", seen, len(payments), _unlike_book(payments, book)),
        invariant("nothing is charged twice", seen, len(book), _twice(book)),
    ]


def check_sagas(sagas: Mapping[str, Mapping[str, int]]) -> Invariant:
    """Check that each saga has ended. sagas: how many have which status, by service."""
    left = (
        f"{service}: {count} sagas are {status}"
        for service, by_status in sagas.items()
        for status, count in by_status.items()
        if status not in ("COMPLETED", "UNDONE")
    )
    return invariant("each saga has ended", "databases", sum(sum(each.values()) for each in sagas.values()), left)


def of_book(book: Sequence[Entry]) -> dict[str, int]:
    """What the report says of it: how much was done, by kind, refused, and asked for again under its key."""
    done = Counter(each.kind for each in book if each.status == 200 and each.pence)
    refused = sum(each.status != 200 for each in book)
    return {kind: done[kind] for kind in KINDS} | {
        "refused": refused, "asked_again": sum(each.asked - 1 for each in book)
    }  # fmt: skip


def _end(order: ModelOrder) -> str:
    """How its payment must have ended; empty: there must be none, since there was no credit."""
    return {OPEN: "CAPTURED", CANCELLED: "REFUNDED"}.get(order.status, "REFUSED" if order.declined else "")


def _unlike_book(payments: Mapping[UUID, PaymentState], book: Iterable[Entry]) -> Iterator[str]:
    done: dict[UUID, Counter[str]] = defaultdict(Counter)
    for each in book:
        if each.status == 200:
            done[each.payment][each.kind] += each.pence
    for key in payments.keys() | done.keys():
        found = tuple(done[key][kind] for kind in KINDS)
        amount, status = payments.get(key, PaymentState(Decimal(0), "nothing"))
        pence = int(amount.scaleb(2))
        possible = [tuple(pence * times for times in each) for each in DONE.get(status, ())]
        if found not in possible and (any(found) or possible):
            shown = ", ".join(f"{kind} {of}" for kind, of in zip(KINDS, found, strict=True))
            yield f"{key}: {status} of {amount} here; pence there: {shown}"


def _twice(book: Iterable[Entry]) -> Iterator[str]:
    times = Counter((each.payment, each.kind) for each in book if each.status == 200 and each.pence)
    return (f"{key}: {count} {kind}" for (key, kind), count in times.items() if count > 1)


def _entry(found: Any) -> Entry:
    return Entry(found["key"], found["kind"], UUID(found["payment"]), found["pence"], found["status"], found["asked"])
