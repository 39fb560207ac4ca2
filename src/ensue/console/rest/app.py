"""`ensue.console.api(orders, customers, authorize=...)`: the application that answers, to be mounted or served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from ensue.addresses import masked
from ensue.app import Service
from ensue.console.access import Action, Authorize, NotAllowed, NotAuthenticated, actor_of, require
from ensue.console.host import Patient
from ensue.console.patience import ANSWER_S, NoAnswer, checked_answer_s
from ensue.console.payloads import Modes, Payloads, modes_of
from ensue.console.rest import schema
from ensue.console.rest.answers import HEADERS, answered
from ensue.console.rest.finding import DETAIL_CHARS_MAX
from ensue.console.rest.route import Desk
from ensue.console.same_origin import checked_origins
from ensue.console.services import NotFound, NotOpened, Services
from ensue.engine.decisions import Decided
from ensue.errors import CheckpointConflict, IdempotencyConflict, IdempotencyMismatch, UsageError
from ensue.integrations import problems
from ensue.integrations.body_limit import BodyLimit
from ensue.integrations.handlers import add_handlers
from ensue.integrations.validation import invalid_request
from ensue.texts import logger

log = logger("ensue.console")

VERSION = "1"
#: Of a request: a letter that is edited may be as large as one that is published.
BODY_BYTES_MAX = 4_000_000
REFUSED = "urn:ensue:problem:refused"
NOT_OPENED = "urn:ensue:problem:not-opened"
NO_ANSWER = "urn:ensue:problem:no-answer"

Handle = Callable[[Request, Exception], Awaitable[Response]]


def api(
    *services: Service,
    authorize: Authorize,
    payloads: Modes = Payloads.MASKED,
    origins: Sequence[str] = (),
    answer_s: float = ANSWER_S,
) -> FastAPI:
    """Return an application that shows these services and decides about them, as JSON: mount it under a path of its
    own, `app.mount("/ensue", ensue.console.api(orders, customers, authorize=who))`, or serve it. It works on the
    services' databases, and on the log, whether they run or not. /openapi.json describes it.

    authorize: who sends a request: takes it, returns an `ensue.console.access.Actor`, or None for nobody; it may be
    async, else it is called in a thread. It is asked for each request, also for one to /openapi.json, and again while a
    retry goes on. payloads: how much of users' data is shown: one mode for all, or by role, such as
    {"reader": "masked", "admin": "full"}. origins: other sites whose pages may decide something, such as
    https://desk.example. answer_s: how long an answer may take, seconds, where a database hangs, or `authorize`; a
    decision that has begun goes on, and the 504 says so.

    Raises UsageError for no service, for two of one name, and for what is not one of these.
    """
    app = FastAPI(
        title="Ensue operations",
        version=VERSION,
        description="See and steer services. Times are seconds since the epoch. Each decision wants a reason.",
        docs_url=None,  # which would load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
    )
    app.state.desk = desk = Desk(
        Services(services, answer_s=checked_answer_s(answer_s)), Patient(authorize, answer_s), modes_of(payloads),
        checked_origins(origins), answer_s,
    )  # fmt: skip
    list(schema.routes())
    for router in schema.ROUTERS:
        app.include_router(router)

    async def openapi(request: Request) -> Response:
        require(await actor_of(desk.authorize, request), Action.SEE)
        return answered(schema.document(app, request.scope.get("root_path", "")))

    app.add_route("/openapi.json", openapi, ["GET"], include_in_schema=False)
    app.add_middleware(BodyLimit, body_bytes_max=BODY_BYTES_MAX)
    add_handlers(app)
    app.add_exception_handler(RequestValidationError, invalid_request)
    for kind, handle in _HANDLERS.items():
        app.add_exception_handler(kind, handle)
    return app


async def _not_authenticated(request: Request, error: Exception) -> Response:
    return _problem(request, 401, error)


async def _not_allowed(request: Request, error: Exception) -> Response:
    log.warning("%s %s was answered 403: %s", request.method, request.scope["path"], error)
    return _problem(request, 403, error)


async def _not_found(request: Request, error: Exception) -> Response:
    return _problem(request, 404, error)


async def _decided(request: Request, error: Exception) -> Response:
    """Somebody else was quicker, or it took effect: what is there now is another thing than was decided on."""
    return _problem(request, 409, error, "Not to be decided any more")


async def _refused(request: Request, error: Exception) -> Response:
    return _problem(request, 409, error, "Refused", type=REFUSED)


async def _not_opened(request: Request, error: Exception) -> Response:
    log.warning("%s %s was answered 503: %s", request.method, request.scope["path"], error)
    return _problem(request, 503, error, "Not opened", type=NOT_OPENED)


async def _no_answer(request: Request, error: Exception) -> Response:
    log.warning("%s %s was answered 504: %s", request.method, request.scope["path"], error)
    return _problem(request, 504, error, "No answer in time", type=NO_ANSWER)


async def _at_work(request: Request, error: Exception) -> Response:
    return _problem(request, 409, error, type=problems.IDEMPOTENCY_CONFLICT)


async def _other_request(request: Request, error: Exception) -> Response:
    return _problem(request, 422, error, "Idempotency-Key used before", type=problems.IDEMPOTENCY_MISMATCH)


def _problem(request: Request, status: int, error: Exception, title: str = "", type: str = problems.BLANK) -> Response:
    return problems.response(
        request, status, title, masked(str(error)), type=type, headers=HEADERS, detail_chars_max=DETAIL_CHARS_MAX
    )


_HANDLERS: dict[type[Exception], Handle] = {
    NotAuthenticated: _not_authenticated,
    NotAllowed: _not_allowed,
    NotFound: _not_found,
    NotOpened: _not_opened,
    NoAnswer: _no_answer,
    Decided: _decided,
    CheckpointConflict: _decided,
    IdempotencyConflict: _at_work,
    IdempotencyMismatch: _other_request,
    UsageError: _refused,
}
