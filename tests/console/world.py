"""What the console's tests look at: a bank whose letters die of two causes, a desk with sagas, a view, and one that
never ran."""

from __future__ import annotations

import os
from pathlib import Path

from ensue import Event, Retry, Saga, Service, View


class Wired(Event, topic="wires", key="account", type_name="WiredToBank"):
    account: str
    pence: int
    note: str = ""


class Asked(Event, topic="desk", key="who"):
    who: str


bank = Service("bank", publishes=[Wired], retry=Retry(attempts_max=1))
desk = Service("desk", publishes=[Asked], retry=Retry(attempts_max=1))
absent = Service("absent", publishes=[])


def repaired() -> bool:
    return (Path(os.environ["ENSUE_HOME"]) / "repaired").exists()


def repair() -> None:
    (Path(os.environ["ENSUE_HOME"]) / "repaired").touch()


@bank.on
async def credit(event: Wired) -> None:
    if not repaired() and event.pence < 0:
        raise ValueError(f"{event.pence} pence: {event.note}")
    if event.account == "nobody":
        raise KeyError(event.account)


@desk.local
def call(who: str) -> int:
    if not repaired():
        raise RuntimeError(f"{who} does not answer")
    return 1


@desk.saga
async def answer(saga: Saga, asked: Asked) -> None:
    await saga.local(call, asked.who, undo=None)


#: Of one view, as two deployments have it.
totals, new_totals = View("totals", version=1), View("totals", version=2)


@totals.on
@new_totals.on
async def add(event: Wired) -> None: ...
