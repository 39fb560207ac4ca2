"""A desk with something to decide of every kind: made once by services that run, copied for each test."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.unit.cli.harness import work_until
from tests.unit.console.desk import DeskSold, books, books_of, first, ship, shop

from ensue.deciding import Deciding, Face
from ensue.message import DeadLetterState, Gap, GapState, Partition
from ensue.operations.views import opened_view
from ensue.saga.instance import Status

#: Longer than any run of these tests.
LATER = datetime(2300, 1, 1, tzinfo=UTC)


def settle(patch: pytest.MonkeyPatch, home: Path) -> None:
    patch.setenv("ENSUE_HOME", str(home))
    patch.setenv("ENSUE_PARTITIONS", "1")
    patch.setenv("ENSUE_LEASE_TTL_S", "0.6")


@pytest.fixture(scope="session")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ann's first is dead and her second waits behind it; bob's, eve's and zoe's are dead; three sagas are parked;
    three timers wait; of a source that nobody has, five positions are lost; a view has one version."""
    home = tmp_path_factory.mktemp("desk")
    (home / "broken").touch()
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, home)
        asyncio.run(_seed())
    return home  # and not within the patch, which would hold for all tests that follow


async def _seed() -> None:
    async with shop.running(work=False), shop.step() as step:
        for customer, amount in (("ann", -1), ("ann", 2), ("bob", -2), ("eve", -3), ("zoe", -4)):
            step.publish(DeskSold(customer=customer, amount=amount, note="secret"), {"tenant": "acme"})
        for number in range(3):
            step.publish(DeskSold(customer=f"late {number}"), at=LATER + timedelta(days=number))
    async with books.running(work=False), books.step() as step:
        for name in ("one", "two", "a/b"):
            step.start(ship, DeskSold(customer=name), id=name)

    async def stands_still() -> bool:
        async with books_of(books) as (_, found):
            letters = await found.letters(None, (DeadLetterState.DEAD, DeadLetterState.WAITING))
            return len(letters) == 5 and await found.saga_count(Status.PARKED) == 3

    await work_until(stands_still, shop, books)
    async with books_of(books) as (store, found):
        where = Partition(books.name, "desk", 0)
        checkpoint = await found.checkpoint(where)
        checkpoint.gaps = {"gone/1": Gap("gone/1", 2, 7, 1.0, GapState.LOST, 7), "open/1": Gap("open/1", 2, 7, 1.0)}
        checkpoint.watermarks = {**checkpoint.watermarks, "gone/1": 2, "open/1": 2}
        async with store.transaction() as transaction:
            await found.save_checkpoint(transaction, where, checkpoint)
    by = Deciding(actor="seed", origin=Face.CLI)
    async with opened_view(first, make=True) as access:
        await access.deciding(by, "views rebuild").rebuild(1, by.actor)


@pytest.fixture
def desk(seeded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "desk"
    shutil.copytree(seeded, home)
    settle(monkeypatch, home)
    return home
