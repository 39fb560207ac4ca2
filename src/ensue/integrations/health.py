"""`/livez`, `/healthz`, `/readyz`: what probes ask. They answer by the service's runtime in this process."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.openapi import problem_responses
from ensue.integrations.probe_answers import NOT_READY, NOT_RUNNING, UNHEALTHY, runtime_of, unavailable


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(Health):
    """remarks: what is worth a look all the same; with `limits.details` only."""

    remarks: list[str] | None = None


def health_routes(service: Service, limits: ReadyLimits) -> APIRouter:
    """Return a router with three probes of a service; `install(app, orders, health=True)` adds it to an app.

    `/livez`: the process answers (restart it when not). `/healthz`: so does its database. `/readyz`: its worker has its
    share, and all is within `limits`. Else 503, a problem document with the list `reasons`, without names of hosts,
    databases or keys unless `limits.details`; with these a 200 of `/readyz` may have `remarks`: of sagas that are
    parked, or for which this process has no code.
    """
    router = APIRouter(tags=["health"])

    @router.get("/livez")
    async def livez() -> Health:
        return Health()

    @router.get("/healthz", response_model=Health, responses=problem_responses(503))
    async def healthz(request: Request) -> Any:
        running = runtime_of(service)
        reasons = [NOT_RUNNING] if running is None else await running.unhealthy(limits.answer_s)
        return unavailable(request, limits, "Unhealthy", UNHEALTHY, reasons) if reasons else Health()

    @router.get("/readyz", response_model=Readiness, response_model_exclude_none=True, responses=problem_responses(503))
    async def readyz(request: Request) -> Any:
        running = runtime_of(service)
        reasons = [NOT_RUNNING] if running is None else await running.readiness(limits)
        if reasons or running is None:
            return unavailable(request, limits, "Not ready", NOT_READY, reasons)
        return Readiness(remarks=(await running.remarks(limits) or None) if limits.details else None)

    return router
