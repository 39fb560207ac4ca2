"""What `install` does to an app, whichever framework it is of: everything that needs Starlette alone."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypedDict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ensue.announcing import announced
from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
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


class Options(TypedDict, total=False):
    """What `install` takes by name, in an app of whichever framework. All of it may be left out.

    In an app of several services the first call says `body_bytes_max` and `principal`, for all routes; the paths of
    health, metrics and asyncapi belong to one of the services.
    """

    work: bool
    """Does this process run the service's relay and handlers too? Else it takes steps and queries alone. (True)"""
    health: ReadyLimits | bool
    """Routes /livez, /healthz and /readyz, with these limits; True: the usual ones. (False)"""
    metrics: bool
    """A route /metrics for Prometheus. (False)"""
    asyncapi: bool
    """A route /asyncapi.json: what the service sends and receives; see docs/how-to/contracts.md. (False)"""
    body_bytes_max: int
    """Longer request bodies are answered 413. (1 000 000)"""
    principal: Callable[[Request], str]
    """Who asks, for the Idempotency-Key: `lambda request: request.state.user_id`, set by a middleware, or read from the
    token. It is called before the route and its dependencies. (`credentials`)"""
    tokens: float | bool
    """Answers say in Ensue-Token what their request has written, and a request that brings tokens back waits, so many
    seconds (True: 5), until the service has caught up with them; see docs/how-to/read-your-own-write.md. (False)"""


def chosen(service: object, options: Options) -> Options:
    """Return all options, with the usual value of what is left out. Raises UsageError for what is no service, and what
    no option."""
    if not isinstance(service, Service):
        raise UsageError(f"install(app, ...) wants the service that the app runs, got {service!r:.80}")
    usual: Options = {
        "work": True, "health": False, "metrics": False, "asyncapi": False, "body_bytes_max": BODY_BYTES_MAX,
        "principal": credentials, "tokens": False,
    }  # fmt: skip
    if unknown := sorted(options.keys() - usual.keys()):
        raise UsageError(f"install(app, {service.signs_as}, {unknown[0]}=...): there are {', '.join(usual)}")
    return {**usual, **options}


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


def is_fastapi(app: object) -> bool:
    fastapi = sys.modules.get("fastapi")  # where nobody has imported it, nothing is of it
    return fastapi is not None and isinstance(app, fastapi.FastAPI)


def installed_in(app: Starlette) -> Installed | None:
    """None: nothing is installed there yet."""
    found = getattr(app.state, _INSTALLED, None)
    return found if isinstance(found, Installed) else None


def install_first(app: Starlette, options: Options) -> Installed:
    """What the first call of `install` does: problem documents, the limit of bodies, what is said to each request.

    options: all of them, see `chosen`; here and below."""
    if app.middleware_stack is not None:
        raise UsageError("install(app, ...) came after the app has started: call it where the app is made")
    said = Installed(options["body_bytes_max"], options["principal"])
    setattr(app.state, _INSTALLED, said)
    app.add_middleware(_Said, said=said)
    app.add_middleware(BodyLimit, body_bytes_max=said.body_bytes_max)
    add_handlers(app)
    return said


def install_service(
    app: Starlette,
    said: Installed,
    service: Service,
    options: Options,
    *,
    add: str,
    check: Callable[[], None] | None = None,
) -> None:
    """What each call does: refuse what it would say in vain, hand out tokens, run the service while the app runs.

    add: how a route is added to such an app, as it is written. check: see `Installed.checks`, of this service.
    """
    _check_later(said, service, options, add)
    if check is not None:
        said.checks.append(check)
    if (wait := options["tokens"]) is not False:
        said.tokens = said.tokens or Tokens()
        said.tokens.waits[service.name] = (service, WAIT_S if wait is True else wait)
    _run_within(app, service, options["work"], check)


def limits_of(options: Options) -> ReadyLimits | None:
    """None: no probes are asked for."""
    wanted = options["health"]
    return (ReadyLimits() if wanted else None) if isinstance(wanted, bool) else wanted


def _check_later(said: Installed, service: Service, options: Options, add: str) -> None:
    """Refuse what a call after the first one would say in vain."""
    if options["principal"] not in (credentials, said.principal):
        raise UsageError(
            f"install(app, {service.signs_as}, principal=...): say it in the first call, it holds for the app"
        )
    if options["body_bytes_max"] not in (BODY_BYTES_MAX, said.body_bytes_max):
        raise UsageError(
            f"install(app, {service.signs_as}, body_bytes_max=...): say it in the first call, it holds for the app"
        )
    paths = {
        "health": limits_of(options) is not None, "metrics": options["metrics"], "asyncapi": options["asyncapi"],
    }  # fmt: skip
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
            scope[PRINCIPAL] = self._said.principal
            if self._said.tokens is not None or TOKENS not in scope:
                # A mounted app without tokens of its own is within those of the outer one, which says them in answers.
                scope[TOKENS] = self._said.tokens
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
