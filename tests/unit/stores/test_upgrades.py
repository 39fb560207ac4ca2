"""Processes of two schemas of Ensue's own tables on one database, on every store; and those that may not be there."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import pytest
from sqlalchemy import Column, MetaData, String, Table
from tests.unit.engine.schemas import NOTES, SCHEMAS
from tests.unit.engine.workbench import Sender, config
from tests.unit.stores.conftest import MakeStore

from ensue import Event, Service, Step, TableRepository
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.books import Books
from ensue.engine.lookup import records_between
from ensue.engine.runtime import Runtime
from ensue.engine.schema import Numbers, Schema
from ensue.errors import StoreOutdated
from ensue.message import Message
from ensue.ports import Store
from ensue.tables import LEASES

ENGINE = config(lease_ttl_s=0.5)
PARTITIONS = 4
ACCOUNTS = 7
LIMIT_S = 30.0
_names = count(1)


class Paid(Event, topic="upgrade-payments", key="account"):
    account: str
    number: int


class Booked(Event, topic="upgrade-bookings", key="account"):
    account: str
    number: int


@dataclasses.dataclass
class Account:
    account: str
    applied: str


_tables = MetaData()
_accounts = Table(
    "account", _tables, Column("account", String(64), primary_key=True), Column("applied", String(4000), nullable=False)
)


class Ledger:
    """The processes of one service on one database, and who pays into it. make_store: of that database."""

    def __init__(self, make_store: MakeStore) -> None:
        self._make_store = make_store
        self._running: list[Runtime] = []
        self._log = f"memory:upgrades-{next(_names)}"
        self._kept: Store | None = None
        self._sent = 0
        self._changed = asyncio.Event()
        self.broker = MemoryBroker(self._log)
        self.sender = Sender(self.broker, partitions=PARTITIONS)

    def store(self) -> Store:
        """One for each process; where there can be but one process, always the same."""
        if self._kept is not None:
            return self._kept
        store = self._make_store("ledger")
        if not store.capabilities.survives_restart:
            self._kept = store
        return store

    def runtime(self, schema: Schema) -> Runtime:
        store = self.store()
        publishes = [Booked] if store.capabilities.publishes else []
        service = Service("ledger", publishes=publishes, repositories=[TableRepository(Account, _accounts)])

        @service.on
        def book(account: Account | None, event: Paid, step: Step) -> Account:
            if publishes:
                step.publish(Booked(account=event.account, number=event.number))
            if account is None:
                return Account(event.account, f"{event.number}")
            account.applied += f",{event.number}"
            return account

        settings = Settings(database="", broker="", partitions=PARTITIONS, engine=ENGINE)
        return Runtime(
            service, store, MemoryBroker(self._log), settings, schema=schema, progress=self._changed.set,
            tables=_tables if store.capabilities.sessions else None,
        )  # fmt: skip

    async def start(self, number: int, *, work: bool = True) -> Runtime:
        """A process whose Ensue has this schema."""
        runtime = self.runtime(SCHEMAS[number])
        await runtime.start(work=work)
        self._running.append(runtime)
        if runtime.worker is not None:
            endings = [asyncio.create_task(runtime.ready()), asyncio.create_task(runtime.worker.wait_failed())]
            async with asyncio.timeout(LIMIT_S):
                await asyncio.wait(endings, return_when=asyncio.FIRST_COMPLETED)
            for each in endings:
                each.cancel()
            if runtime.worker.failed is not None:
                raise runtime.worker.failed
        return runtime

    async def stop(self, *runtimes: Runtime) -> None:
        for each in runtimes or tuple(self._running):
            self._running.remove(each)
            await each.stop()

    async def pay(self, times: int = 40) -> None:
        numbers = range(self._sent, self._sent + times)
        self._sent += times
        await self.sender.send(*[Paid(account=f"account-{each % ACCOUNTS}", number=each) for each in numbers])

    async def check(self, runtime: Runtime) -> None:
        """Wait until all that was paid took effect: each payment once, in order, and each booking is in the log."""
        expected: dict[str, list[int]] = defaultdict(list)
        for number in range(self._sent):
            expected[f"account-{number % ACCOUNTS}"].append(number)
        await self.until(runtime, expected)
        if not runtime.store.capabilities.publishes:
            return
        async with asyncio.timeout(LIMIT_S):
            while len(found := await self._booked()) < self._sent:
                self._changed.clear()
                if len(found := await self._booked()) < self._sent:
                    await self._changed.wait()
        assert sorted(found) == list(range(self._sent))

    async def until(self, runtime: Runtime, expected: dict[str, list[int]]) -> None:
        found: dict[str, list[int]] = {}
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    self._changed.clear()
                    rows = await runtime.rows().get(REPOSITORY.table, sorted(expected))
                    found = {row[0]: [int(each) for each in row[1].split(",")] for row in rows}
                    if sum(map(len, found.values())) >= self._sent:
                        break
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"expected {expected}, found {found}") from None
        assert found == expected

    async def _booked(self) -> list[int]:
        """Numbers of all bookings, each record of the log once however often it was sent."""
        found: dict[tuple[int, int], int] = {}
        for partition in range(PARTITIONS):
            first, last = await self.broker.bounds("upgrade-bookings", partition)
            for record in await records_between(self.broker, "upgrade-bookings", partition, first - 1, last):
                assert isinstance(record, Message)
                if record.type.endswith("Booked.v1"):
                    found[partition, record.position] = json.loads(record.data)["number"]
        return list(found.values())

    async def both_work(self, *runtimes: Runtime) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not all(each.worker and each.worker.loops.consumers for each in runtimes):  # noqa: ASYNC110  # untold
                await asyncio.sleep(0.01)

    async def numbers(self) -> tuple[int, int]:
        async with self.opened() as store:
            found = await Books(store, "ledger").numbers()
        return found.schema, found.readable_by

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        store = self.store()
        await store.open()
        yield store
        if store is not self._kept:
            await store.close()


REPOSITORY = TableRepository(Account, _accounts)


@pytest.fixture
async def ledger(make_any_store: MakeStore) -> AsyncIterator[Ledger]:
    made = Ledger(make_any_store)
    await made.broker.open()
    yield made
    await made.stop()
    await made.broker.close()


def outdated(runtime: Runtime) -> StoreOutdated:
    assert runtime.worker is not None
    assert isinstance(runtime.worker.failed, StoreOutdated)
    return runtime.worker.failed


async def test_processes_of_two_schemas_share_the_work_and_no_event_is_lost_or_done_twice(ledger: Ledger) -> None:
    old = await ledger.start(1)
    await ledger.pay()
    several = old.store.capabilities.several_processes
    if not several:
        await ledger.stop(old)
    new = await ledger.start(2)
    assert await ledger.numbers() == (2, 1)
    async with ledger.opened() as store:
        assert len(await store.rows().get(NOTES, ["first"])) == 1
    if several:
        await ledger.pay()
        await ledger.both_work(old, new)
        await ledger.pay()
        await ledger.check(old)
        assert await old.readiness() == await new.readiness() == []
        await ledger.stop(old)
    await ledger.pay()
    await ledger.check(new)
    await ledger.stop(new)  # the deploy is taken back
    old = await ledger.start(1)
    await ledger.pay()
    await ledger.check(old)
    assert await ledger.numbers() == (2, 1)


async def test_processes_that_start_at_once_upgrade_once(ledger: Ledger) -> None:
    await ledger.stop(await ledger.start(1))
    many = 4 if ledger.store().capabilities.several_processes else 1
    started = await asyncio.gather(
        *(ledger.start(2 + each % 2) for each in range(many, 2 * many)), return_exceptions=True
    )
    failed = [each for each in started if isinstance(each, BaseException)]
    assert all(isinstance(each, StoreOutdated) for each in failed)  # the third schema shuts the second one out
    runtimes = [each for each in started if isinstance(each, Runtime)]
    if many > 1:
        assert await ledger.numbers() == (3, 3)
    async with ledger.opened() as store:
        assert len(await store.rows().get(NOTES, ["first"])) == 1
    await ledger.pay()
    await ledger.check(runtimes[-1])


async def test_a_running_process_that_is_too_old_stops_taking_part_and_says_why(ledger: Ledger) -> None:
    old = await ledger.start(2)
    if not old.store.capabilities.several_processes:
        pytest.skip("one process has this store")
    web = await ledger.start(2, work=False)
    await ledger.pay()
    new = await ledger.start(3)
    assert await ledger.numbers() == (3, 3)
    # Nobody works beside the new one: it has begun after the others had stopped.
    assert new.worker is not None
    text = (
        "service ledger: Ensue's tables in its database are of schema 2, for processes of schema 3 or later "
        "(written by Ensue 0.1.0); this process has schema 2: start it with Ensue 0.1.0 or later"
    )
    assert str(outdated(old)) == text
    assert old.worker is not None
    assert old.worker.loops.names == ()
    assert text in " ".join(await old.readiness())
    assert text in await web.readiness()
    for each in (old, web):
        with pytest.raises(StoreOutdated, match="schema 3 or later"):
            async with each.step():
                raise AssertionError("a step was begun")
    await ledger.pay()
    await ledger.check(new)
    await ledger.stop(old)
    assert (await new.context.books.leases()).workers == (new.worker.name,)


async def test_who_is_too_old_or_too_new_is_refused_and_changes_nothing(ledger: Ledger) -> None:
    await ledger.stop(await ledger.start(1))
    later = Schema((), oldest=3, through="0.2.0")
    with pytest.raises(StoreOutdated, match=r"of schema 1, and this process, of schema 3, upgrades none older than 3: "
                       r"start the service once with Ensue 0\.2\.0, then with this one"):  # fmt: skip
        await ledger.runtime(later).start()
    assert await ledger.numbers() == (1, 1)
    await ledger.stop(await ledger.start(3))
    with pytest.raises(StoreOutdated, match="for processes of schema 3 or later") as refused:
        await ledger.runtime(SCHEMAS[2]).start()
    assert (refused.value.found, refused.value.expected) == (3, 2)
    assert await ledger.numbers() == (3, 3)


async def test_what_goes_back_under_a_running_process_is_upgraded_again(ledger: Ledger) -> None:
    """As a database does that is put back from a copy, or a server that forgets."""
    running = await ledger.start(2)
    async with running.store.transaction() as transaction:
        await transaction.delete_rows(NOTES, ["first"])
        await transaction.delete_rows(LEASES, ["schema"])
    assert await running.context.books.numbers() == Numbers()
    await ledger.pay()
    async with asyncio.timeout(LIMIT_S):
        while (await running.context.books.numbers()).schema < 2:  # noqa: ASYNC110  # a heartbeat tells nobody
            await asyncio.sleep(0.01)
    assert len(await running.rows().get(NOTES, ["first"])) == 1
    await ledger.check(running)
