"""What a request says of the steps that it begins: correlation id, trace, Idempotency-Key. Needs Starlette alone."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from ensue.errors import UsageError
from ensue.integrations.problem_documents import BODY_BROKEN_OFF, malformed_header
from ensue.integrations.problems import Problem
from ensue.integrations.request_headers import MalformedHeader, check_header, correlation_id_of, trace_of
from ensue.integrations.request_identity import CHANGING, body_parts, credentials_of, fingerprint_of, own_key
from ensue.origin import Origin

#: Where `install` puts what names a request's principal, in the request's scope, so that apps that are mounted find it;
#: `credentials` where it was not called.
PRINCIPAL = "ensue.principal"


def credentials(request: Request) -> str:
    """Who asks, unless `install(..., principal=...)` says better.

    The headers by which clients or proxies usually say it (Authorization, Cookie, X-API-Key, X-Forwarded-User and
    whatever else is named like that), the client's certificate, and the user whom a middleware has set. A client that
    renews its token between two tries is another principal to it, so that its request takes effect twice.
    """
    tls = (request.scope.get("extensions") or {}).get("tls") or {}
    certificate = [tls.get(name) for name in ("client_cert_name", "client_cert_chain")]
    return credentials_of(request.headers.items(), certificate, _identity(request.scope.get("user")))


def _identity(user: object) -> str:
    for name in ("identity", "display_name"):
        try:
            return str(getattr(user, name))
        except (AttributeError, NotImplementedError):
            continue  # Starlette's BaseUser leaves both to the application
    return ""


async def origin_of(request: Request) -> Origin:
    """Read the headers that matter to a step. Raises Problem 400 for a malformed one."""
    headers = request.headers
    keys = headers.getlist("idempotency-key") if request.method in CHANGING else []
    try:
        correlation_id = correlation_id_of(headers.get("x-correlation-id"))
        if len(keys) > 1:
            raise MalformedHeader("Idempotency-Key", "comes more than once")
        for each in keys:
            check_header("Idempotency-Key", each)
    except MalformedHeader as error:
        told = malformed_header(str(error))
        raise Problem(told.status, told.title, told.detail, type=told.type, header=error.name) from error
    traceparent, tracestate = trace_of(headers.get("traceparent", ""), ",".join(headers.getlist("tracestate")))
    given = Origin(correlation_id, traceparent, tracestate=tracestate)
    if keys:
        principal = request.scope.get(PRINCIPAL, credentials)(request)
        given.idempotency_key = own_key(keys[0], principal, request.method, request.scope["path"])
        given.fingerprint = await _fingerprint(request, given.idempotency_key)
        given.guarded = True
    return given


def no_step_left_open(request: Request, given: Origin) -> None:
    """Refuse to answer what is not committed."""
    if given.steps:
        service = given.steps[-1].outgoing.service
        raise UsageError(
            f"{request.method} {request.scope['path']}: a step of {service} is open when the answer is sent, so "
            "the client would be told of something that may not be committed. A dependency with `yield` in which "
            'a step is open needs Depends(..., scope="function"); so does everything that depends on it'
        )


async def _fingerprint(request: Request, key: str) -> str:
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise Problem(BODY_BROKEN_OFF.status, detail=BODY_BROKEN_OFF.detail) from error
    return fingerprint_of(key, request.scope["query_string"], body_parts(request.headers.get("content-type", ""), body))
