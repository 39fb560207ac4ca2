"""Event-sourced aggregates on the SQL stores: what their rows hold, who is refused, what a damaged row does."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import text
from tests.unit.aggregate.accounts import (
    Account,
    AccountOpened,
    Deposited,
    PaymentAsked,
    Withdrawn,
    make_accounts,
)
from tests.unit.stores.conftest import MakeStore

import ensue.testing
from ensue import Aggregate, AggregateExists, Event, Service, Step, UsageError, VersionMismatch, evolves
from ensue.engine.fits import check_fits
from ensue.engine.retention import prune_once
from ensue.errors import RowConflict, StreamBroken
from ensue.ports import Capabilities
from ensue.stores.memory import MemoryStore
from ensue.tables import AGGREGATES, STREAMS

FIVE = Deposited(account_id="a", amount=5)


@asynccontextmanager
async def running(service: Service, make_store: MakeStore | None) -> AsyncIterator[ensue.testing.World]:
    async with ensue.testing.run(service, make_store=make_store) as world:
        yield world


def beside(make_store: MakeStore | None) -> MakeStore | None:
    """The accounts' database; who asks has one of its own."""
    if make_store is None:
        return None
    return lambda service: make_store(service) if service == "accounts" else MemoryStore(service)


async def head(service: Service, key: str = "account:a") -> tuple[int, int, str, bytes]:
    [row] = await service.runtime.rows().get(AGGREGATES, [key])
    return row[2], row[3], row[4], bytes(row[5])


async def tamper(service: Service, **values: Any) -> None:
    """Write columns of the head by hand."""
    async with service.runtime.store.transaction() as transaction:
        [row] = await transaction.load_rows(AGGREGATES, ["account:a"])
        changed = dict(zip(AGGREGATES.columns, row, strict=True)) | values
        await transaction.update_rows(AGGREGATES, [tuple(changed.values())])


async def open_account(service: Service, name: str = "a", *more: Any) -> None:
    async with service.step() as step:
        step.record(Account(name), AccountOpened(account_id=name, owner="Ada"), *more)


async def change(service: Service, *events: Any) -> None:
    async with service.step() as step:
        step.record(await step.load(Account, "a", expected="*"), *events)


async def test_from_messages_to_stream_state_and_log(make_store: MakeStore | None) -> None:
    accounts, asking = make_accounts(), Service("asking")
    async with ensue.testing.run(accounts, asking, make_store=beside(make_store)) as world:
        async with asking.step() as step:
            for amount in (5, 3, -7, -2):
                step.publish(PaymentAsked(account_id="a", amount=amount))
        await world.settle(30)
        happened = await accounts.history(Account, "a")
        assert [each.version for each in happened] == [1, 2, 3, 4, 5]
        assert [type(each.event).__name__ for each in happened] == [
            "AccountOpened", "Deposited", "Deposited", "Withdrawn", "WithdrawalRefused",
        ]  # fmt: skip
        assert await accounts.history(Account, "a", after=4) == happened[4:]
        assert await accounts.history(Account, "nobody") == []
        published = [message.envelope.id for message in await world.messages("eventsourced.accounts")]
        assert published == [each.message_id for each in happened]
        async with accounts.step() as step:
            found = await step.load(Account, "a")
            assert found == Account("a", owner="somebody", balance=1, refusals=["1 left"])
            assert found is not None
            assert found.version == 5
            assert await step.load(Account, "a") is found
            assert await step.load(Account, "b") is None
        assert await accounts.current(Account, "a") == found
        assert await accounts.current(Account, "b") is None
        assert [row[2] for row in await accounts.runtime.rows().get(AGGREGATES, ["account:a"])] == [5]


async def test_a_step_that_does_not_commit_leaves_neither_stream_nor_event(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store) as world:

        async def fail() -> None:
            async with accounts.step() as step:
                step.record(Account("a"), AccountOpened(account_id="a", owner="Ada"))
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        await world.settle()
        assert await accounts.history(Account, "a") == []
        assert await world.messages("eventsourced.accounts") == []


async def test_all_of_a_kind_page_by_page(make_store: MakeStore | None) -> None:
    accounts = Service("accounts", aggregates=[Account, Meter])
    async with running(accounts, make_store):
        async with accounts.step() as step:
            for name in ("c", "a", "b"):
                step.record(Account(name), AccountOpened(account_id=name, owner=name.upper()))
                step.record(Meter(name), Deposited(account_id=name, amount=1))
        first = await accounts.page(Account, limit=2)
        assert [(each.account_id, each.owner, each.version) for each in first] == [("a", "A", 1), ("b", "B", 1)]
        assert [each.account_id for each in await accounts.page(Account, after="b", limit=2)] == ["c"]
        assert [each.total for each in await accounts.page(Meter)] == [1, 1, 1]


