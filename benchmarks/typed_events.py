"""Events with the field types of real ones, UUID, Decimal and datetime, as the shop's have; 300 bytes of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from uuid import UUID

from ensue import Event

NOTE = "n" * 122


class OrderPlaced(Event, topic="placed", key="customer_id"):
    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    note: str


class OrderNoted(Event, topic="noted", key="customer_id"):
    """What follows: of the same size."""

    order_id: UUID
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    note: str


def orders_placed(count: int, seed: int = 1) -> Iterator[OrderPlaced]:
    random = Random(seed)
    customers = [UUID(int=random.getrandbits(128), version=4) for _ in range(1000)]
    placed_at = datetime(2011, 12, 9, 12, 50, tzinfo=UTC)
    for _ in range(count):
        yield OrderPlaced(
            order_id=UUID(int=random.getrandbits(128), version=4),
            customer_id=random.choice(customers),
            total=Decimal(random.randrange(100_00, 999_99)) / 100,
            placed_at=placed_at,
            note=NOTE,
        )


def noted(event: OrderPlaced) -> OrderNoted:
    return OrderNoted(
        order_id=event.order_id,
        customer_id=event.customer_id,
        total=event.total,
        placed_at=event.placed_at,
        note=event.note,
    )
