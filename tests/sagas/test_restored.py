"""The sagas' database is put back from an old copy, while participants have answered and done more since.

It does again what it does not remember: under new ids where it sends, under the same keys where it acts outside. So
participants have to know by their own keys what they have done, as those of the shop do.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from tests.sagas.shop import Customer, Place
from tests.sagas.stage import Stage, on_stage
from tests.unit.engine.workbench import LIMIT_S, settled

from ensue.engine.epoch import begin_epoch, find_published
from ensue.errors import StoreRestored
from ensue.saga.instance import ENDED

#: Who has answered when the copy is taken: those that run then.
COPIED = {
    "before anybody has answered": ("sales",),
    "while the payment is asked for": ("sales", "credit"),
    "while it sleeps": ("sales", "credit", "till"),
}


def copied(stage: Stage) -> Path:
    return Path(shutil.copy(stage.directory / "sales.db", stage.directory / "copy.db"))


async def put_back(stage: Stage, copy: Path) -> None:
    """The old copy is in place of the database; it is refused, and an operator begins a new epoch."""
    for path in stage.directory.glob("sales.db*"):
        path.unlink()
    shutil.copy(copy, stage.directory / "sales.db")
    await stage.start("sales")
    worker = stage.world.runtimes["sales"].worker
    assert worker is not None
    await asyncio.wait_for(worker.wait_failed(), LIMIT_S)
    assert isinstance(worker.failed, StoreRestored)
    await stage.stop("sales")
    store, broker = stage.store_of("sales"), stage.world.broker
    await store.open()
    await begin_epoch(store, broker, await find_published(store, broker))
    await store.close()


@pytest.mark.parametrize("when", COPIED)
@pytest.mark.parametrize("changes_mind", [False, True], ids=["it completes", "it is undone"])
async def test_the_database_is_restored_from_an_old_copy_while_participants_have_answered(
    when: str, changes_mind: bool, tmp_path: Path
) -> None:
    async with on_stage(tmp_path) as stage:
        await stage.start(*COPIED[when])
        await stage.begin(Place("o-1", changes_mind=changes_mind, rests=True))
        await settled(stage.world)
        await stage.stop("sales")
        copy = copied(stage)
        await stage.start(*[each for each in ("sales", "credit", "till") if each not in stage.world.runtimes])
        before = await stage.at_rest()
        assert before.status in ENDED
        end = await stage.found()
        await stage.stop("sales")
        await put_back(stage, copy)
        await stage.start("sales")
        again = await stage.at_rest()
        assert await stage.found() == end, f"{again.waits_for}, {again.reason}"
        assert stage.book.twice() == []
        for each in (await stage.rows(stage.shop.credit, Customer)).values():
            assert each.left == 1_000 - 30 * (not changes_mind)
        for service in stage.shop.services.values():
            assert await stage.world.dead_letters(service) == []
