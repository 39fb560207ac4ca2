"""Starlette: the service in the app, routes in steps, problem documents, the Idempotency-Key, and what probes ask.

    @in_step(orders)
    async def create_order(request: Request, step: Step) -> Response: ...

    app = Starlette(routes=[Route("/orders", create_order, methods=["POST"])])
    install(app, orders)

The answer is made inside of the step, and goes out when that is committed: no client sees 201 before the commit. What
needs FastAPI's dependencies is in `ensue.integrations.fastapi`, which is this and they.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from ensue.errors import UsageError

try:
    from starlette.applications import Starlette
except ImportError as error:
    raise UsageError('ensue.integrations.starlette: pip install "ensue[starlette]"') from error

from starlette.requests import Request

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.body_limit import BODY_BYTES_MAX
from ensue.integrations.exchange import exchange_around
from ensue.integrations.in_step import in_step
from ensue.integrations.installing import check_service, install_first, install_service, installed_in
from ensue.integrations.json_body import read_json
from ensue.integrations.plain_routes import asyncapi_route, health_routes, metrics_route
from ensue.integrations.problems import Problem
from ensue.integrations.request_origin import credentials

__all__ = [
    "Problem",
    "ReadyLimits",
    "asyncapi_route",
    "health_routes",
    "in_step",
    "install",
    "metrics_route",
    "read_json",
]


def install(
    app: Starlette,
    service: Service,
    *,
    work: bool = True,
    health: ReadyLimits | bool = False,
    metrics: bool = False,
    asyncapi: bool = False,
    body_bytes_max: int = BODY_BYTES_MAX,
    principal: Callable[[Request], str] = credentials,
    tokens: float | bool = False,
) -> None:
    """Make a service part of an app, with all that its clients and operators may expect of it.

    Call it before the app starts, once for each service that the app runs. A step of a request is `in_step(orders)`.

    - The service runs while the app does, around a lifespan that the app has already. work: its relay and handlers too.
    - The log says where it works, when it is ready and when it stops, as that of `ensue run` does: on standard error,
      unless the application has set logging up.
    - Errors are problem documents; longer request bodies than body_bytes_max are answered 413.
    - Requests may carry an Idempotency-Key. principal: who asks, `lambda request: request.state.user_id`, set by a
      middleware, or read from the token. It is called before the route. Without it: see `credentials`.
    - tokens: answers say in Ensue-Token what their request has written, and a request that brings tokens back waits, so
      many seconds (True: 5), until the service has caught up with them; see docs/how-to/read-your-own-write.md.
    - health: /livez, /healthz, /readyz, with these limits (True: the usual ones). metrics: /metrics for Prometheus.
    - asyncapi: /asyncapi.json, what the service sends and receives; see docs/how-to/contracts.md. These routes come
      before those that the app has.

    In an app of several services, the first call says `body_bytes_max` and `principal`, for all routes; the paths of
    health, metrics and asyncapi belong to one of them: the others' routes go into a mount, see `health_routes`.

    Raises UsageError when the app has started, or when a later call says another of what holds for the app.
    """
    check_service(service)
    if (fastapi := sys.modules.get("fastapi")) is not None and isinstance(app, fastapi.FastAPI):
        raise UsageError("install(app, ...) of ensue.integrations.starlette on a FastAPI app: take that of .fastapi")
    said = installed_in(app)
    if said is None:
        said = install_first(app, body_bytes_max, principal)
        exchange_around(app)
    install_service(
        app,
        said,
        service,
        work=work,
        body_bytes_max=body_bytes_max,
        principal=principal,
        tokens=tokens,
        paths={"health": health is not False, "metrics": metrics, "asyncapi": asyncapi},
        add='put {} into a Mount("/...", routes=...)',
    )
    if health is not False:
        app.router.routes[:0] = health_routes(service, ReadyLimits() if health is True else health)
    if metrics:
        app.router.routes.insert(0, metrics_route(service))
    if asyncapi:
        app.router.routes.insert(0, asyncapi_route(service))