async def test_who_makes_one_that_is_there_is_told(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts)
        with pytest.raises(AggregateExists, match="Account a is made anew, and has 1 events already"):
            await open_account(accounts)
        assert len(await accounts.history(Account, "a")) == 1


async def test_the_version_that_a_client_has_seen(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts, "a", FIVE)
        for seen in (2, '"2"', 'W/"2"', '"1", "2"', "*"):
            async with accounts.step() as step:
                assert (await step.load(Account, "a", expected=seen)).version == 2
        for stale in (1, 3, '"1"', '"two"', ""):
            with pytest.raises(VersionMismatch, match="and is at 2") as raised:
                async with accounts.step() as step:
                    await step.load(Account, "a", expected=stale)
            assert (raised.value.found, raised.value.entity_id) == (2, "a")
        with pytest.raises(VersionMismatch, match="does not exist"):
            async with accounts.step() as step:
                await step.load(Account, "b", expected="*")


async def test_a_copy_that_the_step_does_not_have_records_nothing(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts)
        async with accounts.step() as step:
            old = await step.load(Account, "a")
        assert old is not None
        with pytest.raises(UsageError, match="a copy of it that this step does not have"):
            async with accounts.step() as step:
                step.record(old, FIVE)
        with pytest.raises(UsageError, match="is recorded of Account 'a'"):
            await change(accounts, Deposited(account_id="b", amount=1))
        with pytest.raises(UsageError, match="has no @evolves for it"):
            async with accounts.step() as step:
                step.record(Account("c"), PaymentAsked(account_id="c", amount=1))


async def test_what_a_rolled_back_savepoint_took_out_is_noticed(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts)

        async def recorded_in_vain(step: Step, found: Account) -> None:
            async with step.session.begin_nested():
                await step.session.execute(text("SELECT 1"))
                step.record(found, FIVE)
                raise ZeroDivisionError

        async def go_on() -> None:
            async with accounts.step() as step:
                found = await step.load(Account, "a", expected="*")
                with suppress(ZeroDivisionError):
                    await recorded_in_vain(step, found)
                step.record(found, FIVE)

        with pytest.raises(UsageError, match="savepoint was rolled back"):
            await go_on()
        assert len(await accounts.history(Account, "a")) == 1


class Meter(Aggregate, stream="meter", snapshot_every=3):
    account_id: str
    total: int = 0
    folds: int = 0

    @evolves
    def _(self, event: Deposited) -> None:
        self.total += event.amount


class BiggerMeter(Aggregate, stream="meter", snapshot_every=3):
    """The same stream, with a field more: as after a deployment."""

    account_id: str
    total: int = 0
    largest: int = 0

    @evolves
    def _(self, event: Deposited) -> None:
        self.total += event.amount
        self.largest = max(self.largest, event.amount)


class CorrectedMeter(Aggregate, stream="meter", snapshot_every=3, shape=2):
    """The same fields, another meaning: only the number tells."""

    account_id: str
    total: int = 0
    folds: int = 0

    @evolves
    def _(self, event: Deposited) -> None:
        self.total += event.amount * 100


async def test_snapshots_every_third_event_and_of_an_old_shape(make_store: MakeStore | None) -> None:
    first = Service("meters", aggregates=[Meter])
    # One store for all services: the same database, as after a deployment.
    async with running(first, make_store):
        for number in range(1, 8):
            async with first.step() as step:
                meter = await step.load(Meter, "a") or Meter("a")
                assert (meter.total, meter.version) == (number - 1, number - 1)
                step.record(meter, Deposited(account_id="a", amount=1))
            version, snapshot_version, shape, snapshot = await head(first, "meter:a")
            assert (version, snapshot_version) == (number, number - number % 3)
            assert bool(snapshot) is bool(shape) is (number >= 3)
        store = first.runtime.store
        for cls, expected in (
            (BiggerMeter, BiggerMeter("a", total=7, largest=1)),
            (CorrectedMeter, CorrectedMeter("a", total=700)),
            (Meter, Meter("a", total=7)),
        ):
            repository: Any = Service("meters", aggregates=[cls]).repositories[cls]
            async with store.transaction() as transaction:
                assert (await repository.load(transaction, ["a"]))["a"] == expected


