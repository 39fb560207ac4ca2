"""alembic: Ensue's tables as operations of a migration, and autogenerate that leaves them alone.

    from ensue.integrations.alembic import create_ensue_tables, drop_ensue_tables

    def upgrade() -> None:
        create_ensue_tables("orders")

    def downgrade() -> None:
        drop_ensue_tables("orders")

They work online and offline (`--sql`). In env.py: `context.configure(..., include_name=include_name)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ensue.errors import not_installed
from ensue.integrations.sql_tables import sql_tables

try:
    from alembic import op
except ImportError as error:
    raise not_installed("ensue.integrations.alembic", "alembic") from error

__all__ = ["create_ensue_tables", "drop_ensue_tables", "include_name", "include_object"]

#: Tables of Ensue begin with this; a log in PostgreSQL has a schema that is named so unless told.
PREFIX = "ensue_"


def create_ensue_tables(service: str, *, outbox: str = "poll") -> None:
    """Make Ensue's tables of a service, in the database that the migration runs in, where unqualified names lead.

    service: its name, as in `Service("orders")`. outbox: on PostgreSQL, the `?outbox=` of the service's URL.
    Each database that runs the migration begins an epoch of its own: the database makes its name up, not the script.
    """
    tables = sql_tables(op.get_context().dialect.name, service, outbox)
    for statement in (*tables.create, *tables.fill):
        _execute(statement)


def drop_ensue_tables(service: str) -> None:
    """Drop them, with outbox, checkpoints and dead letters. Stop the service first.

    What is not sent yet is lost, and so is what had taken effect: tables made anew begin a new source, and apply again
    what the log still holds.
    """
    for name in reversed(sql_tables(op.get_context().dialect.name, service).names):
        _execute(f"DROP TABLE {name}")


def include_name(name: str | None, type_: str, parent_names: Mapping[str, Any]) -> bool:
    """For `context.configure(include_name=...)`: autogenerate does not look at Ensue's tables and schemas.

    With a rule of your own: `lambda *of: include_name(*of) and mine(*of)`.
    """
    return not (type_ in ("table", "schema") and name is not None and name.startswith(PREFIX))


def include_object(object_: object, name: str | None, type_: str, reflected: bool, compare_to: object) -> bool:
    """As `include_name`, for `context.configure(include_object=...)`, where a project has its rules there."""
    return include_name(name, type_, {})


def _execute(statement: str) -> None:
    # alembic takes `:name` in a text for a parameter; there is none.
    op.execute(statement.replace(":", r"\:"))
