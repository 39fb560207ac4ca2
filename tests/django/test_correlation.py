"""Requests of a Django project: what is published while one is answered belongs to its business flow."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.sessions.desk import published

from ensue.codec import decode_envelope
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
