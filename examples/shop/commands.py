"""What the services of the shop ask of each other where an order is placed by orchestration.

Credit is keyed by customer, as the events are, and payments by order: what is asked for one key is done in the order in
which it was asked.
"""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from uuid import UUID

from ensue import Command, Failure
from shop.contracts import CreditReserved


class ReserveCredit(Command[CreditReserved], service="customers", key="customer_id"):
    customer_id: UUID
    order_id: UUID
    total: Decimal


class ReleaseCredit(Command[None], service="customers", key="customer_id"):
    """Of an order that nothing is reserved for it releases nothing."""

    customer_id: UUID
    order_id: UUID


class CreditRefused(Failure):
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Authorised:
    """reference: what the provider calls it."""

    order_id: UUID
    reference: str


class Authorise(Command[Authorised], service="payments", key="order_id"):
    """Have the money held for an order on the card of its customer."""

    order_id: UUID
    customer_id: UUID
    amount: Decimal


class Void(Command[None], service="payments", key="order_id"):
    """Let go what is held for an order, or is being asked for, or was refused: nothing is held after it."""

    order_id: UUID


class Capture(Command[None], service="payments", key="order_id"):
    """Take the money that is held."""

    order_id: UUID
    amount: Decimal


class CardRefused(Failure):
    reason: str


class PaymentKnown(Failure):
    """There is a payment of that order already, perhaps one that was given up before it began."""

    status: str
