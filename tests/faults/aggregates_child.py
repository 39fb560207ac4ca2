"""Accounts that are event-sourced, in a process of their own that dies where it is told to, or races with another."""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path

from tests.faults.ring import QUICK
from tests.unit.aggregate.accounts import Account, AccountOpened, Deposited, PaymentAsked, make_accounts

from ensue import AggregateExists, RetryableError, Service
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime
from ensue.testing import World

PAYMENTS = 60
NAMES = ("a", "b", "c")

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.aggregates_child"])


def start(url: str, directory: Path, what: str, number: int) -> BaseProcess:
    """what: `race`, or the point and the pass at which it dies before, or nothing. number: of racing steps."""
    process = _children.Process(target=_run, args=(url, directory, what, number))
    process.start()
    return process


def ended(process: BaseProcess, timeout_s: float = 90.0) -> int:
    """Its exit code."""
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {timeout_s} s")
    return process.exitcode


def _run(url: str, directory: Path, what: str, number: int) -> None:
    asyncio.run(_race(url, directory, number) if what == "race" else _work(url, directory, what))


def runtime_of(service: Service, url: str, directory: Path, fault: str = "", world: World | None = None) -> Runtime:
    return Runtime(
        service, make_store(url, service.name), EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
        Settings(database="", broker="", partitions=2, engine=QUICK), faults=Faults(fault),
        progress=world.progressed if world is not None else lambda: None,
    )  # fmt: skip


async def _race(url: str, directory: Path, number: int) -> None:
    """Each step adds one to the same account, which both processes try to open first."""
    accounts = make_accounts()
    async with accounts.running(runtime_of(accounts, url, directory), work=False):
        done = 0
        while done < number:
            try:
                async with accounts.step() as step:
                    account = await step.load(Account, "a")
                    if account is None:
                        account = Account("a")
                        step.record(account, AccountOpened(account_id="a", owner="who came first"))
                    step.record(account, Deposited(account_id="a", amount=1))
            except (RetryableError, AggregateExists):
                continue  # the whole step again
            done += 1


async def _work(url: str, directory: Path, fault: str) -> None:
    accounts, asking = make_accounts(), Service("asking")
    world = World(EmbeddedBroker(f"sqlite:///{directory}/broker.db"))
    await world.broker.open()
    world.runtimes = {
        "asking": runtime_of(asking, f"sqlite:///{directory}/asking.db", directory, "", world),
        "accounts": runtime_of(accounts, url, directory, fault, world),
    }
    async with asking.running(world.runtimes["asking"]):
        if not await asking.runtime.store.outbox_heads():
            async with asking.step() as step:  # all or none of them, however often this is killed
                for each in range(PAYMENTS):
                    step.publish(PaymentAsked(account_id=NAMES[each % 3], amount=each + 1 if each % 4 else -each - 1))
        async with accounts.running(world.runtimes["accounts"]):
            await accounts.runtime.ready()
            await world.settle(60)
    await world.broker.close()
