"""The console as a Starlette application, to be mounted in the host's, under any prefix:

app.mount("/ensue", ensue.console.app(orders, customers, authorize=who))
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ensue.app import Service
from ensue.console import forms
from ensue.console.access import Authorize, NotAllowed, NotAuthenticated, actor_of
from ensue.console.cookies import found_cookie, keep_cookie
from ensue.console.headers import SecurityHeaders
from ensue.console.host import HostSilent, Patient
from ensue.console.patience import ANSWER_S, NoAnswer, checked_answer_s, within
from ensue.console.payloads import Modes, Payloads, modes_of
from ensue.console.rendering import Rendering
from ensue.console.same_origin import SAFE_METHODS, check_same_origin, checked_origins
from ensue.console.screens import (
    decisions,
    failures,
    flow,
    live,
    losses,
    outbox,
    overview,
    sagas,
    service,
    topology,
    views,
)
from ensue.console.screens import (
    log as log_screen,
)
from ensue.console.services import NotFound, Services
from ensue.console.traces import checked_trace_url
from ensue.console.visit import SCREENS, Console, Visit, root_of, said
from ensue.errors import EnsueError, RetryableError, UsageError
from ensue.integrations.body_limit import BodyLimit
from ensue.operations.contracts import read_committed
from ensue.texts import logger

log = logger("ensue.console")

#: Of a form's body. Data that somebody edits is shorter.
_BODY_BYTES_MAX: Final = 2_000_000
_STATIC: Final = Path(__file__).parent / "static"

Screen = Callable[[Visit], Coroutine[Any, Any, Response]]

#: Every address: which screen of the head it belongs to, what shows it, and what takes its forms.
ADDRESSES: Final[tuple[tuple[str, str, Screen, Screen | None], ...]] = (
    ("/", "/", overview.overview, None),
    ("/failures", "/failures", failures.failures, None),
    ("/group", "/failures", failures.group, failures.decide_on_group),
    ("/letters", "/failures", failures.all_letters, failures.purge),
    ("/letter", "/failures", failures.letter, failures.decide_on_letter),
    ("/run", "/failures", failures.progress, None),
    ("/flow", "/flow", flow.flow, None),
    ("/flow.mmd", "/flow", flow.mermaid, None),
    ("/services/{service}", "/", service.service, None),
    ("/partition", "/", service.partition, service.steer),
    ("/sagas", "/sagas", sagas.sagas, None),
    ("/saga", "/sagas", sagas.saga, sagas.decide),
    ("/views", "/views", views.views, None),
    ("/view", "/views", views.view, views.decide),
    ("/losses", "/losses", losses.losses, None),
    ("/loss", "/losses", losses.loss, losses.decide_on_gap),
    ("/applied", "/losses", losses.applied, losses.decide_on_source),
    ("/restored", "/losses", losses.restored, None),
    ("/outbox", "/outbox", outbox.search, None),
    ("/refused", "/outbox", outbox.refused, outbox.withdraw),
    ("/log", "/outbox", log_screen.log, None),
    ("/publish", "/outbox", outbox.publish_form, outbox.publish),
    ("/topology", "/topology", topology.topology, None),
    ("/asyncapi.json", "/topology", topology.asyncapi_document, None),
    ("/decisions", "/decisions", decisions.all_decisions, None),
    ("/decisions.jsonl", "/decisions", decisions.as_lines, None),
    ("/changes", "/", live.changes, None),
)

#: How a user says where the committed schemas are.
_SCHEMAS = "schemas= (--schemas)"


def app(
    *services: Service,
    authorize: Authorize,
    payloads: Modes = Payloads.MASKED,
    trusted_origins: Collection[str] = (),
    targets: Mapping[str, str] | None = None,
    answer_s: float = ANSWER_S,
    publishing: bool = False,
    trace_url: str = "",
    schemas: str | Path | None = None,
) -> Starlette:
    """Return the console of these services, which need not run, nor live in this process.

    authorize: who sends this request? Returns an `Actor`, or None for nobody; see `ensue.console.access`. It is asked
    for each request, a plain function in a thread, and there is no default. payloads: how much of users' data is shown:
    one mode for all, or by role, such as {"reader": "masked", "admin": "full"}. trusted_origins: further
    origins from which forms may come, as `https://desk.example`. targets: how the command line names each service,
    MODULE:SERVICE by its name, for the commands that the console tells. answer_s: how long a page may take, seconds,
    where a database hangs, or `authorize`; what a form has begun goes on, on a page that shows how far it is.
    publishing: admins may publish events by hand, to try things in development. trace_url: where traces are shown, as
    `https://traces.example/trace/{trace_id}`. schemas: the directory of the committed schemas, with which what services
    write now is compared; it is read once.
    Raises UsageError for what makes no sense.
    """
    known = Services(services, targets, checked_answer_s(answer_s))
    origins = checked_origins(trusted_origins)
    console = Console(
        known, Patient(authorize, answer_s), modes_of(payloads), origins, answer_s, publishing,
        checked_trace_url(trace_url), None if schemas is None else read_committed(Path(schemas), _SCHEMAS),
    )  # fmt: skip

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        yield
        await console.runs.stop()

    async def no_page(request: Request, error: Exception) -> Response:
        """An address that leads nowhere. An application whose `authorize` answers 404 says itself why."""
        text = error.detail if isinstance(error, HTTPException) else ""
        if text in ("", HTTPStatus.NOT_FOUND.phrase):
            text = f"There is no page {request.url.path[:200]} here; the name above leads to the overview."
        return _bare_page(console.rendering, request, HTTPStatus.NOT_FOUND, text)

    return Starlette(
        routes=[*_routes(console), Mount("/static", StaticFiles(directory=_STATIC), name="static")],
        middleware=[Middleware(SecurityHeaders), Middleware(BodyLimit, body_bytes_max=_BODY_BYTES_MAX)],
        exception_handlers={HTTPStatus.NOT_FOUND: no_page},
        lifespan=lifespan,
    )


def _routes(console: Console) -> list[BaseRoute]:
    found: list[BaseRoute] = []
    for path, here, shows, takes in ADDRESSES:
        found.append(Route(path, _endpoint(console, here, shows), methods=["GET"]))
        if takes is not None:
            found.append(Route(path, _endpoint(console, here, takes), methods=["POST"]))
    return found


def _endpoint(console: Console, here: str, screen: Screen) -> Callable[[Request], Awaitable[Response]]:
    """A screen behind everything that is checked first, and with a page for each error."""

    async def endpoint(request: Request) -> Response:
        cookie = found_cookie(forms.COOKIE, request)
        known = forms.is_cookie(cookie)
        cookie = cookie if known else forms.new_cookie()
        visit: Visit | None = None
        try:
            check_same_origin(request.method, request.headers, console.trusted_origins)
            since = asyncio.get_running_loop().time()  # to say who asks is a part of the answer
            actor = await actor_of(console.authorize, request)
            if not actor.roles:
                raise NotAllowed(f"{actor.name} has no role here: nothing can be seen")
            visit = Visit(console, request, actor, here, cookie)
            # What was sent by a form is brought to its end, whoever waits for it: see `Visit.decided`.
            looks = request.method in SAFE_METHODS
            answer = await (within(console.answer_s, screen(visit), since=since) if looks else screen(visit))
        except HTTPException:
            raise  # the host's own answer
        except Exception as error:
            answer = _error_page(console, request, visit, error)
        if not known:
            keep_cookie(answer, request, forms.COOKIE, cookie)
        return answer

    return endpoint


def _error_page(console: Console, request: Request, visit: Visit | None, error: Exception) -> Response:
    status, text = _status_of(error, request.method), said(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        log.exception("console: %s %s", request.method, request.url.path)
        text = "The console failed at this; its log says more."
    if isinstance(error, NoAnswer) and not isinstance(error, HostSilent):
        text = f"No answer within {console.answer_s:g} s: the database is slow, or locked; reload the page."
    title = status.phrase
    if visit is not None:
        name = request.query_params.get("service") or request.path_params.get("service", "")
        changes = [name] if name in visit.services.names and request.method == "GET" else []
        return visit.page("error", http_status=status, error_title=title, error_text=text, changes=changes)
    return _bare_page(console.rendering, request, status, text)


def refused(request: Request, error: EnsueError) -> Response:
    """A page that says why somebody is not let in."""
    return _bare_page(Rendering(), request, _status_of(error, request.method), said(error))


def _bare_page(rendering: Rendering, request: Request, status: HTTPStatus, text: str) -> Response:
    """For somebody who is not known."""
    values = {
        "root": root_of(request), "actor": None, "screens": SCREENS, "here": "", "changes": "", "outcome": None,
        "now": time.time(), "error_title": status.phrase, "error_text": text,
    }  # fmt: skip
    return HTMLResponse(rendering.page("error", values), status)


def _status_of(error: Exception, method: str) -> HTTPStatus:
    match error:
        case NotAuthenticated():
            return HTTPStatus.UNAUTHORIZED
        case NotAllowed():
            return HTTPStatus.FORBIDDEN
        case NotFound():
            return HTTPStatus.NOT_FOUND
        case NoAnswer():
            return HTTPStatus.GATEWAY_TIMEOUT
        case RetryableError() | TimeoutError():
            return HTTPStatus.SERVICE_UNAVAILABLE
        case UsageError():
            return HTTPStatus.NOT_FOUND if method in SAFE_METHODS else HTTPStatus.CONFLICT
        case EnsueError():
            return HTTPStatus.CONFLICT
    return HTTPStatus.INTERNAL_SERVER_ERROR


__all__ = ["ADDRESSES", "app", "refused"]