async def test_a_snapshot_whose_version_is_off_by_one_is_not_believed(make_store: MakeStore | None) -> None:
    """Ahead of the stream it says nothing that the stream does; behind it what is missing is folded."""
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts, "a", FIVE)
        version, snapshot_version, _, _ = await head(accounts)
        assert version == snapshot_version == 2
        await tamper(accounts, snapshot_version=3)
        async with accounts.step() as step:
            found = await step.load(Account, "a")
            assert found == Account("a", owner="Ada", balance=5)
            assert found is not None
            assert found.version == 2
            step.record(found, FIVE)
        assert (await head(accounts))[:2] == (3, 3)
        await tamper(accounts, snapshot=b"no JSON")
        async with accounts.step() as step:
            assert await step.load(Account, "a") == Account("a", owner="Ada", balance=10)


async def test_a_stream_that_has_lost_an_event_says_which(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts, "a", FIVE, FIVE)
        await tamper(accounts, snapshot_version=0)
        async with accounts.runtime.store.transaction() as transaction:
            await transaction.delete_rows(STREAMS, ["account:a:0000000002"])
        with pytest.raises(StreamBroken, match=r"Account a has 3 events, and the database lacks 1 of them \(2\)"):
            async with accounts.step() as step:
                await step.load(Account, "a")


async def test_who_writes_beside_the_lock_meets_the_index(make_store: MakeStore | None) -> None:
    """The net below: a head that went back (a hand, a restore of one table) lets nobody write an event twice."""
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts, "a", FIVE)
        await tamper(accounts, version=1, snapshot_version=0)
        with pytest.raises(RowConflict, match="ensue_stream"):
            await change(accounts, Withdrawn(account_id="a", amount=1))
        assert [type(each.event) for each in await accounts.history(Account, "a")] == [AccountOpened, Deposited]


async def test_racing_steps_of_one_process(make_store: MakeStore | None) -> None:
    accounts = make_accounts()
    async with running(accounts, make_store):
        await open_account(accounts)

        async def deposit() -> None:
            async with accounts.step() as step:
                found = await step.load(Account, "a", expected="*")
                await asyncio.sleep(0)
                step.record(found, Deposited(account_id="a", amount=1))

        await asyncio.gather(*[deposit() for _ in range(20)])
        async with accounts.step() as step:
            found = await step.load(Account, "a")
            assert found is not None
            assert (found.balance, found.version) == (20, 21)


async def test_what_carries_a_stream_is_not_pruned(make_store: MakeStore | None) -> None:
    accounts, asking = make_accounts(), Service("asking")
    async with ensue.testing.run(accounts, asking, make_store=beside(make_store)) as world:
        async with asking.step() as step:
            step.publish(PaymentAsked(account_id="a", amount=5))
        await world.settle(30)
        for service in (accounts, asking):
            context = service.runtime.context
            config = dataclasses.replace(context.config, retention_s=0.001)
            await prune_once(dataclasses.replace(context, config=config), await context.store.now() + 3600)
        assert len(await world.messages("eventsourced.accounts")) == 2
        assert await world.messages("eventsourced.payments") == []
        assert len(await accounts.history(Account, "a")) == 2


def test_stores_that_cannot_keep_a_stream_refuse() -> None:
    for capabilities in (Capabilities(transactions=False), Capabilities(publishes=False)):
        with pytest.raises(UsageError, match=r"event-sourced aggregates \(Account\), and its database cannot append"):
            check_fits(Service("kept", aggregates=[Account]), capabilities)


async def test_an_aggregate_that_nobody_declared_is_named() -> None:
    other = Service("undeclared")
    async with ensue.testing.run(other):
        with pytest.raises(UsageError, match=r"write Service\('undeclared', aggregates=\[Account\]\)"):
            await open_account(other)


class Moved(Event, topic="eventsourced.moves", key="account_id"):
    account_id: str
    to: str
    amount: int


async def test_one_step_decides_by_two_aggregates_and_appends_to_both(make_store: MakeStore | None) -> None:
    accounts = make_accounts()

    @accounts.on
    async def move(event: Moved, step: Step) -> None:
        names = sorted([event.account_id, event.to])
        found = {name: await step.load(Account, name) for name in names}
        giver, taker = found[event.account_id], found[event.to]
        if giver is not None and taker is not None and giver.balance >= event.amount:
            step.record(giver, giver.pay(-event.amount))
            step.record(taker, taker.pay(event.amount))

    async with running(accounts, make_store) as world:
        await open_account(accounts, "a", FIVE)
        await open_account(accounts, "b")
        async with accounts.step() as step:
            for amount in (2, 2, 2):
                step.publish(Moved(account_id="a", to="b", amount=amount))
        await world.settle(30)
        async with accounts.step() as step:
            one, other = await step.load(Account, "a"), await step.load(Account, "b")
            assert one is not None
            assert other is not None
            assert (one.balance, other.balance) == (1, 4)
