"""The service's declaration."""

from __future__ import annotations

from ensue import Service
from shop.contracts import CreditReleased, CreditReservationFailed, CreditReserved, CustomerCreated
from shop.customers.ledger import Customer
from shop.customers.model import Base
from shop.settings import EVENT_SOURCED

customers = Service(
    "customers",
    publishes=[CustomerCreated, CreditReserved, CreditReservationFailed, CreditReleased],
    aggregates=[Customer] if EVENT_SOURCED else [],
    tables=Base.metadata,
)
