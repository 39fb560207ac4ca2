"""SQLAlchemy's MariaDB dialect on the store's own connections."""

from __future__ import annotations

from sqlalchemy.dialects import registry
from sqlalchemy.dialects.mysql.asyncmy import MySQLDialect_asyncmy
from sqlalchemy.dialects.mysql.mariadb import MariaDBDialect

from ensue.stores.sql.engines import Engines, LinkDialect, StepExecutionContext


class _AsyncmyContext(StepExecutionContext, MySQLDialect_asyncmy.execution_ctx_cls):  # type: ignore[misc, valid-type]
    pass


class EnsueAsyncmy(LinkDialect, MariaDBDialect, MySQLDialect_asyncmy):
    driver = "ensue_asyncmy"
    supports_statement_cache = True
    execution_ctx_cls = _AsyncmyContext


registry.register("mariadb.ensue_asyncmy", __name__, "EnsueAsyncmy")


def make_engines() -> Engines:
    return Engines("mariadb+ensue_asyncmy://")
