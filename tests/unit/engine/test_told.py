"""What sagas are told: too early, too much, by somebody else. It holds back nothing else of the saga."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.test_sagas import BROKEN, Paid, Place, Reserved, Shop, make_customers, running
from tests.unit.engine.workbench import LIMIT_S, QUICK, letters, settled, until_letters

from ensue import Retry, Saga, SagaCancelled, SagaEnd, TimeLimitExceeded, UsageError
from ensue.message import TOLD, DeadLetterState
from ensue.saga.code import declared_code
from ensue.saga.instance import MAILBOX_MAX
from ensue.testing import World, run, saga

#: Nothing is tried again because time passes.
PATIENT = dataclasses.replace(QUICK, retry=Retry(attempts_max=3, first_delay_s=3600, delay_max_s=3600))


@pytest.fixture
def shop() -> Shop:
    return Shop()


async def tell(shop: Shop, order: str, *amounts: int, saga: Any = None) -> None:
    for each in amounts:
        async with shop.service.step() as step:
            step.tell(saga or shop.place, order, Paid(order=order, amount=each))


async def test_what_is_told_before_its_saga_begins_is_told_then_and_in_order(
    sql_database: str, tmp_path: Path, shop: Shop
) -> None:
    @shop.service.saga
    async def collect(saga: Saga, new: Place) -> list[int]:
        return [(await saga.receive(Paid)).amount for _ in range(3)]

    async with running(sql_database, tmp_path, shop, make_customers(), engine=PATIENT) as world:
        await tell(shop, "o-1", 1, 2, 3, saga=collect)
        await tell(shop, "o-2", 1)
        await until_letters(world, shop.service, 2, DeadLetterState.RETRYING)
        await until_letters(world, shop.service, 2, DeadLetterState.WAITING)
        async with shop.service.step() as step:
            step.start(collect, Place("o-1"), id="o-1")
        end: SagaEnd[list[int]] = await shop.service.ended(collect, "o-1", timeout=LIMIT_S)
        assert end.result == [1, 2, 3]
        [left] = await letters(world, shop.service)
        assert (left.key, left.error_type, left.attempts) == ("place:o-2", "SagaMissing", 1)
        assert "saga place o-2 is told saga.paid.Paid.v1, and does not exist" in left.error


async def dead(world: World, shop: Shop, order: str) -> None:
    """It has been told something before it begins, and that was given up."""
    await tell(shop, order, 1)
    await until_letters(world, shop.service, 1, DeadLetterState.DEAD)


async def test_what_was_told_to_nobody_is_a_dead_letter_that_holds_back_no_start(
    sql_database: str, tmp_path: Path, shop: Shop
) -> None:
    async with running(sql_database, tmp_path, shop, make_customers()) as world:
        await dead(world, shop, "o-1")
        [letter] = await letters(world, shop.service)
        assert (letter.key, letter.attempts) == ("place:o-1", QUICK.retry.attempts_max + 8)
        await shop.start(Place("o-1", how="pays"))
        await settled(world)
        assert (await shop.saga("o-1")).waits_for == "receive saga.paid.Paid.v1"
        await tell(shop, "o-1", 2)  # behind the first one, so that their order stays
        await until_letters(world, shop.service, 1, DeadLetterState.WAITING)
        await world.retry(shop.service, letter)
        assert (await shop.end("o-1")).status == "COMPLETED"
        assert await letters(world, shop.service) == []


async def its_time_is_over(world: World, shop: Shop) -> None:
    await world.advance(minutes=30)
    assert isinstance((await shop.end("o-1")).failure, TimeLimitExceeded)


async def is_cancelled(world: World, shop: Shop) -> None:
    async with shop.service.step() as step:
        step.cancel_saga(shop.place, "o-1")
    assert isinstance((await shop.end("o-1")).failure, SagaCancelled)


@pytest.mark.parametrize("then", [its_time_is_over, is_cancelled])
async def test_what_a_saga_has_no_room_for_holds_back_no_timer_and_no_order(
    shop: Shop, then: Callable[[World, Shop], Awaitable[None]]
) -> None:
    async with asyncio.timeout(LIMIT_S * 2), run(shop.service, make_customers(), engine=None) as world:
        await shop.start(Place("o-1", how="pays"))
        await world.settle()
        async with shop.service.step() as step:
            for number in range(MAILBOX_MAX + 1):
                step.tell(shop.place, "o-1", Reserved(name="never", left=number))
        await world.settle()
        [letter] = await world.dead_letters(shop.service)
        assert "has 1000 events that it has not received" in letter.error
        assert len((await shop.saga("o-1")).mailbox) == MAILBOX_MAX
        await then(world, shop)


async def test_what_is_told_to_one_that_has_ended_is_dropped_and_counted_once(tmp_path: Path, shop: Shop) -> None:
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, make_customers()) as world:
        await shop.start(Place("o-1"))
        await shop.end("o-1")
        await tell(shop, "o-1", 1)
        async with shop.service.step() as step:
            step.cancel_saga(shop.place, "none")  # an order to one that is not there does nothing
        await settled(world)
        assert world.runtimes["orders"].context.dispatcher.sagas.dropped == 2
        assert await letters(world, shop.service) == []


async def test_who_is_another_service_tells_by_a_command(tmp_path: Path, shop: Shop) -> None:
    customers = make_customers()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, customers) as world:
        await shop.start(Place("o-1", how="pays"))
        await settled(world)
        async with customers.step() as step:
            with pytest.raises(UsageError, match="send orders a command, whose handler does it"):
                step.tell(shop.place, "o-1", Paid(order="o-1", amount=1))
            key, data = declared_code(shop.place).tells(Paid(order="o-1", amount=1), "o-1")
            step.emit("orders.replies", TOLD, key, len(key), data)
        await until_letters(world, shop.service, 1, DeadLetterState.DEAD)
        [letter] = await letters(world, shop.service)
        assert "expected one of orders itself" in letter.error
        await tell(shop, "o-1", 1)
        assert (await shop.end("o-1")).status == "COMPLETED"


async def test_what_is_dropped_or_parked_is_said_once_however_often_it_is_done_again(
    tmp_path: Path, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    @shop.service.saga
    async def awaits_nothing(saga: Saga, new: Place) -> None:
        raise RuntimeError("a bug")

    BROKEN.clear()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, make_customers()) as world:
        await shop.start(Place("o-1"))
        await shop.end("o-1")
        await settled(world)
        BROKEN.add("o-2")
        async with shop.service.step() as step:
            step.tell(shop.place, "o-1", Paid(order="o-1", amount=1))  # of no use
            step.start(shop.place, Place("o-2"), id="o-2")  # fails, so that the first is rolled back, and done anew
            step.start(awaits_nothing, Place("o-3"), id="o-3")
        await settled(world)
        assert (await shop.saga("o-2")).status == "PARKED"
        assert world.runtimes["orders"].context.dispatcher.sagas.dropped == 1
        said = [each.getMessage() for each in caplog.records if "is parked" in each.getMessage()]
        assert [each.split(" is parked")[0] for each in said] == [
            "orders: saga awaits_nothing:o-3", "orders: saga place:o-2",
        ]  # fmt: skip


def test_an_event_that_is_waited_for_needs_no_room(shop: Shop) -> None:
    placed = saga(shop.place, Place("o-1", how="pays"))
    placed.expect_local(next(each for each in shop.service.locals if each.__name__ == "create")).gives(None)
    for number in range(MAILBOX_MAX):
        placed.tell(Reserved(name="never", left=number))
    with pytest.raises(UsageError, match="has 1000 events that it has not received"):
        placed.tell(Reserved(name="never", left=0))
    assert placed.waits_for == "receive saga.paid.Paid.v1"
    placed.tell(Paid(order="o-1", amount=1))
    assert placed.waits_for.startswith("call")
