"""Answers that are kept with the step of a request that has an Idempotency-Key, and given again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ensue.errors import UsageError
from ensue.integrations.tokens import PLACES, Tokens
from ensue.message import StoredResponse
from ensue.origin import Origin

#: Headers of an answer that are not given again: those of one connection, those that are made anew, and what the answer
#: told a browser to keep.
_NOT_KEPT = frozenset(
    {
        "age", "connection", "content-length", "date", "ensue-token", "idempotency-replayed", "keep-alive",
        "proxy-authenticate", "proxy-connection", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
        "x-correlation-id",
    }
)  # fmt: skip


async def keep(request: Request, given: Origin, response: Response, tokens: Tokens | None) -> None:
    """Decide by its answer what becomes of the open step: 5xx rolls it back, and one to a key is kept in it."""
    if response.status_code >= 500:
        given.refused = True
    elif given.idempotency_key and given.keep is not None:
        await given.keep(_to_store(request, given, response, tokens))
        given.settled = True


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


def again(stored: StoredResponse, tokens: Tokens | None) -> Response:
    """tokens: of the app, which says by them what the answer's step has written. An app may have had them when the
    answer was kept and not any more: then nobody takes that header, which is for them alone, out."""
    headers = {name: value for name, value in stored.headers.items() if tokens is not None or name != PLACES}
    return Response(stored.body, stored.status, {**headers, "Idempotency-Replayed": "true"})
