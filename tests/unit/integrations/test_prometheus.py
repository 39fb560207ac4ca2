"""`/metrics`: what is unsent while the broker is away, what lags, what was set aside."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import httpx
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families
from tests.unit.engine.workbench import LIMIT_S, QUICK, store_of

from ensue import Event, Service
from ensue.brokers.memory import MemoryBroker
from ensue.config import Settings
from ensue.engine.gauges import METRICS
from ensue.engine.runtime import Runtime
from ensue.errors import BrokerUnavailable
from ensue.integrations.prometheus import metrics_route


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
        assert each.name.startswith("ensue_")
        assert each.meaning
        assert each.unit
