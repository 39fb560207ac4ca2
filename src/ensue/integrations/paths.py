"""Which methods does a path of an app have? Starlette's routes, and FastAPI's, which are these with more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def allowed_methods(app: Any, path: str) -> set[str]:
    """Return the methods of all routes that a path has, as the header Allow must list them.

    Starlette lists those of the first route only: two routes of one path each know their own.
    """
    found: set[str] = set()
    for prefix, route in _routes(app.routes):
        if path.startswith(prefix) and route.path_regex.match(path[len(prefix) :]):
            found.update(route.methods or ())
    return found


def _routes(routes: Iterable[Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each route that has methods, with the prefix that is not in its path (that of a mount).

    Newer FastAPI keeps an included router as one route that knows its own; older copies them into the app.
    """
    for route in routes:
        if hasattr(route, "effective_route_contexts"):
            yield from _routes(route.effective_route_contexts(), prefix)
        elif hasattr(route, "methods") and hasattr(route, "path_regex"):
            yield prefix, route
        elif getattr(route, "routes", None):
            yield from _routes(route.routes, prefix + getattr(route, "path", ""))
