"""FastAPI: steps as dependencies, problem documents, a body limit, the Idempotency-Key, and what probes ask.

    app = FastAPI(lifespan=orders.lifespan)
    install(app)

    @app.post("/orders", status_code=201)
    async def create_order(new: NewOrder, step: Step = Depends(orders.step, scope="function")) -> OrderView: ...

With scope="function" FastAPI ends the step, which commits it, before the answer goes out: no client sees 201 before
the commit. The answer to a request with an Idempotency-Key is stored in that same step.
"""

from __future__ import annotations

from collections.abc import Callable

from ensue.errors import UsageError

try:
    from fastapi import FastAPI, Request
    from fastapi.routing import APIRoute
except ImportError as error:
    raise UsageError('ensue.integrations.fastapi: pip install "ensue[fastapi]"') from error

from ensue.integrations.body_limit import BodyLimit
from ensue.integrations.handlers import add_handlers
from ensue.integrations.health import health_routes
from ensue.integrations.openapi import describe, problem_responses
from ensue.integrations.problems import Problem
from ensue.integrations.routes import check_step_scope
from ensue.integrations.step_route import PRINCIPAL, StepRoute, credentials

__all__ = ["Problem", "StepRoute", "check_step_scope", "health_routes", "install", "problem_responses"]


def install(
    app: FastAPI, *, body_bytes_max: int = 1_000_000, principal: Callable[[Request], str] = credentials
) -> None:
    """Call it right after `FastAPI(...)`, before any route is declared.

    A router of your own needs the route class too: `APIRouter(route_class=StepRoute)`.
    body_bytes_max: longer request bodies are answered 413.
    principal: who asks, for the Idempotency-Key: `lambda request: request.state.user_id`, set by a middleware, or read
    from the token. It is called before the route's dependencies. Without it: see `credentials`.
    Raises UsageError when routes are there already.
    """
    if any(isinstance(route, APIRoute) for route in app.routes):
        raise UsageError("install(app) came after the first route: call it right after FastAPI(...)")
    app.router.route_class = StepRoute
    setattr(app.state, PRINCIPAL, principal)
    app.add_middleware(BodyLimit, body_bytes_max=body_bytes_max)
    add_handlers(app)
    describe(app)
