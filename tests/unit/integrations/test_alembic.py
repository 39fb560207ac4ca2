"""A real alembic environment: Ensue's tables by a migration, on every SQL database, online and as a script."""

from __future__ import annotations

import asyncio
import io
import os
import re
import sqlite3
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from servers import MariaDbServer, PostgresServer
from sqlalchemy import create_engine, inspect

from ensue.adapters import make_store
from ensue.integrations.alembic import include_name, include_object
from ensue.integrations.sql_tables import sql_tables, sql_tables_of

ENVIRONMENT = """
from alembic import context
from sqlalchemy import Column, Integer, MetaData, Table, create_engine

from ensue.integrations.alembic import include_name

url = context.config.get_main_option("sqlalchemy.url")
metadata = MetaData()
Table("ledger", metadata, Column("id", Integer, primary_key=True), Column("amount", Integer))
options = {"target_metadata": metadata, "include_name": include_name, "include_schemas": False}

if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, **options)
    with context.begin_transaction():
        context.run_migrations()
else:
    engine = create_engine(url)
    with engine.connect() as connection:
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()
"""
MIGRATION = '''
"""Ensue's tables and the ledger."""
import sqlalchemy as sa
from alembic import op

from ensue.integrations.alembic import create_ensue_tables, drop_ensue_tables

revision, down_revision = "1", None


def upgrade() -> None:
    create_ensue_tables("ledger")
    op.create_table("ledger", sa.Column("id", sa.Integer, primary_key=True), sa.Column("amount", sa.Integer))


def downgrade() -> None:
    op.drop_table("ledger")
    drop_ensue_tables("ledger")
'''
TEMPLATE = '''"""${message}"""
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades}


def downgrade():
    ${downgrades}
'''
SERVICE = """
from sqlalchemy import Column, Integer, MetaData, Table

from ensue import Service

metadata = MetaData()
Table("ledger", metadata, Column("id", Integer, primary_key=True), Column("amount", Integer))
ledger = Service("ledger", tables=metadata)
"""


