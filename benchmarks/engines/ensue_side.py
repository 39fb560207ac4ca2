"""Ensue's side: a real service, Runtime and Worker in one process, over the adapters that the URLs choose."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from benchmarks import ensue_side
from benchmarks.engines.accounts import metadata
from benchmarks.engines.pairs import Servers
from benchmarks.rounds import Sample, Stopwatch
from benchmarks.workload import IN, OUT, Account, BalanceChanged, TransferMade, account_rows, accounts, balance_changed
from ensue import Service, Step, TableRepository
from ensue.adapters import make_broker, make_store
from ensue.config import EngineConfig, Settings
from ensue.engine.runtime import Runtime
from ensue.engine.worker import Worker

_ENOUGH_S = 600.0


def make_service() -> Service:
    """One entity changed and one event published for each event; the entity is a plain dataclass."""
    service = Service(
        "bench",
        publishes=[BalanceChanged],
        repositories=[TableRepository(Account, accounts)],
        tables=metadata,
    )

    @service.on
    def add(account: Account, event: TransferMade, step: Step) -> None:
        account.add(event.amount)
        step.publish(balance_changed(account, event))

    return service


class EnsueSide:
    """A backlog in a log that is new in each round, worked off by the service on a fresh database.

    New, since a relay that starts looks for its own records at the end of the log: among those of earlier rounds it
    would look for long.
    """

    def __init__(
        self,
        servers: Servers,
        events: Sequence[TransferMade],
        make_service: Callable[[], Service],
        *,
        partitions: int,
        batch: int,
    ) -> None:
        self._servers = servers
        self._events = events
        self._make_service = make_service
        self._partitions = partitions
        self._batch = batch
        self._broker_url = ""

    async def _fill(self) -> None:
        broker = make_broker(self._broker_url)
        await broker.open()
        try:
            await broker.ensure_topic(IN, self._partitions)
            await broker.ensure_topic(OUT, self._partitions)
            await ensue_side.append_events(broker, self._events, partitions=self._partitions)
        finally:
            await broker.close()

    def run(self) -> Sample:
        with self._servers.database() as url:
            self._broker_url = f"{self._servers.log_url}?prefix={url.rpartition('/')[2]}-"
            asyncio.run(self._fill())
            sample = asyncio.run(self._drain(url))
            check(self._servers, url, self._events, "ensue_outbox")
        return sample

    async def _drain(self, url: str) -> Sample:
        count = len(self._events)
        finished = asyncio.Event()
        worker: Worker | None = None

        def progress() -> None:
            if worker is not None and worker.loops.relay is not None and worker.loops.relay.position >= count:
                finished.set()

        service = self._make_service()
        settings = Settings(
            database=url,
            broker=self._broker_url,
            partitions=self._partitions,
            engine=EngineConfig(batch_records_max=self._batch),
        )
        runtime = Runtime(
            service, make_store(url, service.name), make_broker(self._broker_url), settings,
            tables=service.tables, progress=progress,
        )  # fmt: skip
        await runtime.start(work=False)
        try:
            await self._make_accounts(runtime)
            await asyncio.to_thread(self._servers.settle)
            worker = Worker(runtime.context)
            watch = Stopwatch()
            await worker.start()
            async with asyncio.timeout(_ENOUGH_S):
                await finished.wait()
            sample = watch.stop(count)
            await worker.stop()
            appended = await self._appended(runtime)
            if appended < count:
                raise AssertionError(f"{appended} records came into the log, expected {count}")
        finally:
            await runtime.stop()
        return sample

    async def _make_accounts(self, runtime: Runtime) -> None:
        table = TableRepository(Account, accounts).table
        async with runtime.store.transaction() as transaction:
            await transaction.insert_rows(table, account_rows())

    async def _appended(self, runtime: Runtime) -> int:
        bounds = [await runtime.broker.bounds(OUT, number) for number in range(self._partitions)]
        return sum(each.last for each in bounds)


def check(servers: Servers, url: str, events: Sequence[TransferMade], outbox: str) -> None:
    """Nothing counts that did not do the work: every event is in its account and has its follower in the outbox."""
    statement = f"SELECT sum(balance), sum(changes), (SELECT count(*) FROM {outbox}) FROM accounts"
    found = tuple(int(each) for each in servers.ask(url, statement))
    expected = (sum(event.amount for event in events), len(events), len(events))
    if found != expected:
        raise AssertionError(f"balances, changes and published events are {found}, expected {expected}")
