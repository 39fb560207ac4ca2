"""Answers that are kept with the step of a request that has an Idempotency-Key, and given again."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ensue.integrations.given_again import cannot_be_kept, headers_again, kept_headers, says_failed
from ensue.integrations.tokens import Tokens
from ensue.message import StoredResponse
from ensue.origin import Origin


async def keep(request: Request, given: Origin, response: Response, tokens: Tokens | None) -> None:
    """Decide by its answer what becomes of the open step: 5xx rolls it back, and one to a key is kept in it."""
    if says_failed(response.status_code):
        given.refused = True
    elif given.idempotency_key and given.keep is not None:
        await given.keep(_to_store(request, given, response, tokens))
        given.settled = True


def _to_store(request: Request, given: Origin, response: Response, tokens: Tokens | None) -> StoredResponse:
    body = getattr(response, "body", None)
    if not isinstance(body, bytes):
        raise cannot_be_kept(f"{request.method} {request.scope['path']}", response)
    headers = kept_headers(response.headers.items())
    if tokens is not None:
        headers |= tokens.kept(given)
    return StoredResponse(given.idempotency_key, given.fingerprint, response.status_code, headers, body)


def again(stored: StoredResponse, tokens: Tokens | None) -> Response:
    """tokens: of the app, which says by them what the answer's step has written. An app may have had them when the
    answer was kept and not any more: then nobody takes that header, which is for them alone, out."""
    return Response(stored.body, stored.status, headers_again(stored.headers, places=tokens is not None))
