"""What the services say when all is quiet, in one shape, whether asked over HTTP or read from their databases."""

from __future__ import annotations

import dataclasses
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

#: Amounts by order, by customer.
Reservations = dict[UUID, dict[UUID, Decimal]]


class OrderState(NamedTuple):
    customer_id: UUID
    total: Decimal
    placed_at: datetime
    status: str
    reason: str = ""


class PaymentState(NamedTuple):
    amount: Decimal
    status: str


@dataclasses.dataclass(frozen=True, slots=True)
class CustomerState:
    """reserved: as the service states it. reservations: by order, where they can be seen."""

    name: str
    credit_limit: Decimal
    reserved: Decimal
    reservations: dict[UUID, Decimal] | None = None


class Progress(NamedTuple):
    """A subscriber's checkpoint of one partition: its counters by name, the last position applied of each source, and
    the sources that have an open gap."""

    topic: str
    partition: int
    counters: dict[str, int]
    watermarks: dict[str, int]
    gaps: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """seen_through: `HTTP` or `databases`. The view's customers: what order_history says of each, by id."""

    seen_through: str
    orders: dict[UUID, OrderState]
    customers: dict[UUID, CustomerState]
    view_orders: dict[UUID, OrderState]
    view_customers: dict[UUID, CustomerState]


@dataclasses.dataclass(frozen=True, slots=True)
class Stream:
    """One subscriber's reading of one partition of one source.

    head: last position the source wrote there. watermark: last one applied.
    """

    subscriber: str
    source: str
    topic: str
    partition: int
    head: int
    watermark: int
    gap: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Traffic:
    """The engine's own books of one subscriber, summed over its partitions, since its database was made.

    topics: those it reads. unknown: events of them that it has no handler for. dead_letters: those not discarded.
    """

    subscriber: str
    topics: tuple[str, ...]
    applied: int
    unknown: int
    duplicates: int
    gaps_seen: int
    gaps_healed: int
    retries: int
    dead_letters: int
