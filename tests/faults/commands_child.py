"""A service that asks and one that answers, in a process of their own that dies where it is told to.

Every third command is refused, by a Failure that is raised; every fifth one fails at first.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
from pathlib import Path

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from tests.faults.ring import QUICK

from ensue import Command, Event, Failure, Service, TableRepository
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.tables import REPLIES

REFUSED_EVERY, FAILS_EVERY, ACCOUNTS = 3, 5, 4
ASKING, ANSWERING = MetaData(), MetaData()
ASKED = Table(
    "asked", ASKING, Column("number", Integer, primary_key=True), Column("command", String(191), nullable=False)
)
ACCOUNT = Table(
    "account", ANSWERING, Column("account", String(50), primary_key=True), Column("done", String(500), nullable=False)
)


class Taken(Event, topic="faults.taken", key="account"):
    account: str
    number: int


class Take(Command[Taken], service="teller", key="account"):
    account: str
    number: int


class Refused(Failure):
    number: int


@dataclasses.dataclass
class Account:
    """`done` lists the numbers of the commands that took effect."""

    account: str
    done: str


_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.commands_child"])


def run(url: str, directory: Path, total: int, fault: str = "", timeout_s: float = 60.0) -> int:
    """Ask until there are `total` commands and all are answered, and return the exit code. url: of the teller's
    database. fault: `service:point:n`, where it dies before."""
    process = _children.Process(target=_run, args=(url, directory, total, fault))
    process.start()
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {timeout_s} s")
    return process.exitcode


def _run(url: str, directory: Path, total: int, fault: str) -> None:
    asyncio.run(_live(url, directory, total, fault))


def _teller(directory: Path) -> Service:
    teller = Service("teller", tables=ANSWERING, repositories=[TableRepository(Account, ACCOUNT)])

    @teller.handles
    def take(account: Account | None, command: Take) -> tuple[Account, Taken]:
        number = command.number
        if number % FAILS_EVERY == 0:
            # Beside the database, because a failed attempt leaves nothing in it. Thrice, so also when it is alone.
            with open(directory / f"attempts-{number}", "a+b") as attempts:
                if attempts.tell() < 3:
                    attempts.write(b".")
                    raise RuntimeError(f"{number} fails at first")
        account = account or Account(command.account, "")
        account.done += f"{number},"
        if number % REFUSED_EVERY == 0:
            raise Refused(number=number)
        return account, Taken(account=account.account, number=number)

    return teller


async def _live(url: str, directory: Path, total: int, fault: str) -> None:
    asker, teller = Service("asker", calls=[Take], tables=ASKING), _teller(directory)
    victim, _, point = fault.partition(":")
    progress = asyncio.Event()

    def runtime(service: Service, database: str) -> Runtime:
        return Runtime(
            service, make_store(database, service.name), EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
            Settings(database="", broker="", partitions=2, engine=QUICK), tables=service.tables,
            progress=progress.set, faults=Faults(point if service.name == victim else ""),
        )  # fmt: skip

    asking = runtime(asker, f"sqlite:///{directory}/asker.db")
    [lookup] = REPLIES.lookups
    async with asker.running(asking), teller.running(runtime(teller, url)):
        while True:
            async with asker.step() as step:
                number = (await step.session.scalar(select(func.max(ASKED.c.number))) or 0) + 1
                if number > total:
                    break
                command = Take(account=f"account-{number % ACCOUNTS}", number=number)
                command_id = step.ask(command, reply_to="asker.replies")
                await step.session.execute(insert(ASKED).values(number=number, command=command_id))
        while True:
            progress.clear()
            if await asking.store.rows().count(REPLIES, lookup, ()) >= total:
                return
            await progress.wait()
