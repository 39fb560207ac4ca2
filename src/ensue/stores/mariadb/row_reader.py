"""`RowReader` on MariaDB: values go in and come out as the plain ones that every store has (see `rows`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ensue.stores.mariadb.rows import COLUMNS, TO_COLUMN, TO_PLAIN
from ensue.stores.sql.typed_rows import Catalog, TypedRows

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

# NULLs come first by themselves.
_QUERY = f"SELECT c.*, 0 FROM ({COLUMNS.replace('%s', ':place')}) c"
_CATALOG = Catalog(_QUERY, lambda table: table.name, TO_COLUMN, TO_PLAIN)


def rows(reading: Callable[[], AbstractAsyncContextManager[AsyncSession]]) -> TypedRows:
    return TypedRows(reading, _CATALOG)
