"""A service with sagas and one that answers, in a process of their own that dies where it is told to.

Every third saga is refused and undone, every fifth one's first step fails at first, and every undo command once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
from collections.abc import Awaitable, Callable
from datetime import timedelta
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from tests.faults.ring import QUICK

from ensue import Command, Failure, Saga, Service, TableRepository
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.saga.instance import ENDED
from ensue.tables import SAGAS

REFUSED_EVERY, FAILS_EVERY, ACCOUNTS = 3, 5, 4
#: More often than a batch of ten can be split, so that it is a letter in any case, and goes on as one.
FAILS = 7
PATIENT = dataclasses.replace(QUICK, retry=dataclasses.replace(QUICK.retry, attempts_max=20))
STARTING, ANSWERING = MetaData(), MetaData()
STARTED = Table("started", STARTING, Column("number", Integer, primary_key=True))
TRIP = Table("trip", STARTING, Column("number", Integer, primary_key=True), Column("done", String(200), nullable=False))
ACCOUNT = Table(
    "account", ANSWERING, Column("account", String(50), primary_key=True), Column("done", String(2000), nullable=False)
)


@dataclasses.dataclass(frozen=True)
class Travel:
    number: int


class Book(Command[None], service="teller", key="account"):
    account: str
    number: int


class Pay(Command[None], service="teller", key="account"):
    account: str
    number: int


class Unbook(Command[None], service="teller", key="account"):
    account: str
    number: int


class TripRefused(Failure):
    number: int


@dataclasses.dataclass
class Trip:
    """`done` says what has happened, in order."""

    number: int
    done: str


@dataclasses.dataclass
class Account:
    account: str
    done: str


_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.sagas_child"])


def begin(url: str, directory: Path, total: int, fault: str = "", *, starts: bool = True) -> ForkServerProcess:
    """A process that starts sagas until there are `total`, and ends when all have ended. url: of their database.
    fault: `service:point:n`, where it dies before. starts: False: another process starts them."""
    process = _children.Process(target=_run, args=(url, directory, total, fault, starts))
    process.start()
    return process


def ended(process: ForkServerProcess, timeout_s: float = 90.0) -> int:
    """Its exit code."""
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {timeout_s} s")
    return process.exitcode


def _run(url: str, directory: Path, total: int, fault: str, starts: bool) -> None:
    asyncio.run(_live(url, directory, total, fault, starts))


def _fails(directory: Path, what: str, times: int) -> bool:
    """Beside the database, because a failed attempt leaves nothing in it."""
    with open(directory / what, "a+b") as attempts:
        if attempts.tell() < times:
            attempts.write(b".")
            return True
    return False


def _travel(directory: Path) -> tuple[Service, Callable[[Saga, Travel], Awaitable[None]]]:
    travel = Service("travel", tables=STARTING, repositories=[TableRepository(Trip, TRIP)], calls=[Book, Pay, Unbook])

    @travel.local
    def pack(trip: Trip | None, number: int) -> Trip:
        if number % FAILS_EVERY == 0 and _fails(directory, f"pack-{number}", FAILS):
            raise RuntimeError(f"{number} fails at first")
        return _noted(trip, number, "packed")

    @travel.local
    def unpack(trip: Trip, number: int) -> None:
        _noted(trip, number, "unpacked")

    @travel.local
    def leave(trip: Trip, number: int) -> None:
        _noted(trip, number, "left")

    @travel.saga(deadline=timedelta(hours=1))
    async def go(saga: Saga, wish: Travel) -> None:
        number, account = wish.number, f"account-{wish.number % ACCOUNTS}"
        await saga.local(pack, number, undo=unpack)
        await saga.call(Book(account=account, number=number), undo=Unbook(account=account, number=number))
        await saga.sleep(timedelta(milliseconds=10))
        await saga.call(Pay(account=account, number=number), undo=None, limit=timedelta(hours=1))
        saga.pivot()
        await saga.local(leave, number)

    return travel, go


def _noted(trip: Trip | None, number: int, what: str) -> Trip:
    trip = trip or Trip(number, "")
    trip.done += f"{what} "
    return trip


def _teller(directory: Path) -> Service:
    teller = Service("teller", tables=ANSWERING, repositories=[TableRepository(Account, ACCOUNT)])

    @teller.handles
    def book(account: Account | None, command: Book) -> Account:
        account = account or Account(command.account, "")
        account.done += f"book-{command.number} "
        return account

    @teller.handles
    def unbook(account: Account, command: Unbook) -> None:
        if _fails(directory, f"unbook-{command.number}", 1):
            raise TripRefused(number=command.number)
        account.done += f"unbook-{command.number} "

    @teller.handles
    def pay(account: Account, command: Pay) -> None:
        account.done += f"pay-{command.number} "
        if command.number % REFUSED_EVERY == 0:
            raise TripRefused(number=command.number)

    return teller


async def _live(url: str, directory: Path, total: int, fault: str, starts: bool) -> None:
    (travel, go), teller = _travel(directory), _teller(directory)
    victim, _, point = fault.partition(":")
    progress = asyncio.Event()

    def runtime(service: Service, database: str) -> Runtime:
        return Runtime(
            service, make_store(database, service.name), EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
            Settings(database="", broker="", partitions=2, engine=PATIENT), tables=service.tables,
            progress=progress.set, faults=Faults(point if service.name == victim else ""),
        )  # fmt: skip

    starting = runtime(travel, url)
    async with (
        travel.running(starting),
        teller.running(runtime(teller, f"sqlite:///{directory}/teller.db")),
    ):
        while starts:
            async with travel.step() as step:
                number = (await step.session.scalar(select(func.max(STARTED.c.number))) or 0) + 1
                if number > total:
                    break
                step.start(go, Travel(number), id=number)
                await step.session.execute(insert(STARTED).values(number=number))
        reader, lookup = starting.store.rows(), SAGAS.lookups[0]
        while True:
            progress.clear()
            if sum([await reader.count(SAGAS, lookup, [status.value]) for status in ENDED]) >= total:
                return
            await progress.wait()
