"""`RowReader` on PostgreSQL: values go in and come out as the plain ones that every store has (see `rows`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ensue.stores.postgres.handshake import quoted
from ensue.stores.postgres.rows import COLUMNS, TO_COLUMN, TO_PLAIN
from ensue.stores.sql.typed_rows import Catalog, TypedRows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

# NULLs come last in an ascending order here, where a column has any. A colon in a text of SQLAlchemy's would be a
# parameter.
_QUERY = (
    "SELECT name, kind, NOT filled FROM ("
    + COLUMNS.replace("::", "\\:\\:").replace("$1", ":place")
    + ") c (name, kind, category, filled)"
)
_CATALOG = Catalog(_QUERY, lambda table: quoted(table.name), TO_COLUMN, TO_PLAIN)


def rows(reading: Callable[[], AbstractAsyncContextManager[AsyncSession]]) -> TypedRows:
    return TypedRows(reading, _CATALOG)
