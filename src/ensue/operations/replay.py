"""One event type handled again, partition by partition."""

from __future__ import annotations

from ensue.deciding import Deciding
from ensue.message import Partition
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction


async def replay(access: Opened, where: Partition, kind: str, by: Deciding) -> None:
    """Have a partition's records of a type, as far as the log still has them, handled again as soon as its worker sees
    this."""
    books = access.books

    async def note(transaction: StepTransaction) -> None:
        await books.record(transaction, by, "replay", f"{where.place} {kind}")

    await books.replay(where, kind, access.service.wanted(where.topic), note)
