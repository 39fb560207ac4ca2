"""eventsourcing: the orders are event-sourced aggregates; the consumer's rows are a projection into its own database.

The stored event is the order: there is no second row, so its producer writes one row less than the others. The
subscription is woken by LISTEN/NOTIFY and reads 500 events at a time; each event is one transaction together with its
tracking record. Database functions and single-row tracking, the library's options for speed, are on.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.dispatch import singledispatchmethod
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import get_topic

from benchmarks.peers.ground import Ground, Order

title = "eventsourcing"
packages = ("eventsourcing", "psycopg")
guarantee = "once and in order, by its tracking records"
backlog = 6_000

ADD_TO_CUSTOMER = "UPDATE customers SET total = total + %s, changes = changes + 1 WHERE id = %s"


class PlacedOrder(Aggregate):
    @event("Placed")
    def __init__(self, number: int, customer_id: str, amount: int, note: str) -> None:
        self.number = number
        self.customer_id = customer_id
        self.amount = amount
        self.note = note

    @staticmethod
    def create_id(number: int) -> UUID:
        return uuid5(NAMESPACE_URL, f"/orders/{number}")


class Orders(Application[UUID]):
    pass


class CustomersView(PostgresTrackingRecorder):
    def add(self, customer_id: str, amount: int, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(ADD_TO_CUSTOMER, (amount, customer_id), prepare=True)


class Customers(Projection[CustomersView]):
    topics = (get_topic(PlacedOrder.Placed),)

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        raise TypeError(f"{type(domain_event)} is not one of the topics")

    @process_event.register
    def placed(self, domain_event: PlacedOrder.Placed, tracking: Tracking) -> None:
        self.view.add(domain_event.customer_id, domain_event.amount, tracking)


def _environment(ground: Ground) -> dict[str, str]:
    found = {"PERSISTENCE_MODULE": "eventsourcing.postgres"}
    for name, url in (("ORDERS", ground.producer), ("CUSTOMERS", ground.consumer)):
        parts = urlsplit(url)
        found |= {
            f"{name}_POSTGRES_DBNAME": parts.path.removeprefix("/"),
            f"{name}_POSTGRES_HOST": parts.hostname or "",
            f"{name}_POSTGRES_PORT": str(parts.port),
            f"{name}_POSTGRES_USER": parts.username or "",
            f"{name}_POSTGRES_PASSWORD": parts.password or "",
            f"{name}_POSTGRES_ENABLE_DB_FUNCTIONS": "y",
            f"{name}_SINGLE_ROW_TRACKING": "y",
        }
    return found


async def prepare(ground: Ground) -> None:
    with Orders(_environment(ground)):
        pass  # it makes its tables; the projection makes its own when it starts


class _Producer:
    def __init__(self, application: Orders) -> None:
        self._application = application

    async def place(self, order: Order, committing: Callable[[], None]) -> None:
        placed = _aggregate(order)
        committing()
        self._application.save(placed)

    async def fill(self, orders: Sequence[Order]) -> None:
        self._application.save(*(_aggregate(order) for order in orders))


def _aggregate(order: Order) -> PlacedOrder:
    return PlacedOrder(order.id, order.customer_id, order.amount, order.note)


@asynccontextmanager
async def producing(ground: Ground) -> AsyncIterator[_Producer]:
    with Orders(_environment(ground)) as application:
        yield _Producer(application)


async def relay(ground: Ground) -> None:
    """The projection reads the events itself."""


async def consume(ground: Ground) -> None:
    with ProjectionRunner(
        application_class=Orders,
        projection_class=Customers,
        view_class=CustomersView,
        env=_environment(ground),
    ) as runner:
        await asyncio.to_thread(runner.run_forever)
