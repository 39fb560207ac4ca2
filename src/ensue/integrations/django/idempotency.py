"""The Idempotency-Key in Django: a request that is sent twice takes effect once, and gets the same answer.

    @require_POST
    @idempotent
    def place(request: HttpRequest) -> HttpResponse: ...

The answer is a row of the view's own transaction, which is Django's. What counts as the same request, and which answers
are kept, is as in the other frameworks: `request_identity` and `given_again`. See docs/adr/0064.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseBase, UnreadablePostError

from ensue.engine.nesting import check_aside
from ensue.errors import IdempotencyConflict, UsageError
from ensue.integrations.django import project
from ensue.integrations.django.asked import credentials, fingerprint, inner_request
from ensue.integrations.django.problems import malformed, problem
from ensue.integrations.django.service import DjangoService
from ensue.integrations.given_again import cannot_be_kept, headers_again, kept_headers, says_failed
from ensue.integrations.problem_documents import BODY_BROKEN_OFF, KEY_ANSWERED_MEANWHILE, KEY_USED_BEFORE
from ensue.integrations.request_headers import MalformedHeader, check_header
from ensue.integrations.request_identity import CHANGING, own_key
from ensue.message import StoredResponse

V = TypeVar("V", bound=Callable[..., Any])

_HEADER = "Idempotency-Key"
#: Set in a request while its view runs in here.
_WITHIN = "_ensue_idempotent"


@overload
def idempotent(view: V, /) -> V: ...


@overload
def idempotent(
    *, principal: Callable[[Any], str] = credentials, service: DjangoService | None = None
) -> Callable[[V], V]: ...


def idempotent(
    view: Callable[..., Any] | None = None,
    /,
    *,
    principal: Callable[[Any], str] = credentials,
    service: DjangoService | None = None,
) -> Any:
    """A view whose POST, PUT, PATCH and DELETE requests may carry an Idempotency-Key: `@idempotent` above a plain
    function, or above a method of a class-based view (Django's or Django REST framework's).

    It runs in `transaction.atomic`, with a key or without; in a savepoint under ATOMIC_REQUESTS. What it returns with
    5xx is rolled back, as is what raises; any other answer is kept, for a request with a key, in that transaction, and
    is given again to the same request: the view does not run then. An answer that is a template is rendered in it.
    So what lets a client in or not stands above this, `@login_required` say.

    principal: says who asks, of the view's request; two who choose the same key never meet. By default the headers that
    usually say it, a certificate, and `request.user`. service: whose database the answers are kept in, for a project of
    several; else that of settings.ENSUE.
    Raises UsageError for an async view, since Django has no transactions there; and, as a request comes, for a view in
    which another one is so decorated, and for a streaming answer to a key.
    """
    if view is None:
        return functools.partial(_decorated, principal=principal, service=service)
    return _decorated(view, principal=principal, service=service)


class _Asked(NamedTuple):
    key: str
    fingerprint: str


def _decorated(view: Any, *, principal: Callable[[Any], str], service: DjangoService | None) -> Callable[..., Any]:
    name = getattr(view, "__qualname__", repr(view))
    if isinstance(view, type) or not callable(view):
        raise UsageError(f"@idempotent above {name}: expected a view function, or a method of a class-based view")
    if iscoroutinefunction(view):
        raise UsageError(
            f"@idempotent above {name}, which is async, where Django has no transactions: write it as a plain def, "
            "which Django runs in a thread"
        )

    @functools.wraps(view)
    def answered(*given: Any, **named: Any) -> HttpResponseBase:
        request, plain = _request_of(name, given)
        if plain.method not in CHANGING:
            return cast("HttpResponseBase", view(*given, **named))
        return _answer(
            request, plain, functools.partial(view, *given, **named), principal, service or project.service()
        )

    return answered


def _request_of(name: str, given: tuple[Any, ...]) -> tuple[Any, HttpRequest]:
    """The view's first argument, or its second, after `self`; and Django's own request, which that may stand for."""
    for each in given[:2]:
        if isinstance(plain := inner_request(each), HttpRequest):
            return each, plain
    raise UsageError(f"@idempotent above {name}, which was called without a request: it is for views")


def _answer(
    request: Any,
    plain: HttpRequest,
    view: Callable[[], Any],
    principal: Callable[[Any], str],
    service: DjangoService,
) -> HttpResponseBase:
    where = f"{plain.method} {plain.path}"
    if getattr(plain, _WITHIN, False):
        raise UsageError(f"{where}: @idempotent within another @idempotent: one of them keeps the whole answer")
    check_aside(service.name, f"{where}: @idempotent", requested=True)
    try:
        asked = _asked(request, plain, principal)
    except MalformedHeader as error:
        return malformed(plain, error)
    except UnreadablePostError:
        return problem(plain, BODY_BROKEN_OFF)
    setattr(plain, _WITHIN, True)
    try:
        with transaction.atomic(using=service.using):
            if asked is not None and (earlier := service.outlet.answer(asked.key)) is not None:
                return _again(earlier) if earlier.fingerprint == asked.fingerprint else problem(plain, KEY_USED_BEFORE)
            response = view()
            if not isinstance(response, HttpResponseBase):
                raise UsageError(f"{where} returned a {type(response).__name__}, expected an HttpResponse")
            if request is plain and hasattr(response, "accepted_renderer"):
                raise UsageError(
                    f"{where}: @idempotent above a view of Django REST framework, which turns errors into answers "
                    "inside of it: put it above the method of the class, or below @api_view"
                )
            if says_failed(response.status_code):
                transaction.set_rollback(True, using=service.using)
            # A view may also have had it rolled back by itself, and answered that it did not work.
            elif asked is not None and not connections[service.using].needs_rollback:
                response = _complete(request, where, response)
                try:
                    service.outlet.keep_answer(_to_store(asked, response))
                except IdempotencyConflict:
                    return problem(plain, KEY_ANSWERED_MEANWHILE)  # the transaction is marked for rollback by now
            return response
    finally:
        delattr(plain, _WITHIN)


def _asked(request: Any, plain: HttpRequest, principal: Callable[[Any], str]) -> _Asked | None:
    """None: without a key. A key that comes twice is one with a comma here, as WSGI hands it over."""
    given = plain.headers.get(_HEADER)
    if given is None:
        return None
    check_header(_HEADER, given)
    key = own_key(given, principal(request), str(plain.method), plain.path)
    return _Asked(key, fingerprint(request, key))


def _complete(request: Any, where: str, response: Any) -> Any:
    """The answer as it goes out, with its body."""
    if response.streaming:
        raise cannot_be_kept(where, response)
    if not callable(getattr(response, "render", None)) or getattr(response, "is_rendered", False):
        return response
    # What Django does after the view, and its transaction, have ended. Django REST framework says before that how.
    finished = response
    if (framework := getattr(request, "parser_context", {}).get("view")) is not None:
        finished = framework.finalize_response(request, response, *framework.args, **framework.kwargs)
    rendered = finished.render()
    if rendered is response and getattr(rendered, "is_rendered", False):
        return response
    plain = HttpResponse(rendered.content, status=rendered.status_code, headers=dict(rendered.headers))
    plain.cookies = rendered.cookies  # and nobody renders it, or finishes it, once more
    return plain


def _to_store(asked: _Asked, response: Any) -> StoredResponse:
    headers = kept_headers(response.headers.items())
    return StoredResponse(asked.key, asked.fingerprint, response.status_code, headers, response.content)


def _again(earlier: StoredResponse) -> HttpResponse:
    response = HttpResponse(earlier.body, status=earlier.status, headers=headers_again(earlier.headers))
    if "content-type" not in earlier.headers:
        del response.headers["Content-Type"]  # which Django adds where it is not said
    return response
