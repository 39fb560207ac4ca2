"""A deploy that changes `?outbox=` while a process of the old setting lives: a real PostgreSQL, real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from servers import PostgresServer
from sqlalchemy import Column, Integer, MetaData, String, Table, insert, select
from sqlalchemy.ext.asyncio import AsyncSession
from tests.faults.switching_child import ENGINE, KEYS, PARTITIONS, Counted, counter

from ensue import Service
from ensue.adapters import make_store
from ensue.engine.books import Books
from ensue.engine.loops import RELAY

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0

_tables = MetaData()
_received = Table(
    "received",
    _tables,
    Column("id", Integer, primary_key=True),
    Column("name", String(20), nullable=False),
    Column("value", Integer, nullable=False),
)


class Process:
    def __init__(self, database: str, broker: str, log: IO[str]) -> None:
        self.log = Path(log.name)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.switching_child", database, broker],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"}, stdout=subprocess.PIPE, stderr=log,
            text=True,
        )  # fmt: skip

    async def is_ready(self) -> bool:
        """Whether it comes to work; False: it has ended before."""
        assert self._process.stdout is not None
        return await asyncio.to_thread(self._process.stdout.readline) == "ready\n"

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        self._process.send_signal(how)
        return await asyncio.to_thread(self._process.wait, LIMIT_S)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()

    @property
    def said(self) -> str:
        return self.log.read_text()


class Deploy:
    """The processes of one service, and a subscriber in this one."""

    def __init__(self, directory: Path, server: PostgresServer, database: str) -> None:
        self.url = f"{server.url(database)}?outbox="
        self.broker = f"sqlite:///{directory}/broker.db"
        self._directory = directory
        self._server = server
        self._database = database
        self._started: list[Process] = []
        self.receiver = Service(
            "receiver", publishes=[], tables=_tables, database=f"sqlite:///{directory}/receiver.db",
            broker=self.broker, partitions=PARTITIONS, engine=ENGINE,
        )  # fmt: skip

        @self.receiver.on
        async def receive(event: Counted, session: AsyncSession) -> None:
            await session.execute(insert(_received).values(name=event.name, value=event.value))

    def start(self, mode: str) -> Process:
        path = self._directory / f"{len(self._started)}.log"
        with path.open("w") as log:
            self._started.append(Process(self.url + mode, self.broker, log))
        return self._started[-1]

    async def come_in(self, mode: str) -> Process:
        """As a supervisor does: start it again until it is ready."""
        async with asyncio.timeout(LIMIT_S):
            while not await (process := self.start(mode)).is_ready():
                assert "unsent records" in process.said, process.said
        return process

    async def received(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = defaultdict(list)
        async with self.receiver.query() as session:
            for name, value in await session.execute(select(_received.c.name, _received.c.value).order_by("id")):
                found[name].append(value)
        return dict(found)

    async def counted(self) -> dict[str, list[int]]:
        """What has to be received: the values from 1 to what the row holds, of each name."""
        rows = await asyncio.to_thread(self._server.psql, self._database, "SELECT name, value FROM value")
        return {name: list(range(1, int(value) + 1)) for name, value in (row.split("|") for row in rows.split())}

    async def more_comes(self, values: int = 50) -> None:
        """Wait until so many more are received."""
        before = sum(map(len, (await self.received()).values()))
        async with asyncio.timeout(LIMIT_S):
            while sum(map(len, (await self.received()).values())) < before + values:  # noqa: ASYNC110  # other processes
                await asyncio.sleep(0.05)

    async def relayed_by(self, worker_of: Process) -> None:
        """Wait until this process has the relay's lease."""
        store = make_store(f"{self.url}{self.mode}", "counter")
        await store.open()
        try:
            async with asyncio.timeout(LIMIT_S):
                while True:
                    leases = (await Books(store, "counter").leases()).leases
                    if any(each.name == RELAY and f":{worker_of._process.pid}:" in each.owner for each in leases):
                        return
                    await asyncio.sleep(0.05)
        finally:
            await store.close()

    @property
    def mode(self) -> str:
        return self._server.psql(self._database, "SELECT outbox_mode FROM ensue_meta")

    async def all_comes_once_and_in_order(self) -> None:
        """No process counts any more; one of the stored mode sends what is left."""
        expected = await self.counted()
        assert set(expected) == set(KEYS)
        total = sum(map(len, expected.values()))
        async with counter(self.url + self.mode, self.broker).running(), asyncio.timeout(LIMIT_S):
            while sum(map(len, (found := await self.received()).values())) < total:  # noqa: ASYNC110  # other processes
                await asyncio.sleep(0.05)
        assert found == expected

    def close(self) -> None:
        for each in self._started:
            each.close()


@pytest.fixture
def deploy(postgres_server: PostgresServer, tmp_path: Path) -> Iterator[Deploy]:
    database = f"switch_{uuid.uuid4().hex[:12]}"
    made = Deploy(tmp_path, postgres_server, database)
    yield made
    made.close()
    postgres_server.drop(database)


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize(("old", "new"), [("poll", "wal"), ("wal", "poll")])
async def test_a_process_of_the_new_setting_takes_the_relay_over_while_the_old_one_goes_on_publishing(
    deploy: Deploy, old: str, new: str
) -> None:
    async with deploy.receiver.running():
        first = deploy.start(old)
        assert await first.is_ready(), first.said
        await deploy.more_comes()
        second = await deploy.come_in(new)
        assert deploy.mode == new
        await deploy.relayed_by(second)
        await deploy.more_comes()  # of both
        assert await first.end() == 0
        await deploy.more_comes()
        third = await deploy.come_in(new)
        await second.end(signal.SIGKILL)
        await deploy.relayed_by(third)
        await deploy.more_comes()
        assert await third.end() == 0
        await deploy.all_comes_once_and_in_order()


@pytest.mark.slow
async def test_a_process_with_a_setting_that_is_gone_refuses_and_the_old_one_goes_on(deploy: Deploy) -> None:
    async with deploy.receiver.running():
        first = deploy.start("poll")
        assert await first.is_ready(), first.said
        second = deploy.start("messages")
        assert not await second.is_ready()
        assert "there is no outbox='messages'" in second.said
        await deploy.more_comes()
        assert await first.end() == 0
        await deploy.all_comes_once_and_in_order()
