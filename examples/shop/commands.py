"""What the services of the shop ask of each other where an order is placed by orchestration.

All are keyed by customer, as the events are: what is asked for one customer is done in the order in which it was asked.
"""

from __future__ import annotations

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