class Project:
    """A service, an alembic environment and one migration in a directory. url: alembic's. store_url: the service's."""

    def __init__(self, directory: Path, url: str, store_url: str, run: Callable[[str], str]) -> None:
        self.directory, self.url, self.store_url = directory, url, store_url
        self.run_sql = run
        (directory / "migrations/versions").mkdir(parents=True)
        (directory / "migrations/env.py").write_text(ENVIRONMENT)
        (directory / "migrations/script.py.mako").write_text(TEMPLATE)
        (directory / "migrations/versions/first.py").write_text(MIGRATION)
        (directory / "ledgers.py").write_text(SERVICE)
        self.output = io.StringIO()

    @property
    def config(self) -> Config:
        config = Config(output_buffer=self.output)
        config.set_main_option("script_location", str(self.directory / "migrations"))
        config.set_main_option("sqlalchemy.url", self.url.replace("%", "%%"))
        return config

    def tables(self) -> set[str]:
        engine = create_engine(self.url)
        try:
            return set(inspect(engine).get_table_names())
        finally:
            engine.dispose()

    def ensue(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
        environment |= {"ENSUE_LEDGER_DATABASE": self.store_url, "ENSUE_HOME": str(self.directory / "home")}
        return subprocess.run(
            [sys.executable, "-m", "ensue", *arguments],
            env=environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def epoch(self) -> str:
        async def look() -> str:
            store = make_store(self.store_url, "ledger")
            await store.open()
            try:
                return store.source
            finally:
                await store.close()

        return asyncio.run(look())


def on_sqlite(directory: Path) -> Project:
    path = directory / "ledger.db"

    def run(script: str) -> str:
        with closing(sqlite3.connect(path)) as connection, connection:
            return str(connection.executescript(script).fetchall())

    return Project(directory, f"sqlite:///{path}", f"sqlite:///{path}", run)


def on_mariadb(directory: Path, server: MariaDbServer, name: str) -> Iterator[Project]:
    url = server.url(name)
    by_pymysql = url.replace(url.partition(":")[0], "mariadb+pymysql", 1)

    def run(script: str) -> str:
        engine = create_engine(by_pymysql)
        try:
            with engine.begin() as connection:
                for statement in filter(str.strip, script.split(";")):
                    connection.exec_driver_sql(statement)
        finally:
            engine.dispose()
        return ""

    yield Project(directory, by_pymysql, url, run)
    run(f"DROP DATABASE {name}")


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def project(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Project]:
    if request.param == "sqlite":
        yield on_sqlite(tmp_path)
        return
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    if request.param == "mariadb":
        yield from on_mariadb(tmp_path, request.getfixturevalue("mariadb_server"), name)
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    url = server.url(name)
    yield Project(tmp_path, server.url(name, "postgresql+psycopg"), url, lambda script: server.psql(name, script))
    server.drop(name)


def test_after_an_upgrade_the_check_finds_everything_and_a_start_makes_nothing(project: Project) -> None:
    command.upgrade(project.config, "head")
    made = project.tables()
    tables = sql_tables_of(project.store_url, "ledger")
    assert tables is not None
    assert made == {*tables.names, "ledger", "alembic_version"}
    checked = project.ensue("db", "check", "ledgers:ledger")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "everything is there" in checked.stdout
    assert re.fullmatch(r"ledger/[0-9a-f]{8}", project.epoch())
    assert project.tables() == made


def test_an_upgrade_and_a_start_make_the_same_tables(project: Project, tmp_path: Path) -> None:
    """Column by column: the migration and the store do not drift apart."""
    command.upgrade(project.config, "head")
    tables = sql_tables_of(project.store_url, "ledger")
    assert tables is not None
    engine = create_engine(project.url)
    by_migration = {name: inspect(engine).get_columns(name) for name in tables.names}
    command.downgrade(project.config, "base")
    assert project.tables() <= {"alembic_version", "sqlite_sequence"}
    project.epoch()  # the store makes its tables
    by_store = {name: inspect(engine).get_columns(name) for name in tables.names}
    engine.dispose()
    assert str(by_migration) == str(by_store)


def test_a_script_made_offline_does_the_same_and_each_database_gets_an_epoch_of_its_own(project: Project) -> None:
    command.upgrade(project.config, "head", sql=True)
    script = project.output.getvalue()
    project.run_sql(script)
    first = project.epoch()
    checked = project.ensue("db", "check", "ledgers:ledger")
    assert (checked.returncode, checked.stderr) == (0, "")
    command.downgrade(project.config, "base")
    project.run_sql("DROP TABLE alembic_version")
    project.run_sql(script)
    assert project.epoch() != first


def test_autogenerate_leaves_ensue_s_tables_alone(project: Project) -> None:
    command.upgrade(project.config, "head")
    command.check(project.config)  # raises when it would propose anything
    command.revision(project.config, "nothing", autogenerate=True)
    [made] = list((project.directory / "migrations/versions").glob("*_nothing.py"))
    assert "ensue_" not in made.read_text()


def test_autogenerate_would_drop_them_without_the_rule(project: Project) -> None:
    command.upgrade(project.config, "head")
    environment = project.directory / "migrations/env.py"
    environment.write_text(environment.read_text().replace('"include_name": include_name, ', ""))
    command.revision(project.config, "harm", autogenerate=True)
    [made] = list((project.directory / "migrations/versions").glob("*_harm.py"))
    assert "drop_table('ensue_outbox')" in made.read_text()


def test_the_check_names_what_is_missing_or_old(project: Project) -> None:
    before = project.ensue("db", "check", "ledgers:ledger")
    assert before.returncode == 1
    for name in ("ensue_meta", "ensue_outbox", "ensue_checkpoint"):
        assert name in before.stderr
    command.upgrade(project.config, "head")
    project.run_sql("DROP TABLE ensue_inbox; ALTER TABLE ensue_lease DROP COLUMN expires_at;")
    lacking = project.ensue("db", "check", "ledgers:ledger")
    assert lacking.returncode == 1
    assert "lacks " in lacking.stderr
    assert "table ensue_inbox" in lacking.stderr
    assert "column ensue_lease.expires_at" in lacking.stderr
    assert "ensue_outbox" not in lacking.stderr
    project.run_sql("UPDATE ensue_meta SET schema_version = 0")
    old = project.ensue("db", "check", "ledgers:ledger")
    assert old.returncode == 1
    assert re.search(r"tables are of version\s+0", old.stderr)


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mariadb", "mysql"])
def test_every_statement_that_makes_a_table_is_understood(dialect: str) -> None:
    tables = sql_tables(dialect, "ledger")
    assert len(tables.names) == sum("CREATE TABLE" in statement for statement in tables.create) > 8
    for table in tables.metadata().sorted_tables:
        assert len(table.columns) > 1, table.name
    key = "key" if dialect == "sqlite" else "record_key"
    assert key in tables.metadata().tables["ensue_outbox"].columns


def test_rules_for_autogenerate_know_tables_schemas_and_nothing_else() -> None:
    assert not include_name("ensue_outbox", "table", {})
    assert not include_name("ensue_log", "schema", {})
    assert include_name("orders", "table", {})
    assert include_name(None, "schema", {})
    assert include_name("ensue_flag", "column", {})
    assert not include_object(None, "ensue_inbox", "table", True, None)
    assert include_object(None, "orders", "table", True, None)
