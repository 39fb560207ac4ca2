"""Seeing and steering services over HTTP: the console, the JSON API, and what the two share.

Both are faces of `ensue.operations`, as the command line is. Nobody gets in without a way in that the host chooses.
"""

from __future__ import annotations

from ensue.errors import not_installed

try:
    import fastapi as _  # noqa: F401
    import jinja2 as __  # noqa: F401
except ImportError as error:
    raise not_installed("ensue.console", "console") from error

from ensue.console.access import Action, Actor, Authorize, NotAllowed, NotAuthenticated, Role
from ensue.console.payloads import Payloads
from ensue.console.rest.app import api
from ensue.console.web import app

__all__ = ["Action", "Actor", "Authorize", "NotAllowed", "NotAuthenticated", "Payloads", "Role", "api", "app"]
