"""Django in this process, and a service on SQLite and on PostgreSQL: its database, tables and connections."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import django
import pytest

# What it sets for the whole process is taken back: other tests have their own zone, and other projects.
_before = dict(os.environ)
os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.settings"
django.setup()
for _name in ("DJANGO_SETTINGS_MODULE", "TZ"):
    os.environ.pop(_name, None)
    if _name in _before:
        os.environ[_name] = _before[_name]
time.tzset()

from django.db import connections  # noqa: E402
from servers import PostgresServer  # noqa: E402
from tests.django.desk.contracts import DjangoTicketClosed, DjangoTicketOpened  # noqa: E402
from tests.django.desk.models import Comment, Ticket  # noqa: E402

from ensue.integrations.django import DjangoService  # noqa: E402
from ensue.integrations.django.operations import make_tables  # noqa: E402


def database_at(alias: str, **known: Any) -> None:
    """Give an alias another database, in this thread and all that come."""
    if alias in connections.settings:
        connections[alias].close()
        delattr(connections._connections, alias)
    settings = connections.configure_settings({"default": {}, alias: known})
    connections.settings[alias] = settings[alias]


@pytest.fixture(params=["sqlite", "postgres"])
def alias(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Of an empty database."""
    if request.param == "sqlite":
        options = {"transaction_mode": "IMMEDIATE"}
        database_at("default", ENGINE="django.db.backends.sqlite3", NAME=str(tmp_path / "desk.db"), OPTIONS=options)
        yield "default"
        connections["default"].close()
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.drop("django_desk")
    url = urlsplit(server.url("django_desk", "postgresql"))
    database_at(
        "server", ENGINE="django.db.backends.postgresql", NAME="django_desk", USER=url.username or "",
        PASSWORD=url.password or "", HOST=url.hostname or "", PORT=str(url.port or ""),
    )  # fmt: skip
    yield "server"
    connections["server"].close()
    server.drop("django_desk")


@pytest.fixture
def desk(alias: str) -> DjangoService:
    """A service whose tables are there, as a migration makes them, and those of the application."""
    options = {"synchronous": "OFF"} if alias == "default" else {}
    service = DjangoService(
        "django-desk", using=alias, broker="memory:", partitions=2, store_options=options,
        publishes=[DjangoTicketOpened, DjangoTicketClosed],
    )  # fmt: skip
    with connections[alias].schema_editor() as editor:
        make_tables(editor, service)
        editor.create_model(Ticket)
        editor.create_model(Comment)
    return service
