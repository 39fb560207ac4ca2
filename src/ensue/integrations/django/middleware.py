"""Django's middleware: which business flow a request belongs to.

    MIDDLEWARE = ["ensue.integrations.django.middleware.CorrelationMiddleware", ...]

What is published while the request is answered has its correlation id, in synchronous and asynchronous views. Within
`ensue.integrations.asgi.install_around` the request has its origin, with that id, already: it stays the one there is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase

from ensue.integrations.django.problems import malformed
from ensue.integrations.request_headers import CORRELATION_ID, MalformedHeader, correlation_id_of, trace_of
from ensue.origin import Origin, coming_from, current_origin


class CorrelationMiddleware:
    """Takes X-Correlation-Id from the request, or makes one, and puts it into the answer; takes traceparent and
    tracestate too. A malformed X-Correlation-Id is answered 400, with a problem document.

    Put it first, so that the log lines of the others have the id. See `ensue.logs` for lines that show it.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._asynchronous = iscoroutinefunction(get_response)
        if self._asynchronous:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._asynchronous:
            return self._answer(request)
        if (outer := current_origin()) is not None:
            # A second one would hide the request's Idempotency-Key, and could have made another correlation id.
            return _named(self._get_response(request), outer)
        try:
            origin = origin_of(request)
        except MalformedHeader as error:
            return malformed(request, error)
        with coming_from(origin):
            return _named(self._get_response(request), origin)

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        if (outer := current_origin()) is not None:
            return _named(await self._get_response(request), outer)
        try:
            origin = origin_of(request)
        except MalformedHeader as error:
            return malformed(request, error)
        with coming_from(origin):
            return _named(await self._get_response(request), origin)


def origin_of(request: HttpRequest) -> Origin:
    """Raises MalformedHeader."""
    headers = request.headers
    traceparent, tracestate = trace_of(headers.get("traceparent", ""), headers.get("tracestate", ""))
    return Origin(correlation_id_of(headers.get(CORRELATION_ID)), traceparent, tracestate=tracestate)


def _named(response: Any, origin: Origin) -> HttpResponseBase:
    response.headers.setdefault(CORRELATION_ID, origin.correlation_id)
    return cast("HttpResponseBase", response)
