"""Helpers for users' tests. Nothing here sleeps, and nothing is left behind.

Services running together in one process, quiet awaited by a signal:

    async with ensue.testing.run(orders, customers) as world:
        async with orders.step() as step:
            ...
        await world.settle()

One handler alone:

    result = await given(orders, Order(id=1, state="NEW")).when(CreditReserved(order_id=1))
    assert result.published == [OrderOpened(order_id=1)]

One event-sourced aggregate alone, without even a database:

    given(Customer, CustomerCreated(...)).when(Customer.reserve, order_id, 30).then(CreditReserved(...))

One saga alone, without even a database:

    run = ensue.testing.saga(place_order, PlaceOrder(...))
    run.expect_local(create_order)
    run.expect_call(ReserveCredit, total=30).fails(CreditLimitExceeded(available=10))
    run.expect_undo(reject_order)
    run.expect_end("UNDONE")

With pytest the fixtures of `ensue.testing.plugin` are there by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.testing.decision import Decided, Given
    from ensue.testing.saga_run import SagaRun, saga
    from ensue.testing.scenario import Result, Scenario, given
    from ensue.testing.world import NotSettled, World, run

__all__ = ["Decided", "Given", "NotSettled", "Result", "SagaRun", "Scenario", "World", "given", "run", "saga"]

_SCENARIO = ("Result", "Scenario", "given")
_DECISION = ("Decided", "Given")
_SAGA = ("SagaRun", "saga")


def __getattr__(name: str) -> Any:
    """Import on first use: pytest loads the plugin, and with it this package, in every run of every project."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _SCENARIO:
        from ensue.testing import scenario as module
    elif name in _DECISION:
        from ensue.testing import decision as module  # type: ignore[no-redef]
    elif name in _SAGA:
        from ensue.testing import saga_run as module  # type: ignore[no-redef]
    else:
        from ensue.testing import world as module  # type: ignore[no-redef]
    return getattr(module, name)
