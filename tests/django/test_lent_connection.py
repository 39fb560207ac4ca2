"""What others expect of a connection of Django's: its signal, its types, its wrappers, its cursor. In a handler too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.contrib.postgres.signals import get_citext_oids, get_hstore_oids, register_type_handlers
from django.db import close_old_connections, connections
from django.db.backends.signals import connection_created
from tests.django.conftest import database_at
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Ticket
from tests.django.desk.pointed.base import Point
from tests.django.test_handlers import handle, tickets

from ensue.integrations.django import DjangoService

on_sqlite = pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("alias", ["postgres"], indirect=True)


@contextmanager
def created(*receivers: Callable[..., Any]) -> Iterator[None]:
    for each in receivers:
        connection_created.connect(each)
    try:
        yield
    finally:
        for each in receivers:
            connection_created.disconnect(each)


@on_sqlite
def test_receivers_of_connection_created_are_told_of_the_lent_one(desk: DjangoService) -> None:
    """Functions are registered, pragmas are the store's affair, and a wrapper is called once for each statement."""
    statements: list[str] = []

    def wrap(execute: Any, sql: str, *more: Any) -> Any:
        statements.append(sql)
        return execute(sql, *more)

    def register(connection: Any, **_: Any) -> None:
        connection.connection.create_function("twice", 1, lambda value: 2 * value)
        with connection.cursor() as cursor:
            cursor.execute("PRAGMA synchronous = OFF")
        connection.execute_wrappers.append(wrap)

    @desk.on
    def opened(event: Opened) -> None:
        close_old_connections()  # as libraries do; a step's connection is none of those
        with connections[desk.using].cursor() as cursor:
            cursor.execute("SELECT twice(%s)", [event.ticket_id])
            [twice] = cursor.fetchone()
        Ticket.objects.using(desk.using).create(id=twice)

    with created(register):
        assert handle(desk, Opened(ticket_id=1), Opened(ticket_id=2)) == []
    assert list(tickets(desk)) == [2, 4]
    assert statements.count("SELECT twice(%s)") == 2


@on_sqlite
def test_a_script_which_would_commit_before_it_is_refused(desk: DjangoService) -> None:
    @desk.on
    def opened(event: Opened) -> None:
        Ticket.objects.using(desk.using).create(id=1)
        with connections[desk.using].cursor() as cursor:
            cursor.executescript("SELECT 1;")

    [error] = handle(desk, Opened(ticket_id=1))
    assert "sqlite3 commits before it" in error
    assert tickets(desk) == {}


@on_postgres
def test_types_that_are_registered_on_djangos_connections_are_known_in_a_handler(desk: DjangoService) -> None:
    """By a receiver, as that of HStoreField; and by a backend as it connects, as that of PostGIS."""
    with connections[desk.using].cursor() as cursor:
        cursor.execute("CREATE EXTENSION IF NOT EXISTS hstore")
        cursor.execute("CREATE TABLE desk_map (notes hstore, place text)")
    connections[desk.using].close()
    database_at(desk.using, **{**connections.settings[desk.using], "ENGINE": "tests.django.desk.pointed"})
    seen: list[Any] = []

    @desk.on
    def opened(event: Opened) -> None:
        with connections[desk.using].cursor() as cursor:
            cursor.execute("INSERT INTO desk_map VALUES (%s, %s) RETURNING notes, place", [{"by": "ann"}, Point(1, 2)])
            seen.append(cursor.fetchone())

    for each in (get_hstore_oids, get_citext_oids):
        each.cache_clear()
    with created(register_type_handlers):
        assert handle(desk, Opened(ticket_id=1)) == []
    assert seen == [({"by": "ann"}, "1|2")]


@on_postgres
def test_copy_is_part_of_the_step(desk: DjangoService) -> None:
    read: list[Any] = []

    @desk.on
    def opened(event: Opened) -> None:
        with connections[desk.using].cursor() as cursor:
            with cursor.copy("COPY desk_comment (ticket_id, text) FROM STDIN") as copy:
                for number in range(3):
                    copy.write_row((event.ticket_id, f"{number} of {event.ticket_id}"))
            with cursor.copy("COPY (SELECT text FROM desk_comment ORDER BY text) TO STDOUT") as copy:
                read.append([text for (text,) in copy.rows()])
            with cursor.copy("COPY desk_comment (text) TO STDOUT") as copy:
                assert b"".join(copy).count(b"\n") == 3
        Ticket.objects.using(desk.using).create(id=event.ticket_id)
        if event.ticket_id == 2:
            raise ValueError("and then fails")

    [error] = handle(desk, Opened(ticket_id=2), Opened(ticket_id=1))
    assert "and then fails" in error
    assert set(map(tuple, read)) == {tuple(f"{at} of {of}" for at in range(3)) for of in (1, 2)}
    with connections[desk.using].cursor() as cursor:
        cursor.execute("SELECT count(*), min(ticket_id), max(ticket_id) FROM desk_comment")
        assert cursor.fetchone() == (3, 1, 1)


@on_postgres
def test_a_handler_has_the_role_that_django_assumes(desk: DjangoService) -> None:
    def server(statement: str) -> None:
        with connections[desk.using].cursor() as cursor:
            cursor.execute(statement)
        connections[desk.using].close()

    server('DROP ROLE IF EXISTS "django boss"')  # of a run that was killed: it is the whole server's
    server('CREATE ROLE "django boss" SUPERUSER')
    seen: list[str] = []

    @desk.on
    def opened(event: Opened) -> None:
        with connections[desk.using].cursor() as cursor:
            cursor.execute("SELECT current_user")
            seen.extend(cursor.fetchone())

    known = connections.settings[desk.using]
    try:
        database_at(desk.using, **{**known, "OPTIONS": {"assume_role": "django boss"}})
        assert handle(desk, Opened(ticket_id=1)) == []
    finally:
        database_at(desk.using, **known)
        server('DROP OWNED BY "django boss"')
        server('DROP ROLE "django boss"')
    assert seen == ["django boss"]
