"""`/metrics`: what is unsent while the broker is away, what lags, what was set aside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tests.unit.engine.workbench import LIMIT_S, QUICK, store_of

from ensue import Event, Retry, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.gauges import METRICS
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable
from ensue.integrations.prometheus import metrics_route
from ensue.ports import Broker, Store
from ensue.stores.sqlite import SqliteStore


class Metered(Event, topic="metered", key="pipe"):
    pipe: str


class Away(MemoryBroker):
    away = False

    async def append_many(self, *arguments: Any) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        await super().append_many(*arguments)

    async def topics(self) -> Any:
        if self.away:
            raise BrokerUnavailable("away")
        return await super().topics()


async def values(client: httpx.AsyncClient) -> dict[str, float]:
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
        if sample.labels == {"service": "meter"}
    }


async def test_the_outbox_grows_while_the_broker_is_away_and_empties_after(tmp_path: Path) -> None:
    service = Service("meter")

    @service.on
    async def note(event: Metered) -> None: ...

    app = FastAPI()
    app.include_router(metrics_route(service))
    broker = Away()
    settings = Settings(database="", broker="", partitions=1, engine=QUICK)
    runtime = Runtime(service, store_of(tmp_path, "meter"), broker, settings, random=Random(0))
    transport = httpx.ASGITransport(app)
    async with (
        service.running(runtime),
        httpx.AsyncClient(transport=transport, base_url="http://meter") as client,
        asyncio.timeout(LIMIT_S),
    ):
        await runtime.ready()
        broker.away = True
        for _ in range(3):
            async with service.step() as step:
                step.publish(Metered(pipe="a"))
        found = await values(client)
        assert (found["ensue_outbox_unsent"], found["ensue_broker_up"], found["ensue_applied_total"]) == (3, 0, 0)
        broker.away = False
        while (found := await values(client))["ensue_applied_total"] < 3:  # noqa: ASYNC110  # it is a question, not a wait
            await asyncio.sleep(0.01)
        assert (found["ensue_outbox_unsent"], found["ensue_broker_up"], found["ensue_gaps_open"]) == (0, 1, 0)
        assert found["ensue_leases_held"] == 2
        assert found["ensue_transaction_running"] == 0


def test_every_metric_says_what_it_means_and_in_which_unit() -> None:
    assert len({each.name for each in METRICS}) == len(METRICS)
    for each in METRICS:
        assert each.name.startswith(("ensue_", "messaging_"))
        assert each.meaning
        assert each.unit


class Asking:
    """Asks for metrics. turned: is set when a loop has done something."""

    def __init__(self, client: httpx.AsyncClient, turned: asyncio.Event) -> None:
        self._client = client
        self._turned = turned

    async def samples(self, name: str) -> list[Sample]:
        text = (await self._client.get("/metrics")).text
        return [each for family in text_string_to_metric_families(text) for each in family.samples if each.name == name]

    async def values(self, name: str) -> list[float]:
        return [each.value for each in await self.samples(name)]

    async def until(self, name: str, good: Callable[[Sequence[Sample]], bool]) -> None:
        while not good(await self.samples(name)):
            await self._turned.wait()
            self._turned.clear()

    async def until_dead(self, count: int) -> None:
        def good(found: Sequence[Sample]) -> bool:
            return [each.value for each in found if each.labels["state"] == "dead"] == [count]

        await self.until("ensue_dead_letters", good)


@asynccontextmanager
async def metered(
    service: Service,
    store: Store,
    broker: Broker | None = None,
    *,
    database: bool | None = None,
    work: bool = True,
    ready: bool = True,
) -> AsyncIterator[Asking]:
    """Run it, and ask for its metrics."""
    app, turned = FastAPI(), asyncio.Event()
    app.include_router(metrics_route(service, database=database))
    settings = Settings(database="", broker="", partitions=2, engine=QUICK)
    runtime = Runtime(service, store, broker or MemoryBroker(), settings, random=Random(0), progress=turned.set)
    transport = httpx.ASGITransport(app)
    async with (
        service.running(runtime, work=work),
        httpx.AsyncClient(transport=transport, base_url="http://meter") as client,
        asyncio.timeout(LIMIT_S),
    ):
        if ready:
            await runtime.ready()
        yield Asking(client, turned)


async def test_the_oldest_unsent_record_has_an_age_by_the_databases_clock(tmp_path: Path) -> None:
    service, broker, now = Service("meter"), Away(), [1_000_000.0]
    store = SqliteStore(f"sqlite:///{tmp_path}/meter.db?synchronous=OFF", "meter", now=lambda: now[0])
    async with metered(service, store, broker) as asking:
        broker.away = True
        assert await asking.values("ensue_outbox_oldest_unsent_age_seconds") == [0]
        for pipe in ("a", "b", "c"):
            async with service.step() as step:
                step.publish(Metered(pipe=pipe))
            now[0] += 10
        assert await asking.values("ensue_outbox_oldest_unsent_age_seconds") == [30]
        broker.away = False
        await asking.until("ensue_outbox_unsent", lambda found: [each.value for each in found] == [0])
        assert await asking.values("ensue_outbox_oldest_unsent_age_seconds") == [0]


async def test_durations_are_histograms_and_say_what_failed(tmp_path: Path) -> None:
    service = Service("meter", retry=Retry(never=(LookupError,)))

    @service.on
    async def note(event: Metered) -> None:
        if event.pipe == "leaks":
            raise LookupError("no such pipe")

    async with metered(service, store_of(tmp_path, "meter")) as asking:
        for pipe in ("a", "leaks"):
            async with service.step() as step:
                step.publish(Metered(pipe=pipe))
        with pytest.raises(KeyError):
            await rolled_back(service)
        await asking.until_dead(1)
        counts = {
            name: {tuple(each.labels.values())[1:]: each.value for each in await asking.samples(f"{name}_count")}
            for name in ("ensue_step_duration_seconds", "ensue_delivery_duration_seconds")
        }
        assert counts == {
            "ensue_step_duration_seconds": {(): 3},
            "ensue_delivery_duration_seconds": {("metered",): 1},
        }
        assert {
            (each.labels["error_type"], each.value) for each in await asking.samples("ensue_step_rollbacks_total")
        } == {("KeyError", 1)}
        processed = {
            each.labels["error_type"]: each.labels | {"n": str(each.value)}
            for each in await asking.samples("messaging_process_duration_seconds_count")
        }
        assert processed.keys() == {"", "LookupError"}
        assert processed[""] == {
            "service": "meter", "messaging_system": "ensue", "messaging_operation_name": "process",
            "messaging_destination_name": "metered", "error_type": "", "n": "1.0",
        }  # fmt: skip
        sent = await asking.samples("messaging_client_operation_duration_seconds_bucket")
        assert {each.labels["messaging_operation_name"] for each in sent} == {"send"}
        by_bound = {each.labels["le"]: each.value for each in sent if not each.labels["error_type"]}
        assert list(by_bound.values()) == sorted(by_bound.values())
        assert by_bound["+Inf"] >= 1


async def rolled_back(service: Service) -> None:
    async with service.step() as step:
        step.publish(Metered(pipe="never"))
        raise KeyError("never")


@pytest.mark.parametrize(("database", "tells"), [(None, False), (False, False), (True, True)])
async def test_what_all_processes_would_tell_alike_is_told_by_the_one_that_relays(
    database: bool | None, tells: bool, tmp_path: Path
) -> None:
    """This process has no worker, so no lease; another one has."""
    service, relays = Service("meter"), Service("meter")
    async with (
        metered(relays, store_of(tmp_path, "meter")) as holder,
        metered(service, store_of(tmp_path, "meter"), database=database, work=False) as asking,
    ):
        for metric in METRICS:
            if metric.database and not metric.labels:
                name = f"{metric.name}_total" if metric.counter else metric.name
                assert bool(await asking.samples(name)) == tells, name
                assert await holder.samples(name), name
        assert await asking.values("ensue_leases_held") == [0]
        [info] = await asking.samples("ensue_build_info")
        assert (info.value, info.labels["version"], info.labels["messaging_system"]) == (1, version("ensue"), "ensue")


async def test_what_waits_is_told_by_a_process_whose_broker_was_away_when_it_began(tmp_path: Path) -> None:
    """It has no worker yet, and nobody else relays."""
    service, broker, now = Service("meter"), Away(), [1_000_000.0]
    broker.away = True
    store = SqliteStore(f"sqlite:///{tmp_path}/meter.db?synchronous=OFF", "meter", now=lambda: now[0])
    async with metered(service, store, broker, ready=False) as asking:
        async with service.step() as step:
            step.publish(Metered(pipe="a"))
        now[0] += 70
        assert await asking.values("ensue_outbox_oldest_unsent_age_seconds") == [70]
        assert await asking.values("ensue_broker_up") == [0]


async def test_what_is_counted_by_topic_begins_with_nothing_so_that_the_first_one_is_growth(tmp_path: Path) -> None:
    service = Service("meter")

    @service.on
    async def note(event: Metered) -> None: ...

    async with metered(service, store_of(tmp_path, "meter")) as asking:
        [refused] = await asking.samples("ensue_records_refused_total")
        assert (refused.labels["topic"], refused.value) == ("metered", 0)


async def test_the_oldest_dead_letter_has_an_age(tmp_path: Path) -> None:
    service, now = Service("meter", retry=Retry(never=(LookupError,))), [1_000_000.0]

    @service.on
    async def note(event: Metered) -> None:
        raise LookupError("no such pipe")

    store = SqliteStore(f"sqlite:///{tmp_path}/meter.db?synchronous=OFF", "meter", now=lambda: now[0])
    async with metered(service, store) as asking:
        for count, pipe in enumerate(("a", "b"), 1):
            async with service.step() as step:
                step.publish(Metered(pipe=pipe))
            await asking.until_dead(count)
            now[0] += 1_000
        assert await asking.values("ensue_oldest_dead_letter_age_seconds") == [2_000]


async def test_partitions_that_somebody_has_paused_are_counted(tmp_path: Path) -> None:
    service = Service("meter", publishes=[Metered])

    @service.on
    async def note(event: Metered) -> None: ...

    store = store_of(tmp_path, "meter")
    async with metered(service, store) as asking:
        assert await asking.values("ensue_partitions_paused") == [0]
        await service.runtime.context.books.steer(lambda held: held.pause("metered/0"))
        assert await asking.values("ensue_partitions_paused") == [1]
