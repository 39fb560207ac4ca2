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

from functools import partial
from typing import Any, Unpack

from ensue.errors import UsageError, not_installed

try:
    from fastapi import Depends, FastAPI
    from fastapi.exceptions import RequestValidationError
    from fastapi.routing import APIRoute
except ImportError as error:
    raise not_installed("ensue.integrations.fastapi", "fastapi") from error

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.asyncapi import asyncapi_route
from ensue.integrations.health import health_routes
from ensue.integrations.installing import (
    Options,
    chosen,
    install_first,
    install_service,
    installed_in,
    limits_of,
)
from ensue.integrations.openapi import describe, problem_responses
from ensue.integrations.problems import Problem
from ensue.integrations.routes import check_step_scope
from ensue.integrations.step_route import StepRoute
from ensue.integrations.validation import invalid_request

__all__ = ["Options", "Problem", "ReadyLimits", "StepRoute", "install", "problem_responses", "step_of"]


def install(app: FastAPI, service: Service, **options: Unpack[Options]) -> None:
    """Make a service part of an app, with all that its clients and operators may expect of it.

    Call it right after `FastAPI(...)`, before any route is declared; once for each service that the app runs. A router
    of your own needs the route class too: `APIRouter(route_class=StepRoute)`. options: see `Options`.

    - The service runs while the app does, around a lifespan that the app has already.
    - The log says where it works, when it is ready and when it stops, as that of `ensue run` does: on standard error,
      unless the application has set logging up.
    - Errors are problem documents, bodies have a limit, and requests may carry an Idempotency-Key.
    - Routes that `health`, `metrics` and `asyncapi` ask for are in the app. Those of an app's further services go under
      a prefix, see `health_routes`.

    Raises UsageError when routes are there already, when a later call says another of what holds for the app, and for
    an option that there is not.
    """
    wanted = chosen(service, options)
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
        said = first = install_first(app, wanted)
        app.add_exception_handler(RequestValidationError, invalid_request)
        describe(app, tokens=lambda: first.tokens is not None)
    check = partial(check_step_scope, app, service.step)
    install_service(app, said, service, wanted, add="app.include_router({}, prefix=...)", check=check)
    if (limits := limits_of(wanted)) is not None:
        app.include_router(health_routes(service, limits))
    if wanted["metrics"]:
        from ensue.integrations.prometheus import metrics_route

        app.include_router(metrics_route(service))
    if wanted["asyncapi"]:
        app.include_router(asyncapi_route(service, app.version))


def step_of(service: Service) -> Any:
    """What makes a route's parameter the request's step: `OrdersStep = Annotated[Step, step_of(orders)]`.

    The `Annotated` is yours to write, since type checkers take no call for a type. Queries are FastAPI's own
    `Depends(orders.query, scope="function")` and `Depends(orders.rows, scope="function")`.
    """
    return Depends(service.step, scope="function")
