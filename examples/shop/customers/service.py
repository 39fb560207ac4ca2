"""The service's declaration."""

from __future__ import annotations

from ensue import Service
from shop.contracts import CreditReleased, CreditReservationFailed, CreditReserved, CustomerCreated
from shop.customers.model import Base

customers = Service(
    "customers",
    publishes=[CustomerCreated, CreditReserved, CreditReservationFailed, CreditReleased],
    tables=Base.metadata,
)
