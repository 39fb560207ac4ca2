"""As `commands`, where customers are event-sourced."""

from __future__ import annotations

from ensue import Step
from shop.commands import CreditRefused, ReleaseCredit, ReserveCredit
from shop.contracts import CreditReservationFailed, CreditReserved
from shop.customers.ledger import Customer
from shop.customers.ledger_handlers import release, reserve
from shop.customers.service import customers


@customers.handles
def reserve_on_demand(customer: Customer | None, command: ReserveCredit, step: Step) -> CreditReserved | CreditRefused:
    outcome = reserve(customer, command, step)
    # Returned and not raised: what was published is kept, and a batch with refusals in it stays whole.
    return CreditRefused(reason=outcome.reason) if isinstance(outcome, CreditReservationFailed) else outcome


@customers.handles
def release_on_demand(customer: Customer | None, command: ReleaseCredit, step: Step) -> None:
    release(customer, command.order_id, step)
