"""A new epoch for a database that was put back from an older copy."""

from __future__ import annotations

from ensue.deciding import Deciding
from ensue.engine import epoch
from ensue.engine.epoch import Published
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction


async def begin_epoch(access: Opened, found: Published, by: Deciding) -> str:
    """Complete the old epoch in the log, then begin the new one; return the new source. No worker may run meanwhile.

    The decision is written right after the epoch has begun, which the store does by itself: a crash between the two
    loses it. Raises UsageError when the old epoch has ended meanwhile, or the log is not the one that held it.
    """

    async def note(transaction: StepTransaction, source: str) -> None:
        before = {"source": found.source, "published_through": found.through, "left": found.left}
        await access.books.record(transaction, by, "db new-epoch", found.source, before, {"source": source})

    return await epoch.begin_epoch(access.store, access.need_broker(), found, note)
