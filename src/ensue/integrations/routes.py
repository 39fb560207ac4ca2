"""Looking at an app's routes: is every step's scope right, and which methods does a path have?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from fastapi.routing import APIRoute

from ensue.errors import UsageError
from ensue.integrations.step_route import StepRoute

log = logging.getLogger("ensue.integrations")
_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})


def check_step_scope(app: Any, step: Callable[..., Any]) -> None:
    """Check each route of `app` that depends on `step` (a service's `step`). Raises UsageError, naming the route, when

    - the dependency's scope is not "function": the step would commit after the answer was sent;
    - the app is installed, but the route is of another class: its Idempotency-Key would have no effect.

    When the app is not installed, that is a warning in the log: clients may send no keys.
    """
    installed = app.router.route_class is StepRoute
    for prefix, route in _routes(app.routes):
        scopes = [each.scope for each in _dependencies(route.dependant) if each.call == step]
        if not scopes:
            continue
        methods = ",".join(sorted(getattr(route, "methods", None) or ("WEBSOCKET",)))
        where = f"{methods} {prefix}{route.path}"
        if any(scope != "function" for scope in scopes):
            raise UsageError(
                f'{where}: the step would commit after the answer was sent; write Depends(....step, scope="function")'
            )
        declared = getattr(route, "original_route", route)
        if not isinstance(declared, APIRoute) or isinstance(declared, StepRoute):
            continue
        if installed:
            raise UsageError(f"{where}: its router needs the route class, write APIRouter(route_class=StepRoute)")
        if _CHANGING.intersection(declared.methods or ()):
            log.warning(
                "%s: Idempotency-Key has no effect here; call install(app) right after FastAPI(...), "
                "or APIRouter(route_class=StepRoute)",
                where,
            )


def allowed_methods(app: Any, path: str) -> set[str]:
    """Return the methods of all routes that a path has, as the header Allow must list them.

    Starlette lists those of the first route only: two routes of one path each know their own.
    """
    found: set[str] = set()
    for prefix, route in _routes(app.routes):
        if path.startswith(prefix) and route.path_regex.match(path[len(prefix) :]):
            found.update(getattr(route, "methods", None) or ())
    return found


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
