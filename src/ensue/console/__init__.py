"""Seeing and steering services over HTTP: the console, the JSON API, and what the two share.

Both are faces of `ensue.operations`, as the command line is. Nobody gets in without a way in that the host chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensue.console.web import app

__all__ = ["app"]


def __getattr__(name: str) -> Any:
    """The console is imported when it is asked for: it needs Jinja2, which the API does not."""
    if name == "app":
        from ensue.console.web import app

        return app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
