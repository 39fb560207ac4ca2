"""The service's declaration."""

from __future__ import annotations

from ensue import Retry, Service
from shop.payments.model import Base, CannotHappen

payments = Service("payments", publishes=[], tables=Base.metadata, retry=Retry(never=(CannotHappen,)))
