"""From Django's settings to a service; and what is said of settings that cannot work."""

from __future__ import annotations

import importlib
import sys
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.apps import apps
from django.db import connections
from django.test import override_settings
from tests.django.conftest import database_at
from tests.django.desk.contracts import CountDjangoTicket
from tests.django.desk.contracts import DjangoTicketOpened as Opened

from ensue.cli.main import app as command_line
from ensue.errors import UsageError
from ensue.integrations.django import DjangoService, project
from ensue.integrations.django.checks import check_settings, check_tables
from ensue.integrations.django.management.commands.ensue import GROUPS, TARGET, target_in, with_target, without_djangos
from ensue.integrations.django.service import services
from ensue.integrations.django.urls_of import database_url
from ensue.stores.postgres.url import parse


@pytest.fixture(autouse=True)
def _fresh() -> Any:
    project.service.cache_clear()
    yield
    project.service.cache_clear()


def said(**ensue: Any) -> str:
    with override_settings(ENSUE=ensue):
        return " ".join(f"{each.id} {each.msg}" for each in check_settings())


def test_settings_that_cannot_work_are_told_of() -> None:
    database_at("default", ENGINE="django.db.backends.sqlite3", NAME="none.db")
    assert "E001 settings.ENSUE is {}: expected at least the service's name" in said()
    assert "E001 settings.ENSUE has BROKERS; expected SERVICE, USING, BROKER" in said(SERVICE="desk", BROKERS="x")
    assert "E001 settings.ENSUE['USING'] is 'other', which DATABASES has not" in said(SERVICE="desk", USING="other")
    assert "E001 settings.ENSUE['PUBLISHES']: Module" in said(
        SERVICE="desk", PUBLISHES=["tests.django.desk.contracts.None_"]
    )
    assert "E001 settings.ENSUE['PUBLISHES'] is 'x', expected a list" in said(SERVICE="desk", PUBLISHES="x")
    assert said(SERVICE="desk").startswith("ensue.W001 DATABASES['default']: a transaction that has read")
    database_at(
        "default", ENGINE="django.db.backends.sqlite3", NAME="none.db", OPTIONS={"transaction_mode": "IMMEDIATE"}
    )
    assert said(SERVICE="desk", PUBLISHES=["tests.django.desk.contracts.DjangoTicketOpened"]) == ""
    database_at("far", ENGINE="django.db.backends.postgresql", NAME="desk", OPTIONS={"isolation_level": 4})
    assert said(SERVICE="desk", USING="far").startswith("ensue.W003 DATABASES['far']: isolation_level")


