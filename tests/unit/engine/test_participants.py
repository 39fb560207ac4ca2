"""A participant that is a saga: a command starts it, and its end is the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.unit.engine.workbench import LIMIT_S, Sender, bench, letters, settled, store_of

from ensue import Command, EffectKey, Event, Failure, ReplyTimeout, Saga, SagaCancelled, Service, Step, UsageError
from ensue.adapters import make_store
from ensue.saga.instance import Instance
from ensue.tables import SAGAS
from ensue.testing import World, given, saga


class Authorised(Event, topic="participants.authorised", key="card"):
    card: str
    by: str


class Approve(Command[Authorised], service="payments", key="card"):
    card: str
    amount: int = 1


class Forget(Command[None], service="payments", key="card"):
    card: str


class CardDeclined(Failure):
    card: str


@dataclass(frozen=True)
class Order:
    card: str


class Payments:
    def __init__(self) -> None:
        self.broken: set[str] = set()
        self.voided: list[str] = []
        self.service = payments = Service("payments")

        @payments.outside
        async def charge(card: str, key: EffectKey) -> str:
            if card in self.broken:
                raise RuntimeError("no answer")
            return f"charged {card}"

        @payments.outside
        async def void(card: str) -> None:
            self.voided.append(card)

        @payments.saga(handles=Approve)
        async def authorise(saga: Saga, command: Approve) -> Authorised:
            said: str = await saga.outside(charge, command.card, undo=void, attempts=1)
            if command.amount > 100:
                raise CardDeclined(card=command.card)
            saga.pivot()
            return Authorised(card=command.card, by=said)

        @payments.saga(handles=Forget)
        async def forget(saga: Saga, command: Forget) -> None: ...

        self.authorise = authorise


class Orders:
    """It calls as a saga, and from outside."""

    def __init__(self) -> None:
        self.service = orders = Service("orders", calls=[Approve, Forget])

        @orders.saga
        async def place(saga: Saga, new: Order) -> str:
            found = await saga.call(Approve(card=new.card), undo=Forget(card=new.card))
            return found.by

        self.place = place


@asynccontextmanager
async def running(tmp_path: Path, url: str = "") -> AsyncIterator[tuple[World, Payments, Orders]]:
    payments, orders = Payments(), Orders()
    store = make_store(url, "payments") if url else store_of(tmp_path, "payments")
    async with (
        asyncio.timeout(LIMIT_S * 3),
        bench(tmp_path, payments.service, orders.service, stores={"payments": store}) as world,
    ):
        yield world, payments, orders


async def participants(world: World) -> list[Instance]:
    store = world.runtimes["payments"].store
    found = [
        await world.runtimes["payments"].context.books.saga(row[0])
        for status in ("RUNNING", "PARKED", "COMPLETED", "UNDONE")
        for row in await store.rows().find(SAGAS, SAGAS.lookups[0], (status,), limit=99)
    ]
    return [each for each in found if each is not None]


async def test_its_end_is_the_answer_to_a_call_and_to_a_saga(sql_database: str, tmp_path: Path) -> None:
    async with running(tmp_path, sql_database) as (world, payments, orders):
        called = await orders.service.call(Approve(card="c-1"), timeout=LIMIT_S)
        assert called == Authorised(card="c-1", by="charged c-1")
        await orders.service.call(Forget(card="c-1"), timeout=LIMIT_S)
        with pytest.raises(CardDeclined) as refused:
            await orders.service.call(Approve(card="c-2", amount=101), timeout=LIMIT_S)
        assert refused.value.card == "c-2"
        assert payments.voided == ["c-2"]
        async with orders.service.step() as step:
            step.start(orders.place, Order("c-3"), id=1)
        end = await orders.service.ended(orders.place, 1, timeout=LIMIT_S)
        assert (end.status, end.result) == ("COMPLETED", "charged c-3")
        await settled(world)
        assert await letters(world, payments.service) == []
        assert world.runtimes["orders"].context.dispatcher.sagas.dropped == 0, "answers of calls are no saga's"


async def test_each_command_has_a_saga_of_its_own_and_one_that_asks_for_no_answer_gets_none(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, _, orders):
        async with orders.service.step() as step:
            ids = {step.send(Approve(card="c-1")), step.send(Approve(card="c-1"))}
        await settled(world)
        found = await participants(world)
        assert {each.key for each in found} == {f"authorise:{each}" for each in ids}
        assert [each.status.value for each in found] == ["COMPLETED", "COMPLETED"]
        assert await world.messages("orders.replies") == []


async def test_while_it_is_parked_who_asked_waits_and_then_goes_on(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, payments, orders):
        payments.broken.add("c-1")
        async with orders.service.step() as step:
            step.start(orders.place, Order("c-1"), id=1)
        await settled(world)
        [parked] = await participants(world)
        assert parked.status == "PARKED"
        with pytest.raises(ReplyTimeout, match="waits for call payments"):
            await orders.service.ended(orders.place, 1, timeout=0)
        payments.broken.clear()
        async with payments.service.step() as step:
            step.retry_saga(payments.authorise, parked.key.partition(":")[2])
        end = await orders.service.ended(orders.place, 1, timeout=LIMIT_S)
        assert (end.status, end.result) == ("COMPLETED", "charged c-1")


async def test_cancelled_by_a_person_it_answers_with_that(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, payments, orders):
        payments.broken.add("c-1")
        async with orders.service.step() as step:
            step.start(orders.place, Order("c-1"), id=1)
        await settled(world)
        [parked] = await participants(world)
        async with payments.service.step() as step:
            step.cancel_saga(payments.authorise, parked.key.partition(":")[2])
        end = await orders.service.ended(orders.place, 1, timeout=LIMIT_S)
        assert isinstance(end.failure, SagaCancelled)


async def test_in_tests_of_their_own_it_is_a_saga_and_its_command_starts_it() -> None:
    payments = Payments()
    run = saga(payments.authorise, Approve(card="c-1"))
    assert run.waits_for == "outside charge"
    result = await given(payments.service).when(Approve(card="c-1"))
    assert (result.published, result.answers, result.error) == ([], [], None)


def test_the_highest_version_handles_the_command() -> None:
    payments = Service("payments")

    @payments.saga(handles=Forget, version=2, name="forget")
    async def newer(saga: Saga, command: Forget) -> None: ...

    @payments.saga(handles=Forget, name="forget")
    async def older(saga: Saga, command: Forget) -> None: ...

    [handler] = payments.handlers["payments.commands.Forget.v1"]
    assert handler.starts == newer.__ensue_saga__.begins  # type: ignore[attr-defined]


def test_declarations_that_cannot_work_are_refused() -> None:
    payments, orders = Service("payments"), Service("orders")

    async def takes(saga: Saga, command: Approve) -> Authorised:
        raise NotImplementedError

    async def other(saga: Saga, command: Forget) -> None: ...

    async def wrong(saga: Saga, command: Approve) -> int:
        raise NotImplementedError

    async def fails(saga: Saga, command: Approve) -> CardDeclined:
        raise NotImplementedError

    def declared(service: Service, function: Any, handles: Any) -> Any:
        return service.saga(handles=handles)(function)

    for service, function, handles, said in (
        (payments, takes, Forget, "handles Forget and begins with Approve: take the command"),
        (payments, takes, None, r"write saga\(handles=Approve\)"),
        (payments, wrong, Approve, "is annotated to return int, expected Authorised"),
        (payments, fails, Approve, "is annotated to return CardDeclined, expected Authorised"),
        (payments, takes, Authorised, "expected the class of a command"),
        (payments, takes, 7, "handles=7, expected the class of a command"),
        (orders, takes, Approve, "a command for service payments"),
    ):
        with pytest.raises(UsageError, match=said):
            declared(service, function, handles)
    declared(payments, other, Forget)
    with pytest.raises(UsageError, match=r"two handlers of payments\.commands\.Forget\.v1, other and twice"):
        payments.saga(handles=Forget, name="twice")(other)

    with pytest.raises(UsageError, match=r"two handlers of payments\.commands\.Forget\.v1, other and handler"):

        @payments.handles
        def handler(command: Forget, step: Step) -> None: ...


@pytest.mark.parametrize(("answer", "said"), [(7, "returned a int, expected a Authorised"), (CardDeclined, "raise it")])
def test_what_it_returns_that_is_no_reply_parks_it(answer: Any, said: str) -> None:
    payments = Service("payments")

    @payments.saga(handles=Approve)
    async def returns(saga: Saga, command: Approve):  # type: ignore[no-untyped-def]  # as users write it
        return answer if answer == 7 else answer(card="c-1")

    saga(returns, Approve(card="c-1")).expect_parked(said)


async def test_strangers_may_use_one_id_each_and_ids_of_any_text(tmp_path: Path) -> None:
    async with running(tmp_path) as (world, _, _):
        strange = "1 \u00e4 " + "x" * 200
        for source, card in (("https://a", "c-1"), ("https://b", "c-2")):
            sender = Sender(world.broker, source)
            await sender.append(sender.foreign(Approve(card=card), strange))
        await settled(world)
        found = await participants(world)
        assert sorted(bytes(each.request) for each in found) == [
            b'{"card":"c-1","amount":1}', b'{"card":"c-2","amount":1}',
        ]  # fmt: skip
        assert [each.status.value for each in found] == ["COMPLETED", "COMPLETED"]
