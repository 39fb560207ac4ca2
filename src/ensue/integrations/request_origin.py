"""What a request says of the steps that it begins: correlation id, trace, Idempotency-Key. Needs Starlette alone."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from email.message import Message
from typing import Any

from starlette.requests import ClientDisconnect, Request

from ensue.errors import UsageError
from ensue.integrations import problems
from ensue.integrations.problems import Problem
from ensue.integrations.request_headers import MalformedHeader, check_header, correlation_id_of, trace_of
from ensue.origin import Origin

CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
#: Where `install` puts what names a request's principal, in the request's scope, so that apps that are mounted find it;
#: `credentials` where it was not called.
PRINCIPAL = "ensue.principal"
#: Names of headers by which clients say who they are, or a proxy says whom it has let in. Not Ensue-Token, by
#: which each try says what its client has seen by then.
_CREDENTIALS = re.compile(
    "(?!ensue-token$).*(?:account|api-?key|assertion|auth|cert|cookie|email|identity|jwt|login|principal|session|subject"
    "|tenant|token|user(?!-agent))"
)


def credentials(request: Request) -> str:
    """Who asks, unless `install(..., principal=...)` says better.

    The headers by which clients or proxies usually say it (Authorization, Cookie, X-API-Key, X-Forwarded-User and
    whatever else is named like that), the client's certificate, and the user whom a middleware has set. A client that
    renews its token between two tries is another principal to it, so that its request takes effect twice.
    """
    headers = sorted(each for each in request.headers.items() if _CREDENTIALS.match(each[0]))
    tls = (request.scope.get("extensions") or {}).get("tls") or {}
    certificate = [tls.get(name) for name in ("client_cert_name", "client_cert_chain")]
    return repr([headers, certificate, _identity(request.scope.get("user"))])


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
        raise Problem(400, "Malformed header", str(error), type=problems.MALFORMED_HEADER, header=error.name) from error
    traceparent, tracestate = trace_of(headers.get("traceparent", ""), ",".join(headers.getlist("tracestate")))
    given = Origin(correlation_id, traceparent, tracestate=tracestate)
    if keys:
        given.idempotency_key = _own(keys[0], request)
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


def _own(key: str, request: Request) -> str:
    """The key as this principal's own, for this method and path: two principals who choose the same one never meet,
    here or where a step hands it on, and neither do two routes. The client's key is the secret of the hash, so that no
    credentials can be guessed from what is stored."""
    principal = request.scope.get(PRINCIPAL, credentials)(request)
    if not isinstance(principal, str):
        raise UsageError(
            f"{request.method} {request.scope['path']!r}: principal= returned a {type(principal).__name__}, expected a "
            'str that names who asks ("" for nobody in particular)'
        )
    digest = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for part in (principal, request.method, request.scope["path"]):
        _add(digest, part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _add(digest: Any, part: bytes) -> None:
    digest.update(b"%d:" % len(part))  # so that nothing can move from one part into the next
    digest.update(part)


async def _fingerprint(request: Request, own_key: str) -> str:
    """Hash what makes two requests the same: who asks for what (in the key), the query, the body and its type."""
    try:
        body = await request.body()
    except ClientDisconnect as error:
        raise Problem(400, detail="The connection ended before the body did") from error
    digest = hashlib.sha256()
    _add(digest, own_key.encode())
    _add(digest, request.scope["query_string"])
    for part in _parts(request.headers.get("content-type", ""), body):
        _add(digest, part)
    return digest.hexdigest()


def _parts(content_type: str, body: bytes) -> Iterable[bytes]:
    """A request's media type and body. A form in parts is without its boundary, which clients draw anew each time."""
    parsed = Message()
    parsed["content-type"] = content_type
    boundary = parsed.get_boundary() if parsed.get_content_maintype() == "multipart" else None
    yield parsed.get_content_type().encode()
    yield from body.split(b"--" + boundary.encode()) if boundary else (body,)
