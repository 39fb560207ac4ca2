"""`/metrics` for Prometheus: `install(app, orders, metrics=True)`. Needs `pip install "ensue[prometheus]"`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ensue.app import Service
from ensue.integrations.exposition import CONTENT_TYPE_LATEST, exposition


def metrics_route(service: Service, *, path: str = "/metrics") -> APIRouter:
    """Return a router with the metrics of a service that runs in this process (see `engine.gauges` for what they are).

    503 when its database does not answer, as every route; a broker that does not answer is `ensue_broker_up 0`.
    """
    router = APIRouter(tags=["metrics"])

    @router.get(path, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return Response(await exposition([service]), media_type=CONTENT_TYPE_LATEST)

    return router
