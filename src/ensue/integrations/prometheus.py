"""`/metrics` for Prometheus: `install(app, orders, metrics=True)`. Needs `pip install "ensue[prometheus]"`."""

from __future__ import annotations

from fastapi import APIRouter, Response

from ensue.app import Service
from ensue.integrations.exposition import CONTENT_TYPE_LATEST, exposition


def metrics_route(service: Service, *, path: str = "/metrics", database: bool | None = None) -> APIRouter:
    """Return a router with the metrics of a service that runs in this process (docs/reference/metrics.md lists them).

    database: whether to tell what is read from the database and is the same in all processes of the service; None: in
    the one that holds the relay's lease, so that a sum over processes counts it once, or in all while nobody holds it.
    True is for a service none of whose workers has a route, and for one process of it.
    503 when its database does not answer, as every route; a broker that does not answer is `ensue_broker_up 0`.
    """
    router = APIRouter(tags=["metrics"])

    @router.get(path, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        return Response(await exposition([service], database=database), media_type=CONTENT_TYPE_LATEST)

    return router
