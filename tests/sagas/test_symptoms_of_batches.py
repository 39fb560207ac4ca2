"""Of a batch of sagas some raise: the others go on, whoever raises and however many do; see
docs/contributing/guarantees.md."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random

import pytest
from tests.sagas.crowd import BUYING, PURCHASES, Buy, Purchase
from tests.unit.engine.workbench import bench, config, settled

from ensue import Failure, Retry, Saga, Service, TableRepository
from ensue.saga.instance import Status

TOTAL = 500


class Unwanted(Failure, type_name="batches.Unwanted"):
    pass


@pytest.mark.parametrize(
    ("how", "wrong"), [("a failure", 1), ("a failure", 25), ("a bug", 1), ("a bug", 25), ("a bug", TOTAL)]
)
async def test_one_stuck_saga_holds_back_all(how: str, wrong: int, tmp_path: Path) -> None:
    """commanded#191. Of 500 in one batch some are refused, and undone, or have a bug, and are parked."""
    service = Service("batches", repositories=[TableRepository(Purchase, PURCHASES)], tables=BUYING)
    at_fault = set(Random(wrong).sample(range(TOTAL), wrong))

    @service.local
    def begin(purchase: Purchase | None, number: int) -> Purchase:
        if number in at_fault:
            raise Unwanted if how == "a failure" else RuntimeError("a bug")
        return Purchase(number, "BEGUN")

    @service.saga
    async def one(saga: Saga, new: Buy) -> None:
        await saga.local(begin, new.number, undo=None)

    async with bench(tmp_path, service, engine=config(retry=Retry(attempts_max=1))) as world:
        async with service.step() as step:
            for number in range(TOTAL):
                step.start(one, Buy(number, 1, 1), id=number)
        await settled(world)
        books = service.runtime.context.books
        found = Counter({each.value: await books.saga_count(each) for each in Status})
        ends = "UNDONE" if how == "a failure" else "PARKED"
        assert +found == +Counter({ends: wrong, "COMPLETED": TOTAL - wrong})
        assert {int(each.key.partition(":")[2]) for each in await books.sagas([Status(ends)], TOTAL)} == at_fault
        assert await world.dead_letters(service) == []
