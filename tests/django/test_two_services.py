"""A project of two services, each with a database of its own: whose an event is, is declared, or said."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from tests.django.conftest import database_at
from tests.django.desk.contracts import DjangoTicketClosed as Closed
from tests.django.desk.contracts import DjangoTicketCount as Counted
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.test_handlers import handle
from tests.sessions.desk import published

from ensue.codec import decode_envelope
from ensue.errors import UsageError
from ensue.integrations.django import DjangoService, project, publish
from ensue.integrations.django.checks import check_tables
from ensue.integrations.django.operations import make_tables
from ensue.integrations.django.service import services

pytestmark = pytest.mark.parametrize("alias", ["sqlite"], indirect=True)


@pytest.fixture
def till(desk: DjangoService, tmp_path: Path) -> Iterator[DjangoService]:
    """Another service, in the database of another alias, beside the desk."""
    before = {name: service for name, service in services.items() if name not in ("django-desk", "django-till")}
    for name in before:  # of other tests, and not yet collected
        services.pop(name, None)
    options = {"transaction_mode": "IMMEDIATE"}
    database_at("till", ENGINE="django.db.backends.sqlite3", NAME=str(tmp_path / "till.db"), OPTIONS=options)
    service = DjangoService("django-till", using="till", broker="memory:", publishes=[Counted, Closed])
    with connections["till"].schema_editor() as editor:
        make_tables(editor, service)
    yield service
    services.pop("django-till", None)
    services.update(before)
    connections["till"].close()


def told(service: DjangoService) -> list[str]:
    return [decode_envelope(each.envelope).type for each in published(service)]


def test_an_event_goes_out_with_the_service_that_declares_it(desk: DjangoService, till: DjangoService) -> None:
    with transaction.atomic(), transaction.atomic(using="till"):
        publish(Opened(ticket_id=1))
        publish(Counted(ticket_id=1, count=1))
        with pytest.raises(UsageError, match="services django-desk, django-till of this project publish that"):
            publish(Closed(ticket_id=1))
        publish(Closed(ticket_id=1), service=till)
    assert told(desk) == ["django.desk.DjangoTicketOpened.v1"]
    assert told(till) == ["django.desk.DjangoTicketCount.v1", "django.desk.DjangoTicketClosed.v1"]
    with pytest.raises(UsageError, match=r"atomic\(using='till'\)"), transaction.atomic():
        publish(Counted(ticket_id=1, count=1))


def test_a_command_and_a_check_know_both(
    desk: DjangoService, till: DjangoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "service", lambda: desk)
    target = importlib.reload(importlib.import_module("ensue.integrations.django.target"))
    assert (target.service, getattr(target, "django-till")) == (desk, till)
    with pytest.raises(UsageError, match="no service 'bank', but django-desk, django-till"):
        _ = target.bank
    assert check_tables(databases=[desk.using, "till"]) == []
    with connections["till"].cursor() as cursor:
        cursor.execute("DROP TABLE ensue_decision")
    [found] = check_tables(databases=[desk.using, "till"])
    assert found.id == "ensue.E006"


def test_in_a_handler_another_services_event_is_none_of_the_steps(desk: DjangoService, till: DjangoService) -> None:
    def also(using: str, **options: Any) -> None:
        with transaction.atomic(using=using):
            publish(Counted(ticket_id=1, count=1), **options)

    @desk.on
    def opened(event: Opened) -> None:
        publish(Closed(ticket_id=event.ticket_id))  # both declare it, and this is one of them
        if event.ticket_id == 2:
            also("till", service=till)
        if event.ticket_id == 1:
            also("till")

    @desk.on
    def closed(event: Closed) -> None: ...

    [error] = handle(desk, Opened(ticket_id=1), Opened(ticket_id=2), count=3)
    assert "is for service django-till, and this is a handler of django-desk" in error
    # Once for each time that the handler of the second one ran, and never for the first one.
    assert set(told(till)) == {"django.desk.DjangoTicketCount.v1"}
