"""A service with a recurring step, in a process of its own that dies where it is told to."""

from __future__ import annotations

import asyncio
import multiprocessing
from datetime import timedelta
from multiprocessing.process import BaseProcess
from pathlib import Path

from sqlalchemy import Column, Float, Integer, MetaData, Table, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from tests.faults.ring import QUICK

from ensue import Run, Service, Step
from ensue.adapters import make_store
from ensue.brokers.embedded import EmbeddedBroker
from ensue.config import Settings
from ensue.engine.faults import Faults
from ensue.engine.runtime import Runtime

TICK_S = 0.03
TABLES = MetaData()
RAN = Table("ran", TABLES, Column("id", Integer, primary_key=True), Column("due", Float(53), nullable=False))
#: A run whose number can be divided by this one fails at first.
FAILS_EVERY = 5

_children = multiprocessing.get_context("forkserver")
_children.set_forkserver_preload(["tests.faults.recurring_child"])


def start(url: str, directory: Path, runs: int, fault: str = "") -> BaseProcess:
    """runs: so many in all, then the process ends. fault: the point, and the pass, at which it dies before."""
    process = _children.Process(target=_run, args=(url, directory, runs, fault))
    process.start()
    return process


def run(url: str, directory: Path, runs: int, fault: str = "", timeout_s: float = 60.0) -> int:
    """Run it to its end, and return its exit code."""
    process = start(url, directory, runs, fault)
    process.join(timeout_s)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise AssertionError(f"the child did not end within {timeout_s} s")
    return process.exitcode


def _run(url: str, directory: Path, runs: int, fault: str) -> None:
    asyncio.run(_live(url, directory, runs, fault))


async def _live(url: str, directory: Path, runs: int, fault: str) -> None:
    service = Service("clock", tables=TABLES)
    failed = set()

    @service.every(timedelta(seconds=TICK_S), missed="all")
    async def beat(run: Run, session: AsyncSession, step: Step) -> None:
        count = await session.scalar(select(func.count()).select_from(RAN)) or 0
        await session.execute(insert(RAN).values(due=run.due.timestamp()))
        if count % FAILS_EVERY == FAILS_EVERY - 1 and run.due not in failed:
            failed.add(run.due)
            raise RuntimeError("at first")

    progress = asyncio.Event()
    runtime = Runtime(
        service, make_store(url, "clock"), EmbeddedBroker(f"sqlite:///{directory}/broker.db"),
        Settings(database="", broker="", partitions=2, engine=QUICK), tables=TABLES, progress=progress.set,
        faults=Faults(fault),
    )  # fmt: skip
    async with service.running(runtime):
        while True:
            progress.clear()
            async with service.query() as session:
                if (await session.scalar(select(func.count()).select_from(RAN)) or 0) >= runs:
                    return
            await progress.wait()
