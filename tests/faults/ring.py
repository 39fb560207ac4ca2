"""Three services in a ring, made so that every promise can be read off their tables afterwards.

alpha places numbers for accounts (a plain step with a session); beta applies each to its account (an entity step on a
dataclass) and says so; gamma sees everything (a plain handler with a session), and a little later reminds alpha of what
beta has done; alpha settles that (a plain `def` in a thread). Whoever applies a message writes it down, with nothing
unique that could hide a second time.
"""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from random import Random

from sqlalchemy import Column, Integer, MetaData, String, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from ensue.app import Service
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import EngineConfig, Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.event import Event
from ensue.message import Message
from ensue.ports import Broker
from ensue.repository import TableRepository
from ensue.retry import Retry
from ensue.step import Step
from ensue.stores.sqlite import SqliteStore

PARTITIONS = 2
ACCOUNTS = 5
#: Every so-manieth number is odd: beta fails on it three times before it can apply it, so also when it is alone, after
#: it has failed among those of all partitions and among those of its own.
ODD_EVERY = 11
ODD_FAILURES = 3
REMIND_AFTER = timedelta(milliseconds=30)
SERVICES = ("alpha", "beta", "gamma")

#: Everything happens soon, so that a test of recovery does not wait for it.
QUICK = EngineConfig(
    batch_records_max=10,
    poll_interval_s=0.2,
    tick_first_s=0.05,
    tick_max_s=0.2,
    resend_interval_s=0.1,
    lease_ttl_s=1.0,
    relay_save_interval_s=0.02,
    retention_interval_s=0.05,
    retry=Retry(first_delay_s=0.01, factor=1.0, delay_max_s=0.01),
)


class Placed(Event, topic="alpha", key="account"):
    account: str
    number: int


class Odd(Event, topic="alpha", key="account"):
    account: str
    number: int


class Done(Event, topic="beta", key="account"):
    account: str
    number: int


class Reminded(Event, topic="gamma", key="account"):
    account: str
    number: int


@dataclasses.dataclass
class Account:
    """`applied` lists the numbers in the order in which they took effect."""

    account: str
    applied: str


_alpha_tables = MetaData()
_placed = Table(
    "placed",
    _alpha_tables,
    Column("number", Integer, primary_key=True),
    Column("account", String, nullable=False),
    Column("message_id", String, nullable=False),
)
_settled = Table(
    "settled",
    _alpha_tables,
    Column("id", Integer, primary_key=True),
    Column("account", String, nullable=False),
    Column("number", Integer, nullable=False),
)
_reminded = Table(
    "reminded", _alpha_tables, Column("id", Integer, primary_key=True), Column("number", Integer, nullable=False)
)
_beta_tables = MetaData()
_accounts = Table(
    "account", _beta_tables, Column("account", String, primary_key=True), Column("applied", String, nullable=False)
)
_gamma_tables = MetaData()
_seen = Table(
    "seen",
    _gamma_tables,
    Column("id", Integer, primary_key=True),
    Column("topic", String, nullable=False),
    Column("account", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("message_id", String, nullable=False),
)


class Ring:
    """The services over the files of one directory. fault: `service:point:n`, and that service dies there."""

    def __init__(self, directory: Path, fault: str = "", engine: EngineConfig = QUICK) -> None:
        self.directory = directory
        self.alpha = Service("alpha", tables=_alpha_tables)
        self.beta = Service("beta", tables=_beta_tables, repositories=[TableRepository(Account, _accounts)])
        self.gamma = Service("gamma", tables=_gamma_tables)
        self._declare()
        self._victim, _, self._point = fault.partition(":")
        self._engine = engine

    def _declare(self) -> None:
        directory = self.directory

        def applied(account: Account | None, event: Placed | Odd, step: Step) -> Account:
            step.publish(Done(account=event.account, number=event.number))
            if account is None:
                return Account(event.account, f"{event.number}")
            account.applied += f",{event.number}"
            return account

        @self.beta.on
        def apply(account: Account | None, event: Placed, step: Step) -> Account:
            return applied(account, event, step)

        @self.beta.on
        def apply_odd(account: Account | None, event: Odd, step: Step) -> Account:
            # Beside the database, because a failed attempt leaves nothing in it.
            with open(directory / f"attempts-{event.number}", "a+b") as attempts:
                if attempts.tell() < ODD_FAILURES:
                    attempts.write(b".")
                    raise RuntimeError(f"{event.number} is odd")
            return applied(account, event, step)

        async def see(event: Placed | Odd | Done, message: Message, session: AsyncSession) -> None:
            await session.execute(
                insert(_seen).values(
                    topic=message.topic, account=event.account, number=event.number, message_id=message.id
                )
            )

        @self.gamma.on
        async def see_placed(event: Placed, message: Message, session: AsyncSession) -> None:
            await see(event, message, session)

        @self.gamma.on
        async def see_odd(event: Odd, message: Message, session: AsyncSession) -> None:
            await see(event, message, session)

        @self.gamma.on
        async def see_done(event: Done, message: Message, session: AsyncSession, step: Step) -> None:
            await see(event, message, session)
            # Each is cancelled, and published once more.
            step.cancel(step.publish(Reminded(account=event.account, number=event.number), after=REMIND_AFTER))
            step.publish(Reminded(account=event.account, number=event.number), after=REMIND_AFTER)

        @self.alpha.on
        async def remind(event: Reminded, session: AsyncSession) -> None:
            await session.execute(insert(_reminded).values(number=event.number))

        @self.alpha.on
        def settle(event: Done, session: Session) -> None:
            session.execute(insert(_settled).values(account=event.account, number=event.number))

    def service(self, name: str) -> Service:
        return {"alpha": self.alpha, "beta": self.beta, "gamma": self.gamma}[name]

    def broker(self) -> EmbeddedBroker:
        return EmbeddedBroker(f"sqlite:///{self.directory}/broker.db")

    def runtime(self, name: str, broker: Broker | None = None, **options: object) -> Runtime:
        service = self.service(name)
        settings = Settings(database="", broker="", partitions=PARTITIONS, engine=self._engine)
        store = SqliteStore(f"sqlite:///{self.directory}/{name}.db?synchronous=NORMAL", name)
        return Runtime(
            service,
            store,
            broker or self.broker(),
            settings,
            random=Random(name),
            tables=service.tables,
            faults=Faults(self._point if name == self._victim else ""),
            **options,  # type: ignore[arg-type]  # of Runtime
        )

    async def place_next(self) -> int:
        """One step at alpha, with the next number; returns it."""
        async with self.alpha.step() as step:
            number = ((await step.session.scalar(select(func.max(_placed.c.number)))) or 0) + 1
            account = f"account-{number % ACCOUNTS}"
            event = (Odd if number % ODD_EVERY == 0 else Placed)(account=account, number=number)
            message_id = step.publish(event)
            await step.session.execute(insert(_placed).values(number=number, account=account, message_id=message_id))
        return number

    async def placed(self) -> int:
        return await self._count(_placed)

    async def settled(self) -> int:
        return await self._count(_settled)

    async def _count(self, table: Table) -> int:
        async with self.alpha.query() as session:
            return (await session.scalar(select(func.count()).select_from(table))) or 0
