"""What a request's headers say of the steps that it begins, whichever framework has read them."""

from __future__ import annotations

import re
import uuid

CORRELATION_ID = "X-Correlation-Id"
#: The type of the problem document that tells of one, RFC 9457.
MALFORMED_HEADER = "urn:ensue:problem:malformed-header"
_TEXT = re.compile(r"[ -~]{1,255}")
#: As long as who takes part in a trace has to hand on.
_TRACESTATE = re.compile(r"[ -~]{0,512}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class MalformedHeader(ValueError):
    """The client's fault: 400. name: of the header. str(): what to send instead, never what was sent."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name} {why}")
        self.name = name


def check_header(name: str, value: str) -> None:
    if not _TEXT.fullmatch(value):
        raise MalformedHeader(name, "wants 1 to 255 printable ASCII characters")


def correlation_id_of(given: str | None) -> str:
    """The one that the client has sent; else (None) a new one. Raises MalformedHeader."""
    if given is None:
        return uuid.uuid4().hex
    check_header(CORRELATION_ID, given)
    return given


def trace_of(traceparent: str, tracestate: str) -> tuple[str, str]:
    """Both headers, W3C Trace Context. One that cannot be read is left out, and a new trace begins; a tracestate alone
    that cannot be read leaves the trace as it is."""
    if not _TRACEPARENT.fullmatch(traceparent):
        return "", ""
    return traceparent, tracestate if _TRACESTATE.fullmatch(tracestate) else ""
