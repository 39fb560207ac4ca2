"""What a person orders of sagas: written as the records by which any step does it, and refused where it is in vain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from ensue.engine.dispatch import Dispatcher
from ensue.engine.timers import put
from ensue.errors import UsageError
from ensue.ports import StepTransaction, Store
from ensue.saga.instance import ENDED, Instance, Skip, Status, instance_of
from ensue.saga.skipping import Settled, skip_of
from ensue.saga.wake import Ordered, Wake, checked_words, write_wake
from ensue.tables import SAGAS

#: What is done with each saga of which something is ordered, and with the order, in the same transaction.
Also = Callable[[StepTransaction, Instance, Wake], Awaitable[None]]


async def order(
    store: Store,
    dispatcher: Dispatcher,
    keys: Sequence[str],
    what: Ordered,
    who: str = "",
    why: str = "",
    also: Also | None = None,
) -> None:
    """Order it of all these sagas, or of none. Raises UsageError for the first for which it cannot be."""
    who, why = checked_words(who, why)
    async with store.transaction() as transaction:
        found = await _load(transaction, keys)
        for key in keys:
            reason = _in_vain(found.get(key), what)
            if reason:
                raise UsageError(f"saga {key} of {dispatcher.definition.name} {reason}; nothing was ordered of any")
        await _write(transaction, dispatcher, {key: Wake(what, who=who, why=why) for key in keys}, found, also)


async def skip(
    store: Store,
    dispatcher: Dispatcher,
    key: str,
    number: int | None,
    settled: Settled,
    who: str,
    why: str,
    also: Also | None = None,
    seen: int = 0,
) -> str:
    """Have a parked saga go on as if what it is at had come to this; return what that is. seen: the revision of the
    saga at which somebody looked, 0: they do not say. Raises UsageError, also when it is another by now."""
    who, why = checked_words(who, why)
    async with store.transaction() as transaction:
        saga = (await _load(transaction, [key])).get(key)
        if saga is None:
            raise UsageError(f"saga {key} of {dispatcher.definition.name} does not exist")
        if seen not in (0, saga.revision):
            raise UsageError(
                f"saga {key} of {dispatcher.definition.name} is not as it was when it was looked at (it is "
                f"{saga.status}, at {saga.waits_for or 'nothing'}): nothing is skipped; look at it again"
            )
        code = dispatcher.definition.sagas.get((saga.name, saga.version))
        found = skip_of(code, saga, number, settled)
        of = found.skip or Skip(("", "", ""))
        wake = Wake("skip", number=found.number, data=of.data, refusal=of.failure, asks=of.asks, who=who, why=why)
        await _write(transaction, dispatcher, {key: wake}, {key: saga}, also)
        return " ".join(filter(None, of.asks)) or f"the undo of operation {found.number}"


async def _load(transaction: StepTransaction, keys: Sequence[str]) -> dict[str, Instance]:
    return {row[0]: instance_of(row) for row in await transaction.load_rows(SAGAS, sorted(keys))}


async def _write(
    transaction: StepTransaction,
    dispatcher: Dispatcher,
    wakes: Mapping[str, Wake],
    sagas: Mapping[str, Instance],
    also: Also | None,
) -> None:
    step = dispatcher.outside_step(transaction, "", "", "")
    for key, wake in wakes.items():
        step.wake(key, write_wake(wake))
    await put(transaction, step.outgoing.close())
    if also is not None:
        for key, wake in wakes.items():
            await also(transaction, sagas[key], wake)


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
