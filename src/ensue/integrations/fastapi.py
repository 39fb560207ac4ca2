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

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from ensue.errors import UsageError

try:
    from fastapi import Depends, FastAPI, Request
    from fastapi.routing import APIRoute
except ImportError as error:
    raise UsageError('ensue.integrations.fastapi: pip install "ensue[fastapi]"') from error

from starlette.types import ASGIApp, Receive, Scope, Send

from ensue.announcing import announced
from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.integrations.asyncapi import asyncapi_route
from ensue.integrations.body_limit import BODY_BYTES_MAX, BodyLimit
from ensue.integrations.handlers import add_handlers
from ensue.integrations.health import health_routes
from ensue.integrations.openapi import describe, problem_responses
from ensue.integrations.problems import Problem
from ensue.integrations.routes import check_step_scope
from ensue.integrations.step_route import PRINCIPAL, StepRoute, credentials
from ensue.integrations.tokens import TOKENS, WAIT_S, Tokens
from ensue.logs import configure

__all__ = ["Problem", "ReadyLimits", "StepRoute", "install", "problem_responses", "step_of"]


#: Where an app keeps what its calls of `install` have said, in its state.
_INSTALLED = "ensue_installed"
_ROUTES = {"health": "health_routes", "metrics": "metrics_route", "asyncapi": "asyncapi_route"}


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
    if not isinstance(service, Service):
        raise UsageError(f"install(app, ...) wants the service that the app runs, got {service!r:.80}")
    first = app.router.route_class is not StepRoute
    if first:
        if any(isinstance(route, APIRoute) for route in app.routes):
            raise UsageError("install(app, ...) came after the first route: call it right after FastAPI(...)")
        app.router.route_class = StepRoute
        holds = {"body_bytes_max": body_bytes_max, PRINCIPAL: principal, "steps": [], TOKENS: None}
        setattr(app.state, _INSTALLED, holds)
        app.add_middleware(_Installed, of=app)
        app.add_middleware(BodyLimit, body_bytes_max=body_bytes_max)
        add_handlers(app)
        describe(app, tokens=lambda: getattr(app.state, _INSTALLED)[TOKENS] is not None)
    _check_later(
        app, service, principal, body_bytes_max, health=health is not False, metrics=metrics, asyncapi=asyncapi
    )
    said = getattr(app.state, _INSTALLED)
    said["steps"].append(service.step)
    if tokens is not False:
        said[TOKENS] = said[TOKENS] or Tokens()
        said[TOKENS].waits[service.name] = (service, WAIT_S if tokens is True else tokens)
    if health is not False:
        app.include_router(health_routes(service, ReadyLimits() if health is True else health))
    if metrics:
        from ensue.integrations.prometheus import metrics_route

        app.include_router(metrics_route(service))
    if asyncapi:
        app.include_router(asyncapi_route(service, app.version))
    _run_within(app, service, work)


def _check_later(
    app: FastAPI, service: Service, principal: Callable[[Request], str], body_bytes_max: int, **paths: bool
) -> None:
    """Refuse what a call after the first one would say in vain."""
    said: dict[str, Any] = getattr(app.state, _INSTALLED)
    if principal not in (credentials, said[PRINCIPAL]):
        raise UsageError(
            f"install(app, {service.signs_as}, principal=...): say it in the first call, it holds for the app"
        )
    if body_bytes_max not in (BODY_BYTES_MAX, said["body_bytes_max"]):
        raise UsageError(
            f"install(app, {service.signs_as}, body_bytes_max=...): say it in the first call, it holds for the app"
        )
    for name in (name for name, wanted in paths.items() if wanted):
        owner = said.setdefault(name, service.name)
        if owner != service.name:
            raise UsageError(
                f"install(app, {service.signs_as}, {name}=...): those paths answer for {owner} already, and would say "
                f"nothing of {service.name}: app.include_router({_ROUTES[name]}({service.signs_as}, ...), prefix=...)"
            )


def step_of(service: Service) -> Any:
    """What makes a route's parameter the request's step: `OrdersStep = Annotated[Step, step_of(orders)]`.

    The `Annotated` is yours to write, since type checkers take no call for a type. Queries are FastAPI's own
    `Depends(orders.query, scope="function")` and `Depends(orders.rows, scope="function")`.
    """
    return Depends(service.step, scope="function")


class _Installed:
    """A middleware: what holds for all requests of an app, or of one that is mounted in it.

    The steps' scopes are looked at before the first request, in case the app's lifespan did not: it may be another one,
    or not run at all, as that of an app which is mounted.
    """

    def __init__(self, app: ASGIApp, of: FastAPI) -> None:
        self.app = app
        self._of = of
        self._said = getattr(of.state, _INSTALLED)
        self._checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            if not self._checked:
                for step in self._said["steps"]:
                    check_step_scope(self._of, step)
                self._checked = True
            scope[PRINCIPAL], scope[TOKENS] = self._said[PRINCIPAL], self._said[TOKENS]
        await self.app(scope, receive, send)


def _run_within(app: FastAPI, service: Service, work: bool) -> None:
    """The service is up before what the app's own lifespan does, and until that has ended. Its log is shown where the
    application has not set logging up, which it does when its modules are imported."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncIterator[Any]:
        check_step_scope(app, service.step)
        configure(None)
        async with announced(service, work=work), inner(started) as state:
            yield state

    app.router.lifespan_context = lifespan
