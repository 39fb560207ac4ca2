"""What a person orders of sagas: to go on, to be undone, to pass something over."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.deciding import Deciding
from ensue.engine import ordering
from ensue.operations.opening import Opened, dispatcher_of
from ensue.ports import StepTransaction
from ensue.saga.instance import Instance
from ensue.saga.skipping import Settled
from ensue.saga.wake import Ordered, Wake


async def order(access: Opened, keys: Sequence[str], what: Ordered, by: Deciding) -> None:
    """Have parked sagas go on, or others be undone: all of these, or none. keys: `<name>:<id>` each. It is done as soon
    as a worker reads it. Raises UsageError for the first one for which it cannot be."""
    dispatcher = await dispatcher_of(access)
    await ordering.order(access.store, dispatcher, keys, what, by.actor, by.reason, _note(access, by))


async def skip(access: Opened, key: str, operation: int | None, settled: Settled, by: Deciding) -> str:
    """Have a parked saga go on as if what it is at had come to this; return what that is. operation: its number, where
    it is at several. Raises UsageError."""
    dispatcher = await dispatcher_of(access)
    return await ordering.skip(
        access.store, dispatcher, key, operation, settled, by.actor, by.reason, _note(access, by)
    )


def _note(access: Opened, by: Deciding) -> ordering.Also:
    async def note(transaction: StepTransaction, saga: Instance, wake: Wake) -> None:
        before = {"status": saga.status, "waits_for": saga.waits_for, "reason": saga.reason.partition("\n")[0]}
        skipped = {"asks": wake.asks, "number": wake.number, "result": wake.data, "failure": wake.refusal}
        after = skipped if wake.kind == "skip" else None
        await access.books.record(transaction, by, f"sagas {wake.kind}", saga.key, before, after)

    return note
