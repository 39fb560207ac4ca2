"""Looking at an app's routes: is every step's scope right, and which of them know keys and tokens?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi.routing import APIRoute

from ensue.errors import UsageError
from ensue.integrations.step_route import StepRoute


def check_step_scope(app: Any, step: Callable[..., Any]) -> None:
    """Check each route of `app` that depends on `step` (a service's `step`). Raises UsageError, naming the route, when

    - the dependency's scope is not "function": the step would commit after the answer was sent;
    - the route is not a StepRoute: its Idempotency-Key would have no effect.
    """
    for prefix, route in _routes(app.routes):
        scopes = [each.scope for each in _dependencies(route.dependant) if each.call == step]
        if not scopes:
            continue
        methods = ",".join(sorted(getattr(route, "methods", None) or ("WEBSOCKET",)))
        where = f"{methods} {prefix}{route.path}"
        if any(scope != "function" for scope in scopes):
            raise UsageError(
                f"{where}: the step would commit after the answer was sent; write Annotated[Step, step_of(...)]"
            )
        declared = getattr(route, "original_route", route)
        if isinstance(declared, APIRoute) and not isinstance(declared, StepRoute):
            raise UsageError(f"{where}: its router needs the route class, write APIRouter(route_class=StepRoute)")


def step_paths(app: Any) -> frozenset[tuple[str, str]]:
    """Return (method in lower case, path as in OpenAPI) of the routes that are a StepRoute."""
    return frozenset(
        (method.lower(), prefix + route.path_format)
        for prefix, route in _routes(app.routes)
        if isinstance(getattr(route, "original_route", route), StepRoute)
        for method in route.methods or ()
    )


def _routes(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each route that has dependencies, with the prefix that is not in its path (that of a mount).

    Newer FastAPI keeps an included router as one route that knows its own; older copies them into the app.
    """
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            yield from _routes(route.effective_route_contexts(), prefix)
        elif getattr(route, "dependant", None) is not None:
            yield prefix, route
        elif getattr(route, "routes", None):
            yield from _routes(route.routes, prefix + getattr(route, "path", ""))


def _dependencies(dependant: Any) -> Iterator[Any]:
    for each in dependant.dependencies:
        yield each
        yield from _dependencies(each)
