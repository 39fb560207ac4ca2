"""Whatever goes wrong at whichever step, the saga comes to the end that it should, and the money adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.sagas.cells import CELLS, MEANINGLESS, STEPS, Cell, End
from tests.sagas.shop import CREDIT, Customer
from tests.sagas.stage import Stage, on_stage

from ensue.saga.instance import ENDED, Status
from ensue.tables import TIMERS

FAULTS = tuple(dict.fromkeys(each.fault for each in CELLS))


def test_every_cell_of_the_table_is_played_or_says_why_it_means_nothing() -> None:
    played = {(each.step, each.fault) for each in CELLS}
    assert len(CELLS) == len({each.id for each in CELLS}) >= 60
    assert len(FAULTS) == 11
    assert played.isdisjoint(MEANINGLESS)
    assert played | MEANINGLESS.keys() == {(step, fault) for step in STEPS for fault in FAULTS}


async def played(cell: Cell, stage: Stage) -> None:
    expected = await cell.play(stage)
    saga = await stage.at_rest()
    found = await stage.found()
    assert found == expected, f"{saga.status}, {saga.waits_for}, {saga.reason}"
    await _books_agree(stage, expected)
    await _nothing_is_left(stage, expected)


async def _books_agree(stage: Stage, end: End) -> None:
    """What the provider, the participants and the orders say of the money is the same."""
    assert stage.book.twice() == []
    _, order, payment, reserved, money = end
    assert (money == "captured") == (order == "OPEN" or "captured" in end)
    assert bool(money) == (payment == "HELD")
    for each in (await stage.rows(stage.shop.credit, Customer)).values():
        assert each.left == CREDIT - 30 * reserved, "credit is what is not reserved"


async def _nothing_is_left(stage: Stage, end: End) -> None:
    for name, runtime in stage.world.runtimes.items():
        assert await stage.world.dead_letters(stage.shop.services[name]) == []
        living = await runtime.context.books.sagas([each for each in Status if each not in ENDED], 9)
        expected = ["place:o-1"] if name == "sales" and end[0] == "PARKED" else []
        assert [each.key for each in living] == expected
        assert await runtime.store.rows().find(TIMERS, TIMERS.lookups[0], (), limit=9) == []


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.id)
async def test_it_comes_to_its_end_and_the_books_agree(cell: Cell, tmp_path: Path) -> None:
    async with on_stage(tmp_path) as stage:
        await played(cell, stage)


@pytest.mark.parametrize("fault", FAULTS)
async def test_on_postgresql_it_does_too(fault: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue("postgres_server")
    server.drop("saga_cells")
    cell = next(each for each in CELLS if each.fault == fault and each.step in ("reserve", "authorise"))
    async with on_stage(tmp_path, server.url("saga_cells", "postgresql")) as stage:
        await played(cell, stage)
    server.drop("saga_cells")
