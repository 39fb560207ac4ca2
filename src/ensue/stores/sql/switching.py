"""From one way of reading the outbox to another: never while something is unsent, since positions begin anew."""

from __future__ import annotations

from ensue.errors import UsageError
from ensue.stores.identity import new_epoch_name
from ensue.stores.sql import stamped
from ensue.stores.sql.dialect import Dialect
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Outbox

SET_MODE = "UPDATE ensue_meta SET outbox_mode = ? WHERE outbox_mode = ?"


async def switch(link: Link, dialect: Dialect, stored: str, outbox: Outbox) -> None:
    """Switch to the mode of `outbox`, in the caller's transaction: a new epoch begins.

    Raises UsageError when records of the stored mode are unsent, with what to do.
    """
    await link.fetch("SELECT 1 FROM ensue_meta FOR UPDATE")
    await link.fetch(stamped.LOCK)  # nobody gives positions between the count and the switch
    unsent = await outbox.unsent(link, stored)
    if unsent:
        raise UsageError(
            f"{link.place}: the outbox is read by {stored!r} and holds {unsent} unsent records, and the URL says "
            f"outbox={outbox.mode}. Run the service with outbox={stored} until `ensue status` shows 0 unsent, stop it, "
            f"then start it with outbox={outbox.mode}: a new epoch begins by itself",
            found=stored,
            expected=outbox.mode,
        )
    if await link.execute(dialect.text(SET_MODE), outbox.mode, stored) != 1:
        return  # another process was quicker
    [(last, epoch)] = await link.fetch("SELECT last_position, epoch FROM ensue_counter")
    await outbox.prepare(link)
    await outbox.begin_epoch(link, new_epoch_name(), int(last), epoch)
