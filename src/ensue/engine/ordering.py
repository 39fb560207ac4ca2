"""What a person orders of sagas: written as the records by which any step does it, and refused where it is in vain."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.engine.dispatch import Dispatcher
from ensue.engine.timers import put
from ensue.errors import UsageError
from ensue.ports import Store
from ensue.saga.instance import ENDED, Instance, Status, instance_of
from ensue.saga.wake import Ordered, Wake, write_wake
from ensue.tables import SAGAS


async def order(store: Store, dispatcher: Dispatcher, keys: Sequence[str], what: Ordered) -> None:
    """Order it of all these sagas, or of none. Raises UsageError for the first for which it cannot be."""
    async with store.transaction() as transaction:
        found = {row[0]: instance_of(row) for row in await transaction.load_rows(SAGAS, sorted(keys))}
        for key in keys:
            reason = _in_vain(found.get(key), what)
            if reason:
                raise UsageError(f"saga {key} of {dispatcher.definition.name} {reason}; nothing was ordered of any")
        step = dispatcher.outside_step(transaction, "", "", "")
        for key in keys:
            step.wake(key, write_wake(Wake(what)))
        await put(transaction, step.outgoing.close())


def _in_vain(saga: Instance | None, what: Ordered) -> str:
    if saga is None:
        return "does not exist"
    if saga.status in ENDED:
        return f"has ended, {saga.status}"
    if what == "retry" and saga.status is not Status.PARKED:
        return f"is {saga.status}, and goes on by itself"
    if what == "cancel" and (saga.pivoted or saga.returned):
        return "is past its pivot, and goes forward only"
    if what == "cancel" and saga.goes_by == Status.UNDOING:
        return "is being undone" + (", and parked: have it tried again" if saga.status is Status.PARKED else "")
    return ""
