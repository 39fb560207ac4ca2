"""What `install` does to an app, whichever framework it is of: everything that needs Starlette alone."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ensue.announcing import announced
from ensue.app import Service
from ensue.errors import UsageError
from ensue.integrations.body_limit import BODY_BYTES_MAX, BodyLimit
from ensue.integrations.handlers import add_handlers
from ensue.integrations.request_origin import PRINCIPAL, credentials
from ensue.integrations.tokens import TOKENS, WAIT_S, Tokens
from ensue.logs import configure

#: Where an app keeps what its calls of `install` have said, in its state.
_INSTALLED = "ensue_installed"
#: What `install` takes for paths of a service's own, and what makes their routes.
_ROUTES = {"health": "health_routes", "metrics": "metrics_route", "asyncapi": "asyncapi_route"}


@dataclasses.dataclass(slots=True)
class Installed:
    """What holds for an app.

    owners: by what `install` takes for paths, the service that they answer for. checks: what is looked at once the
    routes are there, before the first request; they raise UsageError.
    """

    body_bytes_max: int
    principal: Callable[[Request], str]
    tokens: Tokens | None = None
    owners: dict[str, str] = dataclasses.field(default_factory=dict)
    checks: list[Callable[[], None]] = dataclasses.field(default_factory=list)


def installed_in(app: Starlette) -> Installed | None:
    """None: nothing is installed there yet."""
    found = getattr(app.state, _INSTALLED, None)
    return found if isinstance(found, Installed) else None


def check_service(service: object) -> None:
    if not isinstance(service, Service):
        raise UsageError(f"install(app, ...) wants the service that the app runs, got {service!r:.80}")


def install_first(app: Starlette, body_bytes_max: int, principal: Callable[[Request], str]) -> Installed:
    """What the first call of `install` does: problem documents, the limit of bodies, what is said to each request."""
    if app.middleware_stack is not None:
        raise UsageError("install(app, ...) came after the app has started: call it where the app is made")
    said = Installed(body_bytes_max, principal)
    setattr(app.state, _INSTALLED, said)
    app.add_middleware(_Said, said=said)
    app.add_middleware(BodyLimit, body_bytes_max=body_bytes_max)
    add_handlers(app)
    return said


def install_service(
    app: Starlette,
    said: Installed,
    service: Service,
    *,
    work: bool,
    body_bytes_max: int,
    principal: Callable[[Request], str],
    tokens: float | bool,
    paths: Mapping[str, bool],
    add: str,
    check: Callable[[], None] | None = None,
) -> None:
    """What each call does: refuse what it would say in vain, hand out tokens, run the service while the app runs.

    paths: which of those in _ROUTES are asked for. add: how a route is added to such an app, as it is written. check:
    see `Installed.checks`, of this service.
    """
    _check_later(said, service, principal, body_bytes_max, paths, add)
    if check is not None:
        said.checks.append(check)
    if tokens is not False:
        said.tokens = said.tokens or Tokens()
        said.tokens.waits[service.name] = (service, WAIT_S if tokens is True else tokens)
    _run_within(app, service, work, check)


def _check_later(
    said: Installed,
    service: Service,
    principal: Callable[[Request], str],
    body_bytes_max: int,
    paths: Mapping[str, bool],
    add: str,
) -> None:
    """Refuse what a call after the first one would say in vain."""
    if principal not in (credentials, said.principal):
        raise UsageError(
            f"install(app, {service.signs_as}, principal=...): say it in the first call, it holds for the app"
        )
    if body_bytes_max not in (BODY_BYTES_MAX, said.body_bytes_max):
        raise UsageError(
            f"install(app, {service.signs_as}, body_bytes_max=...): say it in the first call, it holds for the app"
        )
    for name in (name for name, wanted in paths.items() if wanted):
        owner = said.owners.setdefault(name, service.name)
        if owner != service.name:
            raise UsageError(
                f"install(app, {service.signs_as}, {name}=...): those paths answer for {owner} already, and would say "
                f"nothing of {service.name}: {add.format(f'{_ROUTES[name]}({service.signs_as}, ...)')}"
            )


class _Said:
    """A middleware: what holds for all requests of an app, or of one that is mounted in it.

    The routes are looked at before the first request, in case the app's lifespan did not: it may be another one, or not
    run at all, as that of an app which is mounted.
    """

    def __init__(self, app: ASGIApp, said: Installed) -> None:
        self.app = app
        self._said = said
        self._checked = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            if not self._checked:
                for check in self._said.checks:
                    check()
                self._checked = True
            scope[PRINCIPAL], scope[TOKENS] = self._said.principal, self._said.tokens
        await self.app(scope, receive, send)


def _run_within(app: Starlette, service: Service, work: bool, check: Callable[[], None] | None) -> None:
    """The service is up before what the app's own lifespan does, and until that has ended. Its log is shown where the
    application has not set logging up, which it does when its modules are imported."""
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(started: Any) -> AsyncIterator[Any]:
        if check is not None:
            check()
        configure(None)
        async with announced(service, work=work), inner(started) as state:
            yield state

    app.router.lifespan_context = lifespan
