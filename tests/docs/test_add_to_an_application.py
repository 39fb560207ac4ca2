"""The page's application, as it is, on PostgreSQL; and with the application's tables in a schema of their own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from servers import PostgresServer
from sqlalchemy import MetaData, func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ensue import Service

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/how-to/add-to-an-application.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
def test_the_page_says_the_same_on_postgresql(postgres_server: PostgresServer, tmp_path: Path, driver: str) -> None:
    name = f"existing_{driver}"
    postgres_server.drop(name)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    environment |= {
        "PYTHONPATH": str(ROOT / "src"),
        "DATABASE_URL": postgres_server.url(name, f"postgresql+{driver}"),
    }
    program = tmp_path / "shop.py"
    program.write_text("\n\n".join(blocks("python")))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "".join(blocks("output"))


async def test_tables_in_a_schema_and_ensues_own_in_another(postgres_server: PostgresServer) -> None:
    class Base(DeclarativeBase):
        metadata = MetaData(schema="shop")

    class Order(Base):
        __tablename__ = "orders"
        id: Mapped[int] = mapped_column(primary_key=True)

    postgres_server.drop("existing_schema")
    url = postgres_server.url("existing_schema")
    postgres_server.psql("existing_schema", "CREATE SCHEMA shop")
    orders = Service("orders", database=f"{url}?schema=aside", broker="memory:", tables=Base.metadata)
    async with orders.running():
        async with orders.step() as step:
            step.session.add(Order(id=1))
        async with orders.query() as session:
            assert await session.scalar(select(func.count()).select_from(Order)) == 1
    found = postgres_server.psql(
        "existing_schema", "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename ~ '^(ensue|orders)' ORDER BY 1"
    )
    assert found.split() == ["aside", "shop"]
