"""One event type handled again, partition by partition."""

from __future__ import annotations

from ensue.app import Service
from ensue.deciding import Deciding
from ensue.errors import UsageError
from ensue.message import REPLY, SAGA, TOLD, Partition
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction


async def replay(access: Opened, where: Partition, kind: str, by: Deciding) -> None:
    """Have a partition's records of a type, as far as the log still has them, handled again as soon as its worker sees
    this."""
    books = access.books

    async def note(transaction: StepTransaction) -> None:
        await books.record(transaction, by, "replay", f"{where.place} {kind}")

    await books.replay(where, kind, access.service.wanted(where.topic), note)


def topic_of(service: Service, kind: str) -> str:
    """The topic of a type that may be handled again. Raises UsageError for one that may not."""
    if kind in (SAGA, TOLD):
        raise UsageError(
            f"what wakes the sagas of {service.name} is not replayed: each would be told, or cancelled, a second "
            "time, and one that is long over would begin again"
        )
    handlers = service.handlers.get(kind)
    if handlers is None:
        known = ", ".join(sorted(service.handlers.keys() - {REPLY, SAGA, TOLD})) or "nothing"
        raise UsageError(f"service {service.name} has no handler of {kind!r}; it handles {known}")
    return handlers[0].event.topic
