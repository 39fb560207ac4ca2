"""Problem documents as values, RFC 9457: what they say and how they are written. For any framework."""

from __future__ import annotations

import http
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import msgspec

from ensue.integrations.request_headers import MALFORMED_HEADER

MEDIA_TYPE: Final = "application/problem+json"
#: The type of a problem that says no more than its status does.
BLANK: Final = "about:blank"
#: So much of a text that may come from anywhere is told.
TEXT_MAX: Final = 300
_INSTANCE_MAX = 500
_encode = msgspec.json.Encoder(enc_hook=str).encode


class Told(NamedTuple):
    """What a client is told of one kind of problem. title: "" for the status's own phrase."""

    status: int
    title: str
    detail: str
    type: str
    headers: Mapping[str, str] = {}


KEY_USED_BEFORE: Final = Told(
    422,
    "Idempotency-Key used before",
    "This Idempotency-Key came before with another request; a new request needs a new key",
    "urn:ensue:problem:idempotency-mismatch",
)
KEY_ANSWERED_MEANWHILE: Final = Told(
    409,
    "",
    "A request with this Idempotency-Key was answered meanwhile; send this one again to get that answer",
    "urn:ensue:problem:idempotency-conflict",
    {"Retry-After": "1"},
)
BODY_BROKEN_OFF: Final = Told(400, "", "The connection ended before the body did", BLANK)


def malformed_header(why: str) -> Told:
    """why: what `MalformedHeader` says."""
    return Told(400, "Malformed header", why, MALFORMED_HEADER)


def document(
    path: str, /, status: int, title: str = "", detail: str = "", *, type: str = BLANK, chars_max: int = TEXT_MAX,
    **extra: Any,
) -> bytes:  # fmt: skip
    """path: that was asked for, the document's `instance`. extra: further members. chars_max: of the detail."""
    return _encode(
        {
            "type": type,
            "title": title or phrase(status),
            "status": status,
            "detail": printable(detail, chars_max),
            "instance": quote(path, safe="/:@!$&'()*+,;=-._~")[:_INSTANCE_MAX],
            **extra,
        }
    )


def phrase(status: int) -> str:
    """Return the standard's words for a status, e.g. "Not Found"."""
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def printable(text: str, length_max: int = TEXT_MAX) -> str:
    """Return `text` cut to a length and free of lone surrogates, which no UTF-8 can carry."""
    return text[:length_max].encode("utf-8", "replace").decode()
