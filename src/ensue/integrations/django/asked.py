"""What a request of Django's says of who asks for what: see `ensue.integrations.request_identity`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

from django.core.handlers.wsgi import LimitedStream
from django.http import HttpRequest, RawPostDataException, UnreadablePostError

from ensue.integrations.request_identity import body_parts, credentials_of, fingerprint_of

#: Where servers say whose certificate, or whom, they have let in.
_OF_SERVER = ("REMOTE_USER", "SSL_CLIENT_S_DN", "SSL_CLIENT_CERT")


def inner_request(request: Any) -> Any:
    """Django's own, where Django REST framework has put one of its own around it."""
    return getattr(request, "_request", request)


def credentials(request: Any) -> str:
    """Who asks, unless `idempotent(principal=...)` says better.

    The headers by which clients or proxies usually say it (Authorization, Cookie, X-API-Key, X-Forwarded-User and
    whatever else is named like that), a client's certificate or user that the server has let in, and `request.user`. A
    client that renews its token, or whose cookies change, between two tries is another principal to it, so that its
    request takes effect twice.
    """
    plain = inner_request(request)
    headers = ((name.lower(), value) for name, value in plain.headers.items())
    tls = (getattr(plain, "scope", {}).get("extensions") or {}).get("tls") or {}
    certificate = [tls.get(name) for name in ("client_cert_name", "client_cert_chain")]
    certificate += [plain.META.get(name) for name in _OF_SERVER]
    user = getattr(request, "user", None)
    known = getattr(user, "is_authenticated", False)
    # Django REST framework may know a client, and no user of it.
    who = user if known else getattr(request, "auth", None)
    return credentials_of(headers, certificate, "" if who is None else _named(who))


def _named(user: Any) -> str:
    """pk: None of a user that is in no database, as a gateway's is; of two models of users, each counts by itself."""
    pk, kind = getattr(user, "pk", None), user.__class__  # that in a lazy object
    return repr((f"{kind.__module__}.{kind.__qualname__}", str(user if pk is None else pk)))


def fingerprint(request: Any, own_key: str) -> str:
    """Raises what reading the body does; UnreadablePostError also where it ends too early."""
    plain = inner_request(request)
    return fingerprint_of(
        own_key, plain.META.get("QUERY_STRING", "").encode("utf-8", "surrogatepass"), _parts(plain, request)
    )


def _parts(request: HttpRequest, given: Any) -> Iterator[bytes]:
    """given: the request as the view has it. Django REST framework parses forms of any method, by its own parsers."""
    if request.content_type == "multipart/form-data" and (request.method == "POST" or given is not request):
        # Read by Django's parser, as the check of CSRF tokens may have done already; files may be larger than memory.
        yield str(request.content_type).encode()
        fields = given.POST
        stream = getattr(request, "_stream", None)
        if isinstance(stream, LimitedStream) and stream._pos < stream.limit:
            # The parser takes an early end for the end, and the check of CSRF tokens passes over an error.
            raise UnreadablePostError(f"{stream._pos} of {stream.limit} bytes")
        for name, values in fields.lists():
            for value in values:
                yield from _encoded("field", name, value)
        for name, files in given.FILES.lists():
            for each in files:
                yield from _encoded("file", name, each.name, each.content_type or "")
                digest = hashlib.sha256()
                for chunk in each.chunks():
                    digest.update(chunk)
                each.seek(0)
                yield digest.digest()
        return
    try:
        body = request.body
    except RawPostDataException:
        if given is request:
            raise
        # Before the view somebody, a permission say, has asked for what the body says.
        yield str(request.content_type).encode()
        yield json.dumps(given.data, sort_keys=True, default=str).encode()
        return
    told = request.META.get("CONTENT_LENGTH") or ""
    if told.isdecimal() and len(body) < int(told):  # so a server says that the client has gone
        raise UnreadablePostError(f"{len(body)} of {told} bytes")
    yield from body_parts(request.META.get("CONTENT_TYPE", ""), body)


def _encoded(*texts: str) -> Iterator[bytes]:
    for each in texts:
        yield each.encode("utf-8", "surrogatepass")
