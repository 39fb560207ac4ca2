"""Ensue's tables in a migration of Django's: from the same statements by which a store makes them."""

from __future__ import annotations

from typing import Any

from django.db.migrations.operations.base import Operation

from ensue.integrations.django.project import all_services
from ensue.integrations.django.service import DjangoService
from ensue.integrations.sql_tables import sql_tables


def make_tables(schema_editor: Any, of: DjangoService) -> None:
    connection = schema_editor.connection
    with connection.cursor() as cursor:
        if "ensue_meta" in connection.introspection.table_names(cursor):
            return  # `ensue db init` was here, or a worker
    made = sql_tables(connection.vendor, of.name, of.outbox_mode)
    for statement in (*made.create, *made.fill):
        schema_editor.execute(statement, params=None)


class MakeEnsueTables(Operation):
    """In the databases of the project's services, and in no other. Those that are there stay as they are."""

    reversible = True

    def state_forwards(self, app_label: str, state: Any) -> None:
        """They are unmanaged models of their own."""

    def database_forwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        for each in all_services():
            if schema_editor.connection.alias == each.using:
                make_tables(schema_editor, each)

    def database_backwards(self, app_label: str, schema_editor: Any, from_state: Any, to_state: Any) -> None:
        """With outbox, progress and dead letters: stop the workers first. What is not sent yet is lost."""
        connection = schema_editor.connection
        for each in all_services():
            if connection.alias == each.using:
                for name in reversed(sql_tables(connection.vendor, each.name).names):
                    schema_editor.execute(f"DROP TABLE IF EXISTS {name}", params=None)

    def describe(self) -> str:
        return "Make Ensue's tables"
