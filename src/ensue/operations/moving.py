"""A service's move to another database."""

from __future__ import annotations

import dataclasses

from ensue.addresses import shown
from ensue.deciding import Deciding
from ensue.engine import moving
from ensue.engine.books import Books
from ensue.engine.moving import Moved
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction, Store


async def move_database(access: Opened, target: Store, url: str, by: Deciding) -> Moved:
    """Copy what Ensue keeps into another open store, with the row that says who did, in one transaction there.

    url: of the new one. The old database is only read, so it has no such row. Raises what `engine.moving.move` does.
    """
    service = access.service.name

    async def note(transaction: StepTransaction, moved: Moved) -> None:
        before, after = {"database": access.database_url}, {"database": shown(url), **dataclasses.asdict(moved)}
        await Books(target, service).record(transaction, by, "db move", moved.source, before, after)

    return await moving.move(access.store, target, service, note)
