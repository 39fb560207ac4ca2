"""A service's database on PostgreSQL or MariaDB, over a plain synchronous driver."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from shop.demo.sql_reader import SqlReader


class SqlServerDatabase:
    def __init__(self, service: str, url: str) -> None:
        self._service = service
        self._url = urlsplit(url)
        self._postgres = self._url.scheme.startswith("postgresql")

    @contextmanager
    def reading(self) -> Iterator[SqlReader]:
        with closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            if self._postgres:
                cursor.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            else:
                cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            yield self._reader(cursor)

    @contextmanager
    def watching(self) -> Iterator[Callable[[Collection[UUID]], dict[UUID, str]]]:
        with closing(self._connect()) as connection, closing(connection.cursor()) as cursor:
            yield self._reader(cursor).decided

    def _reader(self, cursor: Any) -> SqlReader:
        return SqlReader(
            self._service, _executing(cursor), identity="ensue_meta, ensue_counter", partition="partition_no"
        )

    def _connect(self) -> Any:
        """A connection on which each statement outside of BEGIN is of its own moment."""
        url = self._url
        name = url.path.strip("/")
        if self._postgres:
            import psycopg

            [schema] = parse_qs(url.query).get("schema", ["public"])
            return psycopg.connect(
                host=url.hostname, port=url.port, user=url.username, password=url.password, dbname=name,
                options=f"-c search_path={schema}", autocommit=True, connect_timeout=10,
            )  # fmt: skip
        import pymysql

        return pymysql.connect(
            host=url.hostname, port=url.port or 3306, user=url.username, password=url.password or "", database=name,
            autocommit=True, connect_timeout=10, read_timeout=30,
        )  # fmt: skip


def _executing(cursor: Any) -> Callable[[str], Sequence[Sequence[Any]]]:
    def execute(query: str) -> Sequence[Sequence[Any]]:
        cursor.execute(query)
        return cursor.fetchall()  # type: ignore[no-any-return]  # the two drivers differ in their types, not in this

    return execute
