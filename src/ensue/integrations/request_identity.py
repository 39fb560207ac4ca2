"""Who asks for what: what an Idempotency-Key belongs to, and what makes two requests the same. For any framework."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from email.message import Message
from typing import Any

from ensue.errors import UsageError

#: Methods of requests that may change something: only there a key means something.
CHANGING = frozenset({"POST", "PUT", "PATCH", "DELETE"})
#: Names of headers by which clients say who they are, or a proxy says whom it has let in. Not Ensue-Token, by
#: which each try says what its client has seen by then, nor a token against forged requests, which is another one on
#: each page and proves no identity.
_CREDENTIALS = re.compile(
    "(?!(?:ensue-token|x-csrf-?token|x-xsrf-token)$).*(?:account|api-?key|assertion|auth|cert|cookie|email|identity|jwt|login|principal|session|subject"
    "|tenant|token|user(?!-agent))"
)


def credentials_of(headers: Iterable[tuple[str, str]], certificate: Sequence[object], user: str) -> str:
    """Who asks, by what a request says. headers: all of them, their names in lower case. user: whom the framework has
    let in, empty: nobody."""
    return repr([sorted(each for each in headers if _CREDENTIALS.match(each[0])), list(certificate), user])


def own_key(key: str, principal: object, method: str, path: str) -> str:
    """The key as this principal's own, for this method and path: two principals who choose the same one never meet,
    here or where a step hands it on, and neither do two routes. The client's key is the secret of the hash, so that no
    credentials can be guessed from what is stored. Raises UsageError for a principal that is no text."""
    if not isinstance(principal, str):
        raise UsageError(
            f"{method} {path!r}: principal= returned a {type(principal).__name__}, expected a str that names who asks "
            '("" for nobody in particular)'
        )
    digest = hmac.new(key.encode(), digestmod=hashlib.sha256)
    for part in (principal, method, path):
        _add(digest, part.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def fingerprint_of(own_key: str, query: bytes, parts: Iterable[bytes]) -> str:
    """Hash what makes two requests the same: who asks for what (in the key), the query, the body and its type."""
    digest = hashlib.sha256()
    _add(digest, own_key.encode())
    _add(digest, query)
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()


def body_parts(content_type: str, body: bytes) -> Iterable[bytes]:
    """A request's media type and body. A form in parts is without its boundary, which clients draw anew each time."""
    parsed = Message()
    parsed["content-type"] = content_type
    boundary = parsed.get_boundary() if parsed.get_content_maintype() == "multipart" else None
    yield parsed.get_content_type().encode()
    yield from body.split(b"--" + boundary.encode()) if boundary else (body,)


def _add(digest: Any, part: bytes) -> None:
    digest.update(b"%d:" % len(part))  # so that nothing can move from one part into the next
    digest.update(part)
