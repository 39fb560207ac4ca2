"""What is asked of a service's SQL database, in SQL that SQLite, PostgreSQL and MariaDB all take."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from shop.demo.services import VIEW
from shop.demo.snapshot import CustomerState, OrderState, PaymentState, Progress, Reservations

ORDERS = "SELECT order_id, customer_id, total, placed_at, status, reason FROM {orders}"
CUSTOMERS = "SELECT customer_id, name, credit_limit, reserved FROM {customers}"
RESERVATIONS = "SELECT customer_id, order_id, amount FROM reservations"
PAYMENTS = "SELECT order_id, amount, status FROM payments"
STATUSES = "SELECT status, count(*) FROM {orders} GROUP BY status"
DECIDED = "SELECT order_id, status FROM {orders} WHERE order_id IN ({ids}) AND status <> 'NEW'"

#: Customers who have more reserved than they may, by the sum and by the rows.
OVER_LIMIT = """
    SELECT customers.customer_id, CASE WHEN coalesce(held, 0) > reserved THEN held ELSE reserved END, credit_limit
    FROM customers LEFT JOIN (SELECT customer_id, sum(amount) AS held FROM reservations GROUP BY customer_id) AS sums
    ON sums.customer_id = customers.customer_id WHERE reserved > credit_limit OR held > credit_limit
"""

#: Where customers are event-sourced: what has happened, in order, and what is kept of each by now.
HAPPENED = "SELECT envelope, data FROM ensue_stream WHERE id LIKE 'customer:%' ORDER BY id"
SNAPSHOTS = "SELECT snapshot FROM ensue_aggregate WHERE stream = 'customer'"

SOURCE = "SELECT service, epoch FROM {identity}"
HEADS = "SELECT topic, {partition}, position FROM ensue_outbox_head"
PUBLISHED = "SELECT topic, count(*) FROM ensue_outbox GROUP BY topic"
CHECKPOINTS = "SELECT id, state FROM ensue_checkpoint"
SAGAS = "SELECT status, count(*) FROM ensue_saga GROUP BY status"
LETTERS = "SELECT state, count(*) FROM ensue_dead_letter GROUP BY state"

Execute = Callable[[str], Iterable[Sequence[Any]]]


class SqlReader:
    """execute: run a query and return its rows. service: whose database it is; the view's tables have other names.
    identity, partition: where Ensue's tables keep the epoch, and what they call a partition's number.

    Amounts are whole pence there, ids UUIDs or 32 hexadecimal digits, moments text.
    """

    def __init__(
        self, service: str, execute: Execute, *, identity: str = "ensue_meta", partition: str = "partition"
    ) -> None:
        view = "history_" if service == VIEW else ""
        self._keeps_customers = service == "customers"
        names = {
            "orders": f"{view}orders", "customers": f"{view}customers",
            "identity": identity, "partition": partition, "ids": "{ids}",
        }  # fmt: skip
        self._execute: Execute = lambda query: execute(query.format(**names))

    def orders(self) -> dict[UUID, OrderState]:
        return {
            _id(key): OrderState(_id(customer), _pounds(total), datetime.fromisoformat(placed_at), status, reason)
            for key, customer, total, placed_at, status, reason in self._execute(ORDERS)
        }

    def customers(self) -> dict[UUID, CustomerState]:
        found = {
            _id(key): CustomerState(name, _pounds(limit), _pounds(reserved))
            for key, name, limit, reserved in self._execute(CUSTOMERS)
        }
        return found | self._folded()[0]

    def _folded(self) -> tuple[dict[UUID, CustomerState], Reservations]:
        """Customers and reservations as their streams say, by rules of its own; empty where they are kept as rows."""
        found: dict[UUID, CustomerState] = {}
        held: Reservations = defaultdict(dict)
        for envelope, data in self._execute(HAPPENED) if self._keeps_customers else ():
            kind, event = json.loads(bytes(envelope))["type"], json.loads(bytes(data))
            key = UUID(event["customer_id"])
            if kind == "customers.CustomerCreated.v1":
                found[key] = CustomerState(event["name"], Decimal(event["credit_limit"]), Decimal("0.00"))
            elif kind == "customers.CreditReserved.v1":
                held[key][UUID(event["order_id"])] = Decimal(event["amount"])
            elif kind == "customers.CreditReleased.v1":
                del held[key][UUID(event["order_id"])]
        sums = {key: sum(held[key].values(), Decimal("0.00")) for key in found}
        return {key: CustomerState(each.name, each.credit_limit, sums[key]) for key, each in found.items()}, held

    def reservations(self) -> Reservations:
        found: Reservations = self._folded()[1]
        for customer_id, order_id, amount in self._execute(RESERVATIONS):
            found[_id(customer_id)][_id(order_id)] = _pounds(amount)
        return found

    def payments(self) -> dict[UUID, PaymentState]:
        return {_id(key): PaymentState(_pounds(amount), status) for key, amount, status in self._execute(PAYMENTS)}

    def over_limit(self) -> list[str]:
        return [
            f"customer {_id(key)}: reserved {_pounds(reserved)}, limit {_pounds(limit)}"
            for key, reserved, limit in self._execute(OVER_LIMIT)
        ] + [
            f"customer {each['customer_id']}: reserved {reserved}, limit {each['credit_limit']}"
            for (snapshot,) in self._execute(SNAPSHOTS)
            for each in (json.loads(bytes(snapshot)),)
            for reserved in (sum(map(Decimal, each["reservations"].values()), Decimal(0)), Decimal(each["reserved"]))
            if reserved > Decimal(each["credit_limit"])
        ]

    def statuses(self) -> dict[str, int]:
        return {status: int(count) for status, count in self._execute(STATUSES)}

    def decided(self, orders: Collection[UUID]) -> dict[UUID, str]:
        ids = ",".join(f"'{each.hex}'" for each in orders)
        return {_id(key): status for key, status in self._execute(DECIDED.replace("{ids}", ids))}

    def source(self) -> str:
        [(service, epoch)] = self._execute(SOURCE)
        return f"{service}/{epoch}"

    def heads(self) -> dict[tuple[str, int], int]:
        return {(topic, number): position for topic, number, position in self._execute(HEADS)}

    def published(self) -> dict[str, int]:
        return {topic: int(count) for topic, count in self._execute(PUBLISHED)}

    def progress(self) -> list[Progress]:
        return [_progress(*row) for row in self._execute(CHECKPOINTS)]

    def letters(self) -> dict[str, int]:
        return {state: int(count) for state, count in self._execute(LETTERS)}

    def sagas(self) -> dict[str, int]:
        return {status: int(count) for status, count in self._execute(SAGAS)}


def _id(value: Any) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _progress(place: str, state: str) -> Progress:
    """place: `<topic>/<partition>`. state: the rest of a checkpoint, as JSON."""
    topic, _, number = place.rpartition("/")
    found = json.loads(state)
    return Progress(topic, int(number), found["counters"], found["watermarks"], tuple(found["gaps"]))


def _pounds(pence: Any) -> Decimal:
    return Decimal(int(pence)).scaleb(-2)
