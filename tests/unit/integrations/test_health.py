"""What probes are told: alive, healthy, ready, and the reasons when not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from tests.unit.engine.workbench import LIMIT_S, QUICK

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable, StoreUnavailable, UsageError
from ensue.integrations.fastapi import ReadyLimits, install
from ensue.message import Bounds
from ensue.stores.sqlite import SqliteStore


class Parcel(Event, topic="probed", key="street"):
    street: str


class Tapped(MemoryBroker):
    """A broker that a test can shut off."""

    open_for_business = True

    async def open(self) -> None:
        self._check()
        await super().open()

    async def topics(self) -> Any:
        self._check()
        return await super().topics()

    async def append_many(self, source: str, batches: Any) -> None:
        self._check()
        await super().append_many(source, batches)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        self._check()
        return await super().bounds(topic, partition)

    def _check(self) -> None:
        if not self.open_for_business:
            raise BrokerUnavailable("nobody answers at the broker")


class Door(SqliteStore):
    """A store that a test can lock, or make silent."""

    locked = False
    silent = False

    async def now(self) -> float:
        if self.silent:
            await asyncio.Event().wait()
        if self.locked:
            raise StoreUnavailable("nobody answers at the database")
        return await super().now()


class Bench:
    def __init__(self, directory: Path, service: Service, **limits: Any) -> None:
        self.broker = Tapped()
        self.store = Door(f"sqlite:///{directory}/{service.name}.db?synchronous=OFF", service.name)
        settings = Settings(database="", broker="", partitions=1, engine=QUICK)
        self.runtime = Runtime(service, self.store, self.broker, settings, random=Random(0))
        self.app = FastAPI()
        install(self.app, service, health=ReadyLimits(**limits))

    async def ask(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://test") as client:
            return await client.get(path)

    async def until(self, path: str, status: int) -> httpx.Response:
        async with asyncio.timeout(LIMIT_S):
            while True:
                answer = await self.ask(path)
                if answer.status_code == status:
                    return answer
                await asyncio.sleep(0.01)


@asynccontextmanager
async def running(directory: Path, service: Service, **limits: Any) -> AsyncIterator[Bench]:
    bench = Bench(directory, service, **limits)
    async with service.running(bench.runtime):
        await bench.runtime.ready()
        yield bench


def post_office(handler: Callable[[Parcel], Any] | None = None) -> Service:
    service = Service("post", publishes=[Parcel])

    async def deliver(event: Parcel) -> None:
        if handler is not None:
            await handler(event)

    service.on(deliver)
    return service


async def publish(service: Service, count: int) -> None:
    async with service.step() as step:
        for _ in range(count):
            step.publish(Parcel(street="Elm"))


async def test_a_service_that_runs_is_alive_healthy_and_ready(tmp_path: Path) -> None:
    async with running(tmp_path, post_office()) as bench:
        for path in ("/livez", "/healthz", "/readyz"):
            answer = await bench.ask(path)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok"}), path


async def test_a_service_that_does_not_run_here_is_alive_and_nothing_else(tmp_path: Path) -> None:
    bench = Bench(tmp_path, post_office())
    assert (await bench.ask("/livez")).status_code == 200
    for path in ("/healthz", "/readyz"):
        answer = await bench.ask(path)
        assert answer.status_code == 503
        assert answer.json()["reasons"] == ["the service does not run in this process"]


async def test_a_database_that_does_not_answer_is_told_by_healthz_and_readyz(tmp_path: Path) -> None:
    async with running(tmp_path, post_office(), answer_s=0.05, details=True) as bench:
        for name, told in (("locked", "nobody answers at the database"), ("silent", "did not answer within 0.05 s")):
            setattr(bench.store, name, True)
            for path, type_ in (("/healthz", "unhealthy"), ("/readyz", "not-ready")):
                answer = await bench.ask(path)
                assert answer.status_code == 503
                assert answer.headers["content-type"] == "application/problem+json"
                assert answer.headers["retry-after"] == "1"
                document = answer.json()
                assert document["type"] == f"urn:ensue:problem:{type_}"
                [reason] = document["reasons"]
                assert told in reason
                assert document["detail"] == reason
            assert (await bench.ask("/livez")).status_code == 200
            setattr(bench.store, name, False)
        assert (await bench.ask("/readyz")).status_code == 200


async def test_a_broker_that_does_not_answer_makes_a_service_unready_unless_it_can_do_without(tmp_path: Path) -> None:
    for need_broker, status in ((True, 503), (False, 200)):
        directory = tmp_path / str(need_broker)
        directory.mkdir()
        async with running(directory, post_office(), broker=need_broker, details=True) as bench:
            bench.broker.open_for_business = False
            answer = await bench.ask("/readyz")
            assert answer.status_code == status
            if need_broker:
                assert answer.json()["reasons"] == ["the broker: nobody answers at the broker"]
            assert (await bench.ask("/healthz")).status_code == 200
            bench.broker.open_for_business = True
            assert (await bench.ask("/readyz")).status_code == 200


async def test_a_broker_that_is_down_at_the_start_is_told_until_it_is_there(tmp_path: Path) -> None:
    service = post_office()
    bench = Bench(tmp_path, service)
    bench.broker.open_for_business = False
    async with service.running(bench.runtime):
        assert (await bench.ask("/readyz")).json()["reasons"] == ["the broker was not reached yet"]
        bench.broker.open_for_business = True
        await bench.until("/readyz", 200)


async def test_a_partition_that_lags_is_named_with_its_lag_and_the_limit(tmp_path: Path) -> None:
    going = asyncio.Event()
    begun = asyncio.Event()

    async def slowly(event: Parcel) -> None:
        begun.set()
        await going.wait()

    service = post_office(slowly)
    async with running(tmp_path, service, lag_max=3) as bench:
        await publish(service, 5)
        await asyncio.wait_for(begun.wait(), LIMIT_S)
        answer = await bench.until("/readyz", 503)
        [reason] = answer.json()["reasons"]
        assert reason == "probed/0 lags 5 records behind, limit 3"
        assert await bench.runtime.readiness() == [], "the default limit is higher"
        going.set()
        await bench.until("/readyz", 200)


async def test_a_backlog_of_the_relay_is_told_and_the_limit_itself_is_fine(tmp_path: Path) -> None:
    service = post_office()
    async with running(tmp_path, service, backlog_max=4, broker=True) as bench:

        async def refuse(source: str, batches: Any) -> None:
            raise BrokerUnavailable("full")

        bench.broker.append_many = refuse  # type: ignore[method-assign]
        await publish(service, 4)
        assert (await bench.ask("/readyz")).status_code == 200
        await publish(service, 1)
        answer = await bench.ask("/readyz")
        assert answer.json()["reasons"] == ["more than 4 outbox records are not sent yet"]
        del bench.broker.append_many
        await bench.until("/readyz", 200)


async def test_a_worker_that_cannot_go_on_is_told(tmp_path: Path) -> None:
    async with running(tmp_path, post_office(), details=True) as bench:
        assert bench.runtime.worker is not None
        bench.runtime.worker.fail(UsageError("an operator is wanted"))
        answer = await bench.ask("/readyz")
        assert answer.json()["reasons"] == ["the worker cannot go on: an operator is wanted"]


async def test_a_process_that_only_serves_needs_no_share(tmp_path: Path) -> None:
    service = post_office()
    bench = Bench(tmp_path, service)
    async with service.running(bench.runtime, work=False):
        assert (await bench.ask("/readyz")).status_code == 200


@pytest.mark.parametrize("limits", [{"lag_max": -1}, {"backlog_max": -1}, {"answer_s": 0}])
def test_a_limit_that_cannot_be_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(limits))):
        ReadyLimits(**limits)


async def test_no_limit_is_no_reason(tmp_path: Path) -> None:
    going = asyncio.Event()
    service = post_office(lambda event: going.wait())
    async with running(tmp_path, service, lag_max=None, backlog_max=None) as bench:
        await publish(service, 5)
        assert (await bench.ask("/readyz")).status_code == 200
        going.set()


def test_the_probes_are_described(tmp_path: Path) -> None:
    paths = Bench(tmp_path, post_office()).app.openapi()["paths"]
    assert {"200", "503"} <= paths["/readyz"]["get"]["responses"].keys()


async def test_probes_tell_strangers_no_hosts_databases_workers_or_keys(tmp_path: Path) -> None:
    async with running(tmp_path, post_office()) as bench:
        bench.store.locked = True
        for path in ("/healthz", "/readyz"):
            answer = await bench.ask(path)
            assert answer.json()["reasons"] == ["the database: StoreUnavailable; `ensue status` tells more"]
            assert "nobody answers" not in answer.text
        bench.store.locked = False
        bench.broker.open_for_business = False
        answer = await bench.ask("/readyz")
        assert answer.json()["reasons"] == ["the broker: BrokerUnavailable; `ensue status` tells more"]
        assert bench.runtime.worker is not None
        bench.runtime.worker.fail(UsageError("look at host db.example"))
        bench.runtime.worker.same_log.others = ("secret-host:1",)
        answer = await bench.ask("/readyz")
        assert [each.partition(";")[0] for each in answer.json()["reasons"]] == [
            "the worker cannot go on: UsageError",
            "another worker works on this database with another log than this process: are two environments on one "
            "database?",
            "the broker: BrokerUnavailable",
        ]
        told = " ".join(await bench.runtime.readiness())  # for whoever has the service in hand
        for text in ("db.example", "secret-host", "nobody answers at the broker"):
            assert text in told
            assert text not in answer.text


async def test_probes_tell_no_stranger_what_a_busy_handler_has_at_hand(tmp_path: Path) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def deliver(event: Parcel) -> None:
        began.set()
        await go_on.wait()

    service = post_office(deliver)
    async with running(tmp_path, service, busy_s=0.0) as bench:
        await publish(service, 1)
        await began.wait()
        [reason] = (await bench.ask("/readyz")).json()["reasons"]
        assert reason.endswith("one transaction has been running, limit 0 s")
        go_on.set()
