"""FastAPI: the service in the app, steps as dependencies, problem documents, the Idempotency-Key, and what probes ask.

    app = FastAPI()
    install(app, orders)
    OrdersStep = Annotated[Step, step_of(orders)]

    @app.post("/orders", status_code=201)
    async def create_order(new: NewOrder, step: OrdersStep) -> OrderView: ...

FastAPI ends the step, which commits it, before the answer goes out: no client sees 201 before the commit. The answer to
a request with an Idempotency-Key is stored in that same step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ensue.errors import UsageError

try:
    from fastapi import Depends, FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.routing import APIRoute
except ImportError as error:
    raise UsageError('ensue.integrations.fastapi: pip install "ensue[fastapi]"') from error

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.asyncapi import asyncapi_route
from ensue.integrations.body_limit import BODY_BYTES_MAX
from ensue.integrations.health import health_routes
from ensue.integrations.installing import check_service, install_first, install_service, installed_in
from ensue.integrations.openapi import describe, problem_responses
from ensue.integrations.problems import Problem
from ensue.integrations.request_origin import credentials
from ensue.integrations.routes import check_step_scope
from ensue.integrations.step_route import StepRoute
from ensue.integrations.validation import invalid_request

__all__ = ["Problem", "ReadyLimits", "StepRoute", "install", "problem_responses", "step_of"]


def install(
    app: FastAPI,
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

    Call it right after `FastAPI(...)`, before any route is declared; once for each service that the app runs. A router
    of your own needs the route class too: `APIRouter(route_class=StepRoute)`.

    - The service runs while the app does, around a lifespan that the app has already. work: its relay and handlers too.
    - The log says where it works, when it is ready and when it stops, as that of `ensue run` does: on standard error,
      unless the application has set logging up.
    - Errors are problem documents; longer request bodies than body_bytes_max are answered 413.
    - Requests may carry an Idempotency-Key. principal: who asks, `lambda request: request.state.user_id`, set by a
      middleware, or read from the token. It is called before the route's dependencies. Without it: see `credentials`.
    - tokens: answers say in Ensue-Token what their request has written, and a request that brings tokens back waits, so
      many seconds (True: 5), until the service has caught up with them; see docs/how-to/read-your-own-write.md.
    - health: /livez, /healthz, /readyz, with these limits (True: the usual ones). metrics: /metrics for Prometheus.
    - asyncapi: /asyncapi.json, what the service sends and receives; see docs/how-to/contracts.md.

    In an app of several services, the first call says `body_bytes_max` and `principal`, for all routes; the paths of
    health, metrics and asyncapi belong to one of them: the others' routes go under a prefix, see `health_routes`.

    Raises UsageError when routes are there already, or when a later call says another of what holds for the app.
    """
    check_service(service)
    if not isinstance(app, FastAPI):
        raise UsageError(
            f"install(app, ...) of ensue.integrations.fastapi on a {type(app).__name__}, expected a FastAPI app: for "
            "one of Starlette take that of .starlette"
        )
    said = installed_in(app)
    if said is None:
        if any(isinstance(route, APIRoute) for route in app.routes):
            raise UsageError("install(app, ...) came after the first route: call it right after FastAPI(...)")
        app.router.route_class = StepRoute
        said = first = install_first(app, body_bytes_max, principal)
        app.add_exception_handler(RequestValidationError, invalid_request)
        describe(app, tokens=lambda: first.tokens is not None)
    install_service(
        app,
        said,
        service,
        work=work,
        body_bytes_max=body_bytes_max,
        principal=principal,
        tokens=tokens,
        paths={"health": health is not False, "metrics": metrics, "asyncapi": asyncapi},
        add="app.include_router({}, prefix=...)",
        check=partial(check_step_scope, app, service.step),
    )
    if health is not False:
        app.include_router(health_routes(service, ReadyLimits() if health is True else health))
    if metrics:
        from ensue.integrations.prometheus import metrics_route

        app.include_router(metrics_route(service))
    if asyncapi:
        app.include_router(asyncapi_route(service, app.version))


def step_of(service: Service) -> Any:
    """What makes a route's parameter the request's step: `OrdersStep = Annotated[Step, step_of(orders)]`.

    The `Annotated` is yours to write, since type checkers take no call for a type. Queries are FastAPI's own
    `Depends(orders.query, scope="function")` and `Depends(orders.rows, scope="function")`.
    """
    return Depends(service.step, scope="function")
