"""A server that goes away while SQLAlchemy gets to know it: the database does not answer, as at any other moment."""

from __future__ import annotations

from typing import Any

import pytest
from servers import MariaDbServer, PostgresServer

from ensue.adapters import make_store
from ensue.errors import StoreUnavailable
from ensue.stores.sql.engines import Engines
from ensue.stores.sql.link import Link


@pytest.mark.parametrize("kind", ["postgresql+asyncpg", "postgresql+psycopg", "mariadb"])
async def test_a_line_that_is_cut_at_the_very_first_question_is_the_database_that_does_not_answer(
    kind: str, postgres_server: PostgresServer, mariadb_server: MariaDbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = mariadb_server.url("first") if kind == "mariadb" else postgres_server.url("first", kind)
    attach = Engines.attach

    async def cut(self: Engines, link: Link) -> None:
        link.terminate()
        await attach(self, link)

    monkeypatch.setattr(Engines, "attach", cut)
    store: Any = make_store(url, "orders")
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.close()
