"""Probes, metrics and `/asyncapi.json` as routes of Starlette. Those of FastAPI say the same, and describe it too."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.described import described
from ensue.integrations.probes import probe_routes


def health_routes(service: Service, limits: ReadyLimits) -> Sequence[Route]:
    """Return three probes of a service; `install(app, orders, health=True)` adds them to an app.

    `/livez`: the process answers (restart it when not). `/healthz`: so does its database. `/readyz`: its worker has its
    share, and all is within `limits`. Else 503, a problem document with the list `reasons`, without names of hosts,
    databases or keys unless `limits.details`; with these a 200 of `/readyz` may have `remarks`.
    """
    return probe_routes([service], limits)


def metrics_route(service: Service, *, path: str = "/metrics", database: bool | None = None) -> Route:
    """Return a route with the metrics of a service that runs in this process (docs/reference/metrics.md lists them).

    Needs `pip install "ensue[prometheus]"`. database: see `ensue.integrations.prometheus.metrics_route`.
    """
    from ensue.integrations.exposition import CONTENT_TYPE_LATEST, exposition

    async def metrics(request: Request) -> Response:
        return Response(await exposition([service], database=database), media_type=CONTENT_TYPE_LATEST)

    return Route(path, metrics, methods=["GET"])


def asyncapi_route(service: Service, version: str = "0.1.0", *, path: str = "/asyncapi.json") -> Route:
    """Return a route with the AsyncAPI document of a service; `install(app, orders, asyncapi=True)` adds it to an app.

    version: of the service, for the document. It is made once, when it is first asked for: from what is declared then.
    Whoever may ask the app may read it: it has names and types, no addresses.
    """
    document = described(service, version)

    async def shown(request: Request) -> Response:
        return JSONResponse(document())

    return Route(path, shown, methods=["GET"])
