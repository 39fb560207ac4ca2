"""A process killed between any two writes of a step on MongoDB, or of its relay's side: effects once, in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest
from servers import MongoDbServer
from sqlalchemy import Column, Integer, MetaData, String, Table
from tests.faults.documents import (
    Account,
    Deposited,
    Seen,
    Transferred,
    make_accounts,
    make_ledger,
    make_observer,
    runtime,
)

from ensue.engine.runtime import Runtime
from ensue.rows import Rows
from ensue.stores.mongodb import MongoDbStore
from ensue.stores.sqlite import SqliteStore

LIMIT_S = 120.0
#: (where it dies, whether deposits of 13 fail, so that there are dead letters)
KILLS = [
    ("entities:1", False), ("entities:2", False), ("entities:5", True), ("checkpoint:2", False), ("checkpoint:5", True),
    ("moved:1", True), ("moved:2", True), ("moved:3", True), ("settled:1", True), ("rows:3", False),
    ("stamped:1", False), ("inserted:1", False), ("taken:1", False), ("taken:2", True),
    ("cleared:1", False), ("entities:3", False),
]  # fmt: skip
metadata = MetaData()
Table(
    "seen",
    metadata,
    Column("account", String, primary_key=True),
    *(Column(name, Integer) for name in ("number", "balance", "wrong")),
)


@pytest.mark.parametrize("seed", [2])
async def test_a_kill_between_any_two_writes_changes_nothing(
    seed: int, tmp_path: Path, mongodb_server: MongoDbServer
) -> None:
    random = Random(seed)
    broker, url = f"sqlite:///{tmp_path}/log.db", mongodb_server.url(f"kills{uuid4().hex[:8]}")
    expected: dict[str, Account] = {}
    ledger_service, observer_service = make_ledger(), make_observer()
    ledger = runtime(ledger_service, SqliteStore(f"sqlite:///{tmp_path}/ledger.db", "ledger"), broker)
    seen_store = SqliteStore(f"sqlite:///{tmp_path}/observer.db", "observer")
    observer = runtime(observer_service, seen_store, broker)
    async with AsyncExitStack() as stack:
        await seen_store.open()
        await seen_store.create_tables(metadata)
        for each in (ledger, observer):
            stack.push_async_callback(each.stop)
            await each.start()
        kills = KILLS[:]
        random.shuffle(kills)
        for fault, fails in kills:
            await _move(ledger, expected, random, 12)
            await _run_until_killed(url, broker, fault, fails, ledger, expected, random)
        store = MongoDbStore(url, "accounts")
        definition = make_accounts()
        accounts = runtime(definition, store, broker)
        stack.push_async_callback(accounts.stop)
        await accounts.start()
        books = accounts.context.books
        await _move(ledger, expected, random, 5)

        async def state() -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int, int]]]:
            rows = await Rows(store.rows(), definition.repositories).find(Account, limit=100)
            seen = await Rows(seen_store.rows(), observer_service.repositories).get_many(Seen, list(expected))
            return (
                {each.account: (each.balance, each.changes) for each in rows},
                {name: (each.balance, each.number, each.wrong) for name, each in seen.items()},
            )

        right = (
            {each.account: (each.balance, each.changes) for each in expected.values()},
            {each.account: (each.balance, each.changes, 0) for each in expected.values()},
        )
        found = await state()
        try:
            async with asyncio.timeout(LIMIT_S):
                while (found := await state()) != right:  # noqa: ASYNC110  # views have no event for it
                    await asyncio.sleep(0.05)
        except TimeoutError:
            letters = [(each.key, each.state, each.attempts, each.error[:200]) for each in await books.letters()]
            pytest.fail(f"seed {seed}, {kills}: found {found}, expected {right}; letters {letters}")
        assert await books.letters() == []


async def _move(ledger: Runtime, expected: dict[str, Account], random: Random, count: int) -> None:
    def change(name: str, amount: int) -> None:
        account = expected.setdefault(name, Account(name))
        account.balance += amount
        account.changes += 1

    async with ledger.step() as step:
        for number in range(count):
            first, second = random.sample("abcdef", 2)
            amount = 13 if number == 3 else random.randrange(1, 12)
            if number % 3:
                step.publish(Transferred(source=first, target=second, amount=amount))
                change(first, -amount)
                change(second, amount)
            else:
                step.publish(Deposited(account=first, amount=amount))
                change(first, amount)


async def _run_until_killed(
    url: str, broker: str, fault: str, fails: bool, ledger: Runtime, expected: dict[str, Account], random: Random
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("FAIL", None)
    if fails:
        environment["FAIL"] = "1"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.faults.documents", url, broker, fault, env=environment,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with asyncio.timeout(LIMIT_S):
            while True:
                try:
                    async with asyncio.timeout(1.0):
                        await child.wait()
                    break
                except TimeoutError:
                    await _move(ledger, expected, random, 6)  # until the point is passed often enough
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    assert child.returncode == -signal.SIGKILL, f"{fault}: the process ended with {child.returncode}"
