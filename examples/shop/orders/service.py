"""The service's declaration."""

from __future__ import annotations

from ensue import Retry, Service
from shop.commands import Authorise, Capture, ReleaseCredit, ReserveCredit, Void
from shop.contracts import OrderCancelled, OrderCreated, OrderOpened, OrderRejected
from shop.orders.model import Base, CannotHappen
from shop.settings import ORCHESTRATED

EVENTS: list[type] = [OrderCreated, OrderOpened, OrderRejected, OrderCancelled]
SENT: list[type] = [ReleaseCredit]
CALLED: list[type] = [ReserveCredit, ReleaseCredit, Authorise, Void, Capture]

orders = Service(
    "orders",
    publishes=[*EVENTS, *SENT] if ORCHESTRATED else EVENTS,
    calls=CALLED if ORCHESTRATED else (),
    tables=Base.metadata,
    retry=Retry(never=(CannotHappen,)),
)