def test_a_module_of_events_may_declare_handlers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Django starts it asks for the service before all that this publishes is declared."""
    names = [f"tests.django.desk.early.Early{each}" for each in ("Asked", "Answered")]
    with override_settings(ENSUE={"SERVICE": "desk", "BROKER": "memory:", "PUBLISHES": names}):
        monkeypatch.setattr(apps, "ready", False)
        early = importlib.import_module("tests.django.desk.early")
        assert project.service().publishes is None
        project.declare_publications(project.service())
        assert project.service().publishes == (early.EarlyAsked, early.EarlyAnswered)
        assert project.service().subscribed_topics == ("django.early",)


def test_commands_that_sagas_call_are_known_before_sagas_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    database_at("default", ENGINE="django.db.backends.sqlite3", NAME="none.db")
    assert "E001 settings.ENSUE['CALLS'] is 'x', expected a list" in said(SERVICE="desk", CALLS="x")
    monkeypatch.delitem(sys.modules, "tests.django.desk.early", raising=False)
    assert "CALLS'] names a command in a module that declares handlers" in said(
        SERVICE="desk", CALLS=["tests.django.desk.early.EarlyAsked"]
    )
    names = ["tests.django.desk.contracts.CountDjangoTicket"]
    with override_settings(ENSUE={"SERVICE": "desk", "BROKER": "memory:", "CALLS": names}):
        monkeypatch.setattr(apps, "ready", False)
        assert project.service().calls == (CountDjangoTicket,)


def test_tables_that_are_missing_or_anothers_are_told_of(desk: DjangoService, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(service: str) -> str:
        services.clear()
        project.service.cache_clear()
        with override_settings(ENSUE={"SERVICE": service, "USING": desk.using, "BROKER": "memory:"}):
            assert check_tables() == []  # nobody asks for the database
            return " ".join(str(each.id) for each in check_tables(databases=[desk.using]))

    assert said("django-desk") == ""
    assert said("other-desk") == "ensue.E005"
    with connections[desk.using].cursor() as cursor:
        cursor.execute("UPDATE ensue_meta SET schema_version = 1")
        cursor.execute("DROP TABLE ensue_decision")
    assert said("django-desk") == "ensue.E004 ensue.E006"
    with connections[desk.using].cursor() as cursor:
        cursor.execute("DROP TABLE ensue_meta")
    assert said("django-desk") == "ensue.W002"
    monkeypatch.setattr(sys, "argv", ["manage.py", "migrate"])  # which makes them
    assert said("django-desk") == ""


def test_the_url_says_what_databases_says() -> None:
    database_at(
        "far", ENGINE="django.db.backends.postgresql", NAME="de/sk", USER="an:n", PASSWORD="p@s%s", HOST="::1",
        PORT=5433, OPTIONS={
            "sslmode": "require", "isolation_level": 2, "pool": True, "options": "-c work_mem=8MB",
            "server_side_binding": True, "prepare_threshold": 5,
        },
    )  # fmt: skip
    url = database_url(connections["far"], {"outbox": "wal"})
    parts = urlsplit(url)
    assert (parts.username, parts.password, parts.hostname, parts.port) == ("an%3An", "p%40s%25s", "::1", 5433)
    assert parse_qs(parts.query) == {
        "sslmode": ["require"], "options": ["-c work_mem=8MB -c TimeZone=UTC"], "outbox": ["wal"],
    }  # fmt: skip
    assert (parse(url).driver, parse(url).outbox) == ("psycopg", "wal")
    with pytest.raises(UsageError, match="store_options has schema"):
        database_url(connections["far"], {"schema": "desk"})

    database_at("near", ENGINE="django.db.backends.postgresql", NAME="desk", HOST="/run/postgresql")
    assert database_url(connections["near"], {}).startswith("postgresql+psycopg:///desk?")
    assert parse_qs(urlsplit(database_url(connections["near"], {})).query)["host"] == ["/run/postgresql"]


def test_databases_that_a_worker_cannot_share_are_refused() -> None:
    database_at("far", ENGINE="django.db.backends.postgresql", NAME="desk", OPTIONS={"assume_role": "a boss"})
    for options in ({"pgbouncer": True}, {"outbox": "wal"}):
        with pytest.raises(UsageError, match="assume_role"):
            database_url(connections["far"], options)
    [said] = parse_qs(urlsplit(database_url(connections["far"], {})).query)["options"]
    assert said.startswith(r"-c role=a\ boss ")
    database_at("far", ENGINE="django.db.backends.postgresql", NAME="desk", OPTIONS={"cursor_factory": object})
    with pytest.raises(UsageError, match="OPTIONS has cursor_factory, which is not for libpq"):
        database_url(connections["far"], {})
    database_at("odd", ENGINE="django.db.backends.dummy")
    with pytest.raises(UsageError, match="Ensue works with Django on SQLite and PostgreSQL"):
        database_url(connections["odd"], {})
    database_at("memory", ENGINE="django.db.backends.sqlite3", NAME=":memory:")
    with pytest.raises(UsageError, match="a worker has others"):
        DjangoService("django-desk", using="memory", publishes=[Opened]).make_store()


def test_the_command_may_say_which_settings_as_every_command_of_django() -> None:
    assert without_djangos(["run", "--settings", "shop.live", "--processes", "2"]) == ["run", "--processes", "2"]
    assert without_djangos(["--pythonpath=src", "gaps", "list", "--settings=shop.live"]) == ["gaps", "list"]


def test_the_command_names_the_service_where_ensue_wants_it() -> None:
    assert with_target(["run", "--processes", "2"]) == ["run", TARGET, "--processes", "2"]
    assert with_target(["dead_letters", "retry", "a/0:1"]) == ["dead-letters", "retry", TARGET, "a/0:1"]
    assert with_target(["gaps", "list"]) == ["gaps", "list", TARGET]
    assert target_in(["status", "--json"]) == (["status", "--json"], TARGET)
    assert target_in(["run", "--service=till"]) == (["run"], "ensue.integrations.django.target:till")
    assert {each.name for each in command_line.registered_groups} == GROUPS
