"""Streams under racing writers in two processes, and with their process killed between any two lines."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.faults.aggregates_child import NAMES, PAYMENTS, ended, runtime_of, start
from tests.unit.aggregate.accounts import Account, AccountOpened, Deposited, Withdrawn, make_accounts

from ensue.aggregate.history import Happened
from ensue.brokers.embedded import EmbeddedBroker
from ensue.engine.lookup import records_between
from ensue.message import TICK, Message

#: In which pass of each point the process dies.
DEATHS = {
    "consumer.begun": (1, 2),
    "consumer.handled": (1, 2),
    "consumer.outbox_written": (1, 2),
    "consumer.checkpoint_written": (1, 2),
    "consumer.committed": (1, 2),
    "relay.appended": (1,),
}
STEPS = 60


async def _found(url: str, directory: Path) -> tuple[dict[str, list[Happened]], dict[str, Any]]:
    accounts = make_accounts()
    async with accounts.running(runtime_of(accounts, url, directory), work=False):
        streams = {name: await accounts.history(Account, name) for name in NAMES}
        async with accounts.step() as step:
            states = {name: await step.load(Account, name) for name in NAMES}
    return streams, states


async def _in_the_log(directory: Path) -> list[str]:
    """Message ids of the accounts' events, each once, in the order in which they are there."""
    broker = EmbeddedBroker(f"sqlite:///{directory}/broker.db")
    await broker.open()
    try:
        found: dict[str, None] = {}
        for number in range(await broker.partitions("eventsourced.accounts")):
            last = (await broker.bounds("eventsourced.accounts", number)).last
            for each in await records_between(broker, "eventsourced.accounts", number, 0, last):
                if isinstance(each, Message) and each.type != TICK:
                    found[each.id] = None
        return list(found)
    finally:
        await broker.close()


def balance(happened: list[Happened]) -> int:
    signs = {Deposited: 1, Withdrawn: -1}
    return sum(signs.get(type(each.event), 0) * getattr(each.event, "amount", 0) for each in happened)


@pytest.mark.slow
def test_racing_writers_in_two_processes_lose_nothing(sql_database: str, tmp_path: Path) -> None:
    racers = [start(sql_database, tmp_path, "race", STEPS) for _ in range(2)]
    assert [ended(each) for each in racers] == [0, 0]
    streams, states = asyncio.run(_found(sql_database, tmp_path))
    happened = streams["a"]
    assert [each.version for each in happened] == list(range(1, 2 * STEPS + 2))
    assert [type(each.event) for each in happened] == [AccountOpened] + [Deposited] * 2 * STEPS
    assert (states["a"].balance, states["a"].version) == (2 * STEPS, 2 * STEPS + 1)
    assert len({each.message_id for each in happened}) == len(happened)


def check(url: str, directory: Path) -> None:
    """Each payment has taken effect once, and the log has what the streams have."""
    streams, states = asyncio.run(_found(url, directory))
    for name, happened in streams.items():
        assert [each.version for each in happened] == list(range(1, PAYMENTS // 3 + 2))
        assert states[name].balance == balance(happened)
    logged = asyncio.run(_in_the_log(directory))
    for happened in streams.values():
        own = {each.message_id for each in happened}
        assert [each for each in logged if each in own] == [each.message_id for each in happened]
    assert len(logged) == PAYMENTS + len(NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}:{time}" for point, times in DEATHS.items() for time in times])
def test_killed_at_any_point_stream_and_log_are_the_same(where: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/accounts.db"
    assert ended(start(url, tmp_path, where, 0)) == -signal.SIGKILL, f"{where} was not passed"
    assert ended(start(url, tmp_path, "", 0)) == 0
    check(url, tmp_path)


@pytest.mark.slow
def test_killed_where_stream_and_outbox_are_written(sql_database: str, tmp_path: Path) -> None:
    for where in ("consumer.handled:1", "consumer.outbox_written:1", "consumer.committed:1"):
        assert ended(start(sql_database, tmp_path, where, 0)) == -signal.SIGKILL, f"{where} was not passed"
    assert ended(start(sql_database, tmp_path, "", 0)) == 0
    check(sql_database, tmp_path)
