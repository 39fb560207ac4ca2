"""Starlette: the service in the app, routes in steps, problem documents, the Idempotency-Key, and what probes ask.

    @in_step(orders)
    async def create_order(request: Request, step: Step) -> Response: ...

    app = Starlette(routes=[Route("/orders", create_order, methods=["POST"])])
    install(app, orders)

The answer is made inside of the step, and goes out when that is committed: no client sees 201 before the commit. What
needs FastAPI's dependencies is in `ensue.integrations.fastapi`, which is this and they.
"""

from __future__ import annotations

from typing import Unpack

from ensue.errors import UsageError, not_installed

try:
    from starlette.applications import Starlette
except ImportError as error:
    raise not_installed("ensue.integrations.starlette", "starlette") from error

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.exchange import exchange_around
from ensue.integrations.in_step import in_step
from ensue.integrations.installing import (
    Options,
    chosen,
    install_first,
    install_service,
    installed_in,
    is_fastapi,
    limits_of,
)
from ensue.integrations.json_body import read_json
from ensue.integrations.plain_routes import asyncapi_route, health_routes, metrics_route
from ensue.integrations.problems import Problem

__all__ = [
    "Options",
    "Problem",
    "ReadyLimits",
    "asyncapi_route",
    "health_routes",
    "in_step",
    "install",
    "metrics_route",
    "read_json",
]


def install(app: Starlette, service: Service, **options: Unpack[Options]) -> None:
    """Make a service part of an app, with all that its clients and operators may expect of it.

    Call it before the app starts, once for each service that the app runs. A step of a request is `in_step(orders)`.
    options: see `Options`.

    - The service runs while the app does, around a lifespan that the app has already.
    - The log says where it works, when it is ready and when it stops, as that of `ensue run` does: on standard error,
      unless the application has set logging up.
    - Errors are problem documents, bodies have a limit, and requests may carry an Idempotency-Key.
    - Routes that `health`, `metrics` and `asyncapi` ask for come before those that the app has. Those of an app's
      further services go into a mount, see `health_routes`.

    Raises UsageError when the app has started, when a later call says another of what holds for the app, and for an
    option that there is not.
    """
    wanted = chosen(service, options)
    if is_fastapi(app):
        raise UsageError("install(app, ...) of ensue.integrations.starlette on a FastAPI app: take that of .fastapi")
    said = installed_in(app)
    if said is None:
        said = install_first(app, wanted)
        exchange_around(app)
    install_service(app, said, service, wanted, add='put {} into a Mount("/...", routes=...)')
    if (limits := limits_of(wanted)) is not None:
        app.router.routes[:0] = health_routes(service, limits)
    if wanted["metrics"]:
        app.router.routes.insert(0, metrics_route(service))
    if wanted["asyncapi"]:
        app.router.routes.insert(0, asyncapi_route(service))
