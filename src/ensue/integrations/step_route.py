"""The route class that gives a request's steps their origin and keeps answers for Idempotency-Keys."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import hmac
import inspect
import re
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from email.message import Message
from typing import Any

from anyio import from_thread
from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from ensue.errors import UsageError
from ensue.integrations import problems
from ensue.integrations.body_limit import bounded
from ensue.integrations.problems import Problem
from ensue.integrations.tokens import TOKENS, Tokens
from ensue.message import StoredResponse
from ensue.origin import AlreadyAnswered, Origin, coming_from, current_origin

_CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_HEADER_TEXT = re.compile(r"[ -~]{1,255}")
#: As long as who takes part in a trace has to hand on.
_TRACESTATE = re.compile(r"[ -~]{0,512}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
#: Headers of an answer that are not given again: those of one connection, those that are made anew, and what the answer
#: told a browser to keep.
_NOT_KEPT = frozenset(
    {
        "age", "connection", "content-length", "date", "ensue-token", "idempotency-replayed", "keep-alive",
        "proxy-authenticate", "proxy-connection", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
        "x-correlation-id",
    }
)  # fmt: skip


#: Where `install` puts what names a request's principal, in the request's scope, so that apps that are mounted find it;
#: `credentials` where it was not called.
PRINCIPAL = "ensue.principal"
#: Names of headers by which clients say who they are, or a proxy says whom it has let in.
_CREDENTIALS = re.compile(
    "account|api-?key|assertion|auth|cert|cookie|email|identity|jwt|login|principal|session|subject|tenant|token"
    "|user(?!-agent)"
)


def credentials(request: Request) -> str:
    """Who asks, unless `install(..., principal=...)` says better.

    The headers by which clients or proxies usually say it (Authorization, Cookie, X-API-Key, X-Forwarded-User and
    whatever else is named like that), the client's certificate, and the user whom a middleware has set. A client that
    renews its token between two tries is another principal to it, so that its request takes effect twice.
    """
    headers = sorted(each for each in request.headers.items() if _CREDENTIALS.search(each[0]))
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


class StepRoute(APIRoute):
    """Gives the steps of a request their origin, and keeps the answer with the step when the client sent a key.

    An earlier answer is given when all dependencies of the route have passed, authentication among them, and only to
    the principal who was given it first. The route's own function does not run then.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        # FastAPI calls the endpoint once all dependencies and parameters are good, and has no other hook there.
        super().__init__(path, _admitted(endpoint), **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_with_origin(request: Request) -> Response:
            # What this function does happens before FastAPI ends the function-scope dependencies, so before the
            # step commits: the stored answer is part of its transaction.
            if "idempotency-key" in request.headers:  # then the whole body is read, whatever the route reads of it
                request = bounded(request)
            given = await _origin_of(request)
            given.task = asyncio.current_task()
            request.scope[problems.CORRELATION_ID] = given.correlation_id
            tokens: Tokens | None = request.scope.get(TOKENS)
            response: Response | None = None

            async def at_the_end(kind: type[BaseException] | None, *_: object) -> None:
                if kind is None:
                    _no_step_left_open(request, given)
                    if tokens is not None and response is not None:
                        await tokens.tell(given, response)

            # It runs when the last dependency of scope "function" has ended, right before the answer is sent.
            request.scope["fastapi_function_astack"].push_async_exit(at_the_end)
            if tokens is not None:
                await tokens.wait(request, given)
            with coming_from(given):
                try:
                    response = await handle(request)
                except AlreadyAnswered as answered:
                    response = _again(answered.response)
                else:
                    if response.status_code >= 500:
                        given.refused = True
                    elif given.idempotency_key and given.keep is not None:
                        await given.keep(_to_store(request, given, response, tokens))
                        given.settled = True
            # A task that the request began inherits its origin; the key belongs to the request alone.
            given.idempotency_key = given.fingerprint = ""
            response.headers["X-Correlation-Id"] = given.correlation_id
            return response

        return handle_with_origin


async def _origin_of(request: Request) -> Origin:
    """Read the headers that matter to a step. Raises Problem 400 for a malformed one."""
    headers = request.headers
    correlation_id = headers.get("x-correlation-id")
    if correlation_id is None:
        correlation_id = uuid.uuid4().hex
    else:
        _check_header("X-Correlation-Id", correlation_id)
    traceparent = headers.get("traceparent", "")
    if traceparent and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = ""  # W3C Trace Context: one that cannot be read is left out, and a new trace begins
    tracestate = ",".join(headers.getlist("tracestate")) if traceparent else ""
    if not _TRACESTATE.fullmatch(tracestate):
        tracestate = ""  # which leaves the trace as it is
    given = Origin(correlation_id, traceparent, tracestate=tracestate)
    keys = headers.getlist("idempotency-key")
    if keys and request.method in _CHANGING:
        if len(keys) > 1:
            raise _malformed("Idempotency-Key", "comes more than once")
        _check_header("Idempotency-Key", keys[0])
        given.idempotency_key = _own(keys[0], request)
        given.fingerprint = await _fingerprint(request, given.idempotency_key)
        given.guarded = True
    return given


def _no_step_left_open(request: Request, given: Origin) -> None:
    """Refuse to answer what is not committed."""
    if given.steps:
        service = given.steps[-1].outgoing.service
        raise UsageError(
            f"{request.method} {request.scope['path']}: a step of {service} is open when the answer is sent, so "
            "the client would be told of something that may not be committed. A dependency with `yield` in which "
            'a step is open needs Depends(..., scope="function"); so does everything that depends on it'
        )


def _admitted(endpoint: Callable[..., Any]) -> Callable[..., Any]:
    """The endpoint (of any kind: FastAPI looks through the wrapper), for requests that were not answered before."""

    @functools.wraps(endpoint)
    def admitted(*args: Any, **kwargs: Any) -> Any:
        given = current_origin()
        if given is None:
            return endpoint(*args, **kwargs)
        given.admit()
        returned = endpoint(*args, **kwargs)
        if inspect.isawaitable(returned):
            return _flushed(returned, given)
        if given.steps and not (inspect.isgenerator(returned) or inspect.isasyncgen(returned)):
            from_thread.run(given.flush)  # a plain function, which FastAPI runs in a thread
        return returned

    return admitted


async def _flushed(returned: Awaitable[Any], given: Origin) -> Any:
    """What a route returns, when the database has been told: a row that is part of it then has the id that it got."""
    result = await returned
    await given.flush()
    return result


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


def _check_header(name: str, value: str) -> None:
    if not _HEADER_TEXT.fullmatch(value):
        raise _malformed(name, "wants 1 to 255 printable ASCII characters")


def _malformed(name: str, why: str) -> Problem:
    return Problem(400, "Malformed header", f"{name} {why}", type=problems.MALFORMED_HEADER, header=name)


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


def _to_store(request: Request, given: Origin, response: Response, tokens: Tokens | None) -> StoredResponse:
    body = getattr(response, "body", None)
    if not isinstance(body, bytes):
        raise UsageError(
            f"{request.method} {request.scope['path']}: a {type(response).__name__} has no body that could be kept "
            "for its Idempotency-Key; return a response with a body"
        )
    hop_by_hop = {name.strip().lower() for name in response.headers.get("connection", "").split(",")}
    headers = {
        name: ", ".join(response.headers.getlist(name))
        for name in dict.fromkeys(response.headers.keys())
        if name not in _NOT_KEPT and name not in hop_by_hop
    }
    if tokens is not None:
        headers |= tokens.kept(given)
    return StoredResponse(given.idempotency_key, given.fingerprint, response.status_code, headers, body)


def _again(stored: StoredResponse) -> Response:
    return Response(stored.body, stored.status, {**stored.headers, "Idempotency-Replayed": "true"})
