"""SQLAlchemy's two PostgreSQL dialects on the store's own connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg, PGExecutionContext_asyncpg
from sqlalchemy.dialects.postgresql.psycopg import PGDialectAsync_psycopg, PGExecutionContext_psycopg

from ensue.stores.postgres.url import PostgresUrl
from ensue.stores.sql.engines import Engines, LinkDialect, StepExecutionContext


class _AsyncpgContext(StepExecutionContext, PGExecutionContext_asyncpg):
    pass


class _PsycopgContext(StepExecutionContext, PGExecutionContext_psycopg):
    pass


class EnsueAsyncpg(LinkDialect, PGDialect_asyncpg):
    driver = "ensue_asyncpg"
    supports_statement_cache = True
    execution_ctx_cls = _AsyncpgContext

    def on_connect(self) -> Callable[[Any], Any]:
        settle = super().on_connect()  # type: ignore[no-untyped-call]

        def connected(connection: Any) -> None:
            connection.isolation_level = "autocommit"  # else it would begin a transaction of its own
            settle(connection)

        return connected


class EnsuePsycopg(LinkDialect, PGDialectAsync_psycopg):
    driver = "ensue_psycopg"
    supports_statement_cache = True
    execution_ctx_cls = _PsycopgContext

    @classmethod
    def get_async_dialect_cls(cls, url: Any) -> type[EnsuePsycopg]:
        return cls


registry.register("postgresql.ensue_asyncpg", __name__, "EnsueAsyncpg")
registry.register("postgresql.ensue_psycopg", __name__, "EnsuePsycopg")


def make_engines(url: PostgresUrl) -> Engines:
    if url.driver == "psycopg":
        return Engines("postgresql+ensue_psycopg://", use_native_hstore=False)
    if not url.pgbouncer:
        return Engines("postgresql+ensue_asyncpg://")
    # Behind PgBouncer a statement has no name, and is forgotten with the next one.
    return Engines(
        "postgresql+ensue_asyncpg://?prepared_statement_cache_size=0",
        connect_args={"prepared_statement_name_func": _no_name},
    )


def _no_name() -> str:
    return ""
