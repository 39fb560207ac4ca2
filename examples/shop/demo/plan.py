"""From invoices to what is asked of the services. Pure: the same invoices and seed give the same plan.

The rules, as the summary states them:
- a customer is created at their first invoice or credit note, with a credit limit (see `credit_limit`);
- an invoice with a positive total is an order; an invoice of zero is left out;
- a credit note cancels the most recent order of its customer placed before it that no earlier credit note asked to
  cancel; when there is none left there is nothing to cancel;
- what one customer asks for is sent in order, the next when the answer to the one before has come.
"""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from uuid import UUID, uuid5

from shop.demo.dataset import Invoice

#: Ids are derived from the numbers in the data, so that every run, and every retry, names the same things.
NAMESPACE = UUID("6b1f0e0a-3f4f-5d0b-9a53-0f6f3a1c2f11")
LIMIT_SHARE = Decimal("0.8")
LIMIT_MIN = Decimal(100)
#: How far (in operations) the seed may move one customer's next operation among those of the others.
SHUFFLE_WINDOW = 64

#: What the provider takes from a card at once.
CARD_MAX = Decimal(5000)

RULES = (
    f"credit limit: {LIMIT_SHARE:.0%} of the sum of the customer's invoices in this run, at least the largest of them "
    f"and £{LIMIT_MIN}, rounded up to whole pounds",
    "order: every invoice with a positive total (an invoice of zero is left out)",
    "cancellation: a credit note cancels its customer's most recent order that no earlier credit note named",
    "time of an order: the invoice's, in the shop's local time, taken as UTC",
)
#: By orchestration besides.
RULES_PAID = (
    f"card: one of each customer, which is good for £{CARD_MAX} at once; an order of more is rejected",
    "what a customer asks for next is sent when the order before is decided: sagas have no order among them",
)


@dataclasses.dataclass(frozen=True, slots=True)
class CreateCustomer:
    customer_id: UUID
    name: str
    credit_limit: Decimal


@dataclasses.dataclass(frozen=True, slots=True)
class PlaceOrder:
    customer_id: UUID
    order_id: UUID
    total: Decimal
    placed_at: datetime


@dataclasses.dataclass(frozen=True, slots=True)
class CancelOrder:
    """key: of the credit note, to make a retried request take effect once."""

    customer_id: UUID
    order_id: UUID
    key: str


Operation = CreateCustomer | PlaceOrder | CancelOrder


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """An operation and when its turn comes among all customers; turns of one customer grow."""

    turn: float
    operation: Operation


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, per customer in order, and what the rules left out.

    zero_invoices: left out. nothing_to_cancel: credit notes that found no order.
    """

    by_customer: dict[UUID, list[Planned]]
    zero_invoices: int
    nothing_to_cancel: int

    @property
    def customers(self) -> int:
        return len(self.by_customer)

    @property
    def orders(self) -> int:
        return self._count(PlaceOrder)

    @property
    def cancellations(self) -> int:
        return self._count(CancelOrder)

    @property
    def operations(self) -> int:
        return sum(map(len, self.by_customer.values()))

    def _count(self, kind: type) -> int:
        return sum(isinstance(each.operation, kind) for planned in self.by_customer.values() for each in planned)


def customer_id(number: str) -> UUID:
    return uuid5(NAMESPACE, f"customer {number}")


def order_id(invoice_number: str) -> UUID:
    return uuid5(NAMESPACE, f"invoice {invoice_number}")


def credit_limit(totals: Sequence[Decimal]) -> Decimal:
    """Return the limit, in whole pounds, of a customer with these invoices: enough for each, often not for all.

    >>> credit_limit([Decimal("139.12"), Decimal("122.20")]), credit_limit([])
    (Decimal('210'), Decimal('100'))
    """
    return Decimal(math.ceil(max(LIMIT_MIN, LIMIT_SHARE * sum(totals, Decimal(0)), max(totals, default=Decimal(0)))))


def first_orders(invoices: Sequence[Invoice], orders: int | None) -> list[Invoice]:
    """Return what came up to the `orders`-th order (all with None): orders, credit notes and zero invoices."""
    if orders is None:
        return list(invoices)
    taken: list[Invoice] = []
    left = orders
    for invoice in invoices:
        if _is_order(invoice):
            if left == 0:
                break
            left -= 1
        taken.append(invoice)
    return taken


def make_plan(invoices: Sequence[Invoice], seed: int) -> Plan:
    """Return the plan for these invoices (oldest first). The seed moves customers against each other, no more."""
    random = Random(seed)
    totals: dict[str, list[Decimal]] = defaultdict(list)
    for invoice in invoices:
        if _is_order(invoice):
            totals[invoice.customer].append(invoice.total)

    by_customer: dict[UUID, list[Planned]] = {}
    uncancelled: dict[UUID, list[UUID]] = defaultdict(list)
    zero_invoices = nothing_to_cancel = 0
    for place, invoice in enumerate(invoices):
        customer = customer_id(invoice.customer)
        planned = by_customer.get(customer)
        turn = place + SHUFFLE_WINDOW * random.random()
        if planned is None:
            name = f"Customer {invoice.customer} ({invoice.country})"
            limit = credit_limit(totals[invoice.customer])
            planned = by_customer[customer] = [Planned(turn, CreateCustomer(customer, name, limit))]
        operation: Operation
        if invoice.is_credit_note:
            if not uncancelled[customer]:
                nothing_to_cancel += 1
                continue
            operation = CancelOrder(customer, uncancelled[customer].pop(), f"credit note {invoice.number}")
        elif _is_order(invoice):
            operation = PlaceOrder(customer, order_id(invoice.number), invoice.total, invoice.at.replace(tzinfo=UTC))
            uncancelled[customer].append(operation.order_id)
        else:
            zero_invoices += 1
            continue
        planned.append(Planned(max(turn, planned[-1].turn), operation))
    return Plan(by_customer, zero_invoices, nothing_to_cancel)


def _is_order(invoice: Invoice) -> bool:
    return not invoice.is_credit_note and invoice.total > 0
