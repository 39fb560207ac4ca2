"""`publish` in Django's transactions: with the rows or not at all, savepoint by savepoint."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connections, transaction
from django.db.transaction import TransactionManagementError
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Ticket
from tests.sessions.desk import made_by, published

from ensue.errors import UsageError
from ensue.integrations.django import DjangoService
from ensue.integrations.django.publishing import _call_once, publish


def tell(desk: DjangoService, *events: object, **options: Any) -> None:
    publish(desk, events, None, options.get("after"), options.get("at"))


def ids(desk: DjangoService) -> list[int]:
    return [Opened.__ensue_event_type__.read(each.data).ticket_id for each in published(desk)]  # type: ignore[attr-defined]


def rows(desk: DjangoService) -> list[int]:
    return list(Ticket.objects.using(desk.using).order_by("id").values_list("id", flat=True))


def _tell_and_fail(desk: DjangoService, number: int) -> None:
    with transaction.atomic(using=desk.using):
        Ticket.objects.using(desk.using).create(id=number)
        with transaction.atomic(using=desk.using):
            tell(desk, Opened(ticket_id=number))
        raise ZeroDivisionError


def test_an_event_goes_with_its_rows(desk: DjangoService) -> None:
    with transaction.atomic(using=desk.using):
        Ticket.objects.using(desk.using).create(id=1)
        tell(desk, Opened(ticket_id=1, text="50 % of it"), Opened(ticket_id=2))
    with pytest.raises(ZeroDivisionError):
        _tell_and_fail(desk, 3)
    assert (rows(desk), ids(desk)) == ([1], [1, 2])
    assert made_by(desk) == 2


def test_an_event_goes_with_its_savepoint(desk: DjangoService) -> None:
    with transaction.atomic(using=desk.using):
        tell(desk, Opened(ticket_id=1))
        with pytest.raises(ZeroDivisionError):
            _tell_and_fail(desk, 2)
        with transaction.atomic(using=desk.using):
            tell(desk, Opened(ticket_id=4))
    assert ids(desk) == [1, 4]


def test_outside_of_a_transaction_it_is_refused(desk: DjangoService) -> None:
    with pytest.raises(UsageError, match=r"publish\(DjangoTicketOpened\) outside of a transaction.*atomic\("):
        tell(desk, Opened(ticket_id=1))
    # As in a TestCase, whose own blocks do not count.
    block = transaction.Atomic(desk.using, True, False)
    block._from_testcase = True
    with block:
        with pytest.raises(UsageError, match="outside of a transaction"):
            tell(desk, Opened(ticket_id=1))
        with transaction.atomic(using=desk.using):
            tell(desk, Opened(ticket_id=2))
    assert ids(desk) == [2]


def test_in_a_broken_transaction_it_is_refused(desk: DjangoService) -> None:
    Ticket.objects.using(desk.using).create(id=1)
    with transaction.atomic(using=desk.using):
        with pytest.raises(IntegrityError):
            Ticket.objects.using(desk.using).create(id=1)
        with pytest.raises(TransactionManagementError):
            tell(desk, Opened(ticket_id=1))
        transaction.set_rollback(True, using=desk.using)
    assert ids(desk) == []


def test_after_an_event_that_could_not_be_written_nothing_is_committed(desk: DjangoService) -> None:
    with connections[desk.using].cursor() as cursor:
        cursor.execute("ALTER TABLE ensue_outbox RENAME TO ensue_outbox_gone")
    with transaction.atomic(using=desk.using):
        Ticket.objects.using(desk.using).create(id=1)
        with pytest.raises(Exception, match="ensue_outbox") as raised:
            tell(desk, Opened(ticket_id=1))
    assert type(raised.value).__module__ == "django.db.utils"
    assert rows(desk) == []


def test_an_event_for_later_waits_with_the_timers(desk: DjangoService) -> None:
    with transaction.atomic(using=desk.using):
        tell(desk, Opened(ticket_id=1), after=datetime.timedelta(hours=1))
    with connections[desk.using].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM ensue_timer")
        assert cursor.fetchone() == (1,)
    assert ids(desk) == []


def test_a_transaction_has_one_callback_however_much_is_published(alias: str) -> None:
    """And one of a savepoint that is rolled back is not counted on."""
    connection: Any = connections[alias]
    calls: list[str] = []

    def call() -> None:
        calls.append("called")

    with transaction.atomic(using=alias):
        block = transaction.atomic(using=alias)
        block.__enter__()
        _call_once(connection, call)
        block.__exit__(ZeroDivisionError, None, None)
        with transaction.atomic(using=alias):
            _call_once(connection, call)
            _call_once(connection, call)
        _call_once(connection, call)
        assert len(connection.run_on_commit) == 2  # the inner one's may yet have been taken back
        _call_once(connection, call)
        assert len(connection.run_on_commit) == 2
    assert calls == ["called", "called"]
    block = transaction.Atomic(alias, True, False)
    block._from_testcase = True
    with block, transaction.atomic(using=alias):
        _call_once(connection, call)
        assert connection.run_on_commit == []


def test_on_an_event_loop_it_says_where_to_publish(desk: DjangoService) -> None:
    def write() -> None:
        with transaction.atomic(using=desk.using):
            Ticket.objects.using(desk.using).create(id=1)
            tell(desk, Opened(ticket_id=1))
        connections[desk.using].close()

    async def view() -> None:
        with pytest.raises(UsageError, match=r"publish\(DjangoTicketOpened\) on an event loop.*sync_to_async"):
            tell(desk, Opened(ticket_id=2))
        await sync_to_async(write, thread_sensitive=False)()

    asyncio.run(view())
    assert (rows(desk), ids(desk)) == ([1], [1])


def test_without_ensues_tables_it_says_so(alias: str) -> None:
    desk = DjangoService("django-desk", using=alias, broker="memory:")
    with pytest.raises(UsageError, match="where Ensue's tables are not"), transaction.atomic(using=alias):
        tell(desk, Opened(ticket_id=1))


def test_djangos_connection_stays_as_it_was(desk: DjangoService) -> None:
    """SQLAlchemy meets it for the first time, and does not begin, end or configure anything."""
    connection: Any = connections[desk.using]
    with transaction.atomic(using=desk.using):
        Ticket.objects.using(desk.using).create(id=1, text="Abc")
        tell(desk, Opened(ticket_id=1))
        raw = connection.connection
        assert Ticket.objects.using(desk.using).filter(text__iregex="^a.c$").count() == 1
    tell_in = transaction.atomic(using=desk.using)
    with tell_in:
        tell(desk, Opened(ticket_id=2))
    assert connection.connection is raw
    assert ids(desk) == [1, 2]
    asyncio.run(_opens(desk))


async def _opens(desk: DjangoService) -> None:
    async with desk.running(work=False):
        pass
