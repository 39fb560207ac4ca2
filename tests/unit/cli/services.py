"""Services for the tests of the command line: a till that sells, a ledger that enters what was sold, and others."""

from __future__ import annotations

import os
import time
from pathlib import Path

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Command, Event, Failure, Retry, Saga, Service, Step


class Base(DeclarativeBase):
    pass


class Entry(Base):
    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]
    amount: Mapped[int]


class Sold(Event, topic="sales", key="customer"):
    customer: str
    amount: int = 0


class Entered(Event, topic="entries", key="customer"):
    customer: str
    amount: int


class Stamp(Command[None], service="clerk", key="customer"):
    customer: str


till = Service("till", publishes=[Sold])
ledger = Service("ledger", publishes=[Entered], tables=Base.metadata, retry=Retry(attempts_max=1))
shy = Service("shy")
night = Service("night", publishes=[])
clerk = Service("clerk", retry=Retry(attempts_max=1))
counter = Service("counter", publishes=[], calls=[Stamp])
hall = Service("hall", publishes=[Stamp])
traveller = Service("traveller", retry=Retry(attempts_max=1))
not_a_service = "no"


def flag(name: str) -> Path:
    """A file by which a test and a service talk."""
    return Path(os.environ["ENSUE_HOME"], name)


def block_for_ever() -> None:
    flag("is-stuck").write_text("yes")
    time.sleep(3600)


@night.every("0 3 1 1 *")
async def clean_up() -> None: ...


@ledger.on
async def enter(event: Sold, step: Step) -> None:
    if event.customer == "stuck":
        block_for_ever()  # the mistake that a stop must survive: it blocks the event loop
    if event.amount < 0 and flag("poison").exists():
        raise ValueError(f"negative amount {event.amount}")
    step.session.add(Entry(customer=event.customer, amount=event.amount))
    step.publish(Entered(customer=event.customer, amount=event.amount))


@clerk.handles
def stamp(command: Stamp) -> None:
    raise ValueError(f"no stamp for {command.customer}")


@traveller.saga
async def travel(saga: Saga, ticket: Sold) -> None:
    await saga.receive(Entered)
    if flag("no-way").exists():
        raise RuntimeError("no way")
    if ticket.amount:
        saga.pivot()
        await saga.receive(Entered)


class NoGate(Failure):
    pass


@traveller.local
def find_gate(customer: str) -> int:
    if flag("no-gate").exists():
        raise RuntimeError("no gate")
    return 1


@traveller.saga
async def board(saga: Saga, ticket: Sold) -> None:
    await saga.local(find_gate, ticket.customer, undo=None)
