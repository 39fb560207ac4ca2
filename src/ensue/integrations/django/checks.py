"""What `manage.py check` says: whether settings, database and Ensue's tables fit each other."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.db import DatabaseError, connections

from ensue import tables
from ensue.errors import UsageError
from ensue.integrations.django.project import all_services, project_settings, service
from ensue.integrations.django.service import DjangoService
from ensue.integrations.django.urls_of import database_url

#: Of psycopg's IsolationLevel.
_SERIALIZABLE = 4


def _has_psycopg_3() -> bool:
    from django.db.backends.postgresql.psycopg_any import is_psycopg3

    return bool(is_psycopg3)


def check_settings(app_configs: Any = None, **_: Any) -> list[checks.CheckMessage]:
    """The alias is there, Ensue works with its database, and its driver is the right one."""
    try:
        using = str(project_settings().get("USING", "default"))
        if using not in connections:
            raise UsageError(f"settings.ENSUE['USING'] is {using!r}, which DATABASES has not: {', '.join(connections)}")
        if connections[using].vendor == "postgresql" and not _has_psycopg_3():
            return [checks.Error("Ensue needs psycopg 3: pip install 'psycopg[binary]'", id="ensue.E002")]
        database_url(connections[using], project_settings().get("STORE_OPTIONS") or {})
        service()
    except UsageError as error:
        return [checks.Error(str(error), id="ensue.E001")]
    connection: Any = connections[using]
    found: list[checks.CheckMessage] = []
    if connection.vendor == "postgresql":
        if connection.settings_dict["OPTIONS"].get("isolation_level") == _SERIALIZABLE:
            found.append(
                checks.Warning(
                    f"DATABASES[{using!r}]: isolation_level is SERIALIZABLE for Django's own transactions alone: "
                    "handlers run in REPEATABLE READ, where each reads a snapshot and writes what nobody changed since",
                    hint="lock what a handler relies on and does not write: select_for_update()",
                    id="ensue.W003",
                )
            )
    elif connection.settings_dict["OPTIONS"].get("transaction_mode") != "IMMEDIATE":
        found.append(
            checks.Warning(
                f"DATABASES[{using!r}]: a transaction that has read and then writes fails at once with 'database is "
                "locked' when a worker wrote meanwhile",
                hint='OPTIONS: {"transaction_mode": "IMMEDIATE"}',
                id="ensue.W001",
            )
        )
    return found


def check_tables(
    app_configs: Any = None, databases: Sequence[str] | None = None, **_: Any
) -> list[checks.CheckMessage]:
    """Ensue's tables are there, of this version, and their service's. Asked for by `check --database`, and by migrate,
    which makes them where there are none, and does not want to be told so."""
    try:
        known = all_services()
    except UsageError:
        return []  # `check_settings` says so
    return [found for each in known if each.using in (databases or ()) for found in _tables_of(each)]


def _tables_of(service: DjangoService) -> list[checks.CheckMessage]:
    using = service.using
    connection: Any = connections[using]
    try:
        with connection.cursor() as cursor:
            names = connection.introspection.table_names(cursor)
            if "ensue_meta" not in names:
                if sys.argv[1:2] == ["migrate"]:
                    return []
                return [
                    checks.Warning(
                        f"DATABASES[{using!r}] has none of Ensue's tables",
                        hint=f"manage.py migrate ensue --database {using}",
                        id="ensue.W002",
                    )
                ]
            cursor.execute("SELECT schema_version, service FROM ensue_meta")
            version, owner = cursor.fetchone()
    except DatabaseError as error:
        return [checks.Error(f"DATABASES[{using!r}] cannot be asked: {error}", id="ensue.E003")]
    found: list[checks.CheckMessage] = []
    if version != tables.VERSION:
        found.append(
            checks.Error(
                f"Ensue's tables in DATABASES[{using!r}] are of version {version}, expected {tables.VERSION}",
                hint="run the Ensue that made them, or see docs/how-to/upgrade-ensue.md",
                id="ensue.E004",
            )
        )
    if owner != service.name:
        found.append(
            checks.Error(
                f"Ensue's tables in DATABASES[{using!r}] are those of service {owner!r}, and that alias is the one of "
                f"{service.name!r}",
                hint="each service has a database of its own",
                id="ensue.E005",
            )
        )
    missing = [each.name for each in tables.TABLES if each.name not in names]
    if missing:
        found.append(
            checks.Error(f"Ensue's tables lack {', '.join(missing)}", hint="manage.py ensue db init", id="ensue.E006")
        )
    return found
