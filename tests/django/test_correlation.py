"""Requests of a Django project: what is published while one is answered belongs to its business flow."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIHandler
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.sessions.desk import published

from ensue import Service, UsageError
from ensue.codec import decode_envelope
from ensue.integrations.asgi import in_step, install_around, step_in
from ensue.integrations.django import DjangoService
from ensue.integrations.django.publishing import publish

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_what_a_view_publishes_has_the_correlation_id_of_its_request(desk: DjangoService, asynchronous: bool) -> None:
    def place(request: HttpRequest) -> HttpResponse:
        with transaction.atomic(using=desk.using):
            publish(desk, [Opened(ticket_id=1)], None, None, None)
        connections[desk.using].close()
        return HttpResponse("placed")

    async def place_later(request: HttpRequest) -> HttpResponse:
        return await sync_to_async(place)(request)

    def fails(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError

    # A view of either kind, under a handler of the other kind too.
    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path("sync/", place), path("async/", place_later), path("fails/", fails)]
    middleware = ["ensue.integrations.django.middleware.CorrelationMiddleware"]
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=middleware, ALLOWED_HOSTS=["testserver"]):

        def ask(path: str, **headers: str) -> Any:
            if asynchronous:
                client: Any = AsyncClient(raise_request_exception=False)
                return asyncio.run(client.get(path, headers=headers))
            return Client(raise_request_exception=False).get(path, headers=headers)

        given = {"x-correlation-id": "flow 7", "traceparent": TRACE, "tracestate": "a=b"}
        assert ask("/sync/", **given).headers["X-Correlation-Id"] == "flow 7"
        made = ask("/async/").headers["X-Correlation-Id"]
        assert ask("/fails/", **given).headers["X-Correlation-Id"] == "flow 7"
        refused = ask("/sync/", **{"x-correlation-id": "é" * 3})
    first, second = (decode_envelope(each.envelope) for each in published(desk))
    assert (first.correlation_id, first.traceparent) == ("flow 7", TRACE)
    assert second.correlation_id == made != ""
    assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/problem+json")
    assert refused.json()["header"] == "X-Correlation-Id"


async def test_a_request_within_install_around_has_one_correlation_id_and_its_key(tmp_path: Path) -> None:
    around_it, other = [
        Service(f"around-django-{name}", database=f"sqlite:///{tmp_path}/{name}.db", broker="memory://")
        for name in ("one", "two")
    ]
    seen: list[str] = []

    async def later(request: Any) -> HttpResponse:
        seen.append(step_in(request.scope).correlation_id)
        with pytest.raises(UsageError, match="would commit before the answer is known"):
            async with other.step():
                pass
        response = HttpResponse("done", status=201, content_type="text/own")
        response.set_cookie("who", "me")
        return response

    def at_once(request: Any) -> HttpResponse:
        seen.append(step_in(request.scope).correlation_id)
        return HttpResponse("done", status=201, content_type="text/own")

    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path("async/", later), path("sync/", at_once)]
    middleware = ["ensue.integrations.django.middleware.CorrelationMiddleware"]
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=middleware, ALLOWED_HOSTS=["testserver"]):
        handler = in_step(around_it)(ASGIHandler())
        app = install_around(handler, around_it, work=False, principal=lambda request: "everybody")
        async with (
            app.router.lifespan_context(app),
            other.running(work=False),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://testserver") as asks,
        ):
            for where in ("/async/", "/sync/"):
                first, again = [await asks.post(where, headers={"Idempotency-Key": "k"}) for _ in range(2)]
                assert (first.status_code, again.status_code) == (201, 201)
                assert first.headers.get_list("X-Correlation-Id") == [seen[-1]]
                assert len(again.headers.get_list("X-Correlation-Id")) == 1
                assert (again.text, again.headers["Content-Type"]) == ("done", "text/own")
                assert again.headers["Idempotency-Replayed"] == "true"
                assert "Set-Cookie" not in again.headers
