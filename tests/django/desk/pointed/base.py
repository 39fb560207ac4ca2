"""Django's for PostgreSQL, and points."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.db.backends.postgresql import base
from psycopg.adapt import Dumper


class Point(NamedTuple):
    x: int
    y: int


class _Points(Dumper):
    def dump(self, obj: Any) -> bytes:
        return b"%d|%d" % obj


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: Any) -> Any:
        connection = super().get_new_connection(conn_params)
        connection.adapters.register_dumper(Point, _Points)
        return connection
