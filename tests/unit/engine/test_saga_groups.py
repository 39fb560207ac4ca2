"""How many sagas stand where, and which of them no code here can go on with: status, readiness, metrics."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter
from tests.unit.engine.test_sagas import Place, SagaLimitExceeded, Shop, running
from tests.unit.engine.workbench import QUICK, settled

from ensue import Saga
from ensue.engine.codeless import said_of
from ensue.engine.gauges import CODELESS, METRICS, SAGAS, measure
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.health import health_routes
from ensue.saga.instance import Instance, Status, row_of
from ensue.saga.machine import begun
from ensue.tables import SAGAS as TABLE
from ensue.testing import World

FOUND = {
    ("place", 1, Status.RUNNING): 2,
    ("place", 1, Status.PARKED): 1,
    ("place", 2, Status.RUNNING): 3,
    ("place", 10, Status.UNDOING): 1,
    ("place-2", 1, Status.RUNNING): 1,
    ("places", 1, Status.PARKED): 2,
}
SAID = [
    "3 sagas of place v2, no code",
    "1 saga of place v10, no code",
    "1 saga of place-2 v1, no code",
    "2 sagas of places v1, no code",
    "1 saga of place v1 is parked",
    "2 sagas of places v1 are parked",
]


async def fill(world: World) -> None:
    """Rows as if such sagas were there; and two that have ended, which are nobody's business."""
    sagas: list[Instance] = []
    for (name, version, status), count in {**FOUND, ("place", 1, Status.UNDONE): 2}.items():
        for number in range(count):
            saga, _ = begun(f"{name}:{version}-{status}-{number}~", version, b"{}", "c", 1.0, 0.0)
            saga.status = status
            sagas.append(saga)
    async with world.runtimes["orders"].store.transaction() as transaction:
        await transaction.insert_rows(TABLE, [row_of(each, 1) for each in sagas])


async def test_they_are_counted_by_name_version_and_status(sql_database: str, tmp_path: Path) -> None:
    shop = Shop()
    async with running(sql_database, tmp_path, shop) as world:
        runtime = world.runtimes["orders"]
        assert await runtime.remarks() == []
        await fill(world)
        groups = await runtime.context.books.saga_groups()
        assert groups == FOUND
        assert said_of(shop.service, groups) == SAID
        assert await runtime.remarks() == SAID
        assert await runtime.readiness() == []
        values = await measure(runtime.context, runtime.worker)
        assert values[SAGAS]["place", "1", "PARKED"] == 1
        assert sum(values[SAGAS].values()) == 10
        assert values[CODELESS] == {(): 7}
        assert SAGAS in METRICS


@pytest.mark.parametrize("values", [False, True])
async def test_why_a_saga_is_stuck_has_values_where_these_may_be_seen(tmp_path: Path, values: bool) -> None:
    shop = Shop()

    @shop.service.saga
    async def late(saga: Saga, new: Place) -> None:
        saga.pivot()
        raise SagaLimitExceeded(available=4711)

    @shop.service.saga
    async def wrong(saga: Saga, new: Place) -> None:
        TypeAdapter(int).validate_python("card 4711")

    @shop.service.saga
    async def odd(saga: Saga, new: Place) -> int:
        return "card 4711"  # type: ignore[return-value]

    engine = dataclasses.replace(QUICK, show_values=values)
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop, engine=engine) as world:
        async with shop.service.step() as step:
            for each in (late, wrong):
                step.start(each, Place("o-1"), id=1)
            step.start(odd, Place("o-1"), id=1)
        await settled(world)
        for name in ("late", "wrong", "odd"):
            found = await shop.service.runtime.context.books.saga(f"{name}:1")
            assert found is not None
            assert found.status is Status.PARKED
            assert ("4711" in found.reason) is (values and name != "odd"), found.reason


async def test_a_process_that_is_ready_says_so_with_remarks_for_those_who_may_see_details(tmp_path: Path) -> None:
    shop = Shop()
    async with running(f"sqlite:///{tmp_path}/o.db", tmp_path, shop) as world:
        await fill(world)
        for details, expected in ((False, {"status": "ok"}), (True, {"status": "ok", "remarks": SAID})):
            app = FastAPI()
            app.include_router(health_routes(shop.service, ReadyLimits(details=details)))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client:
                answer = await client.get("/readyz")
                assert (answer.status_code, answer.json()) == (200, expected)
