"""The roles in deploy/: a service runs with exactly these rights, and without one of them does not start."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
from servers import MariaDbServer, PostgresServer
from tests.deploy.documents import APPS, DEPLOY

from ensue import Service, UsageError
from ensue.stores.mariadb.dialect import MariaDbDialect
from ensue.stores.postgres.dialect import PostgresDialect
from ensue.stores.sql import schema
from ensue.stores.sql.dialect import Dialect
from shop.customers.service import customers
from shop.order_history.service import order_history
from shop.orders.service import orders

SERVICES = MappingProxyType({"orders": orders, "customers": customers, "order_history": order_history})
DIALECTS: Mapping[str, Dialect] = {"postgres": PostgresDialect(), "mariadb": MariaDbDialect()}


def script(kind: str, service: str) -> str:
    return (DEPLOY / kind / "roles" / f"{service}.sql").read_text()


def granted(script: str, service: str) -> dict[str, str]:
    """The rights on tables, by table."""
    grant = rf"^GRANT ([A-Z, ]+) ON\s+([a-z_,\s]+?)\s+TO {service}_service;$"
    found = re.findall(grant, script, re.MULTILINE)
    return {table: rights for rights, tables in found for table in re.split(r",\s+", tables.strip())}


@pytest.mark.parametrize("kind", DIALECTS)
@pytest.mark.parametrize("service", SERVICES)
def test_a_role_has_the_rights_on_ensues_tables_that_a_service_uses_and_no_others(kind: str, service: str) -> None:
    own = schema.rights(DIALECTS[kind])
    *base, last = script(kind, service).split("-- Version 1")
    for each in base:
        assert granted(each, service) == {**own, "ensue_view": "SELECT, INSERT, UPDATE"}
    assert len(base) == SERVICES[service].is_view
    rights = granted(last, service)
    assert {table: rights[table] for table in rights if table.startswith("ensue_")} == own
    metadata = SERVICES[service].tables
    assert metadata is not None
    assert {table for table in rights if not table.startswith("ensue_")} == set(metadata.tables)


class Role:
    """The role of one service, made by its script in a database whose tables another user has made."""

    def __init__(self, server: PostgresServer | MariaDbServer, service: str) -> None:
        self.server, self.user, self.database = server, f"{service}_service", f"roles_{service}"
        self.kind = "postgres" if isinstance(server, PostgresServer) else "mariadb"
        self._script = script(self.kind, service).replace(f"USE {service}", f"USE {self.database}")
        self.drop()
        self.owners_url = server.url(self.database)
        self.url = self.owners_url.replace("postgres@" if self.kind == "postgres" else "root@", f"{self.user}:secret@")

    def make(self) -> None:
        if isinstance(self.server, PostgresServer):
            self.sql(f"REVOKE CONNECT ON DATABASE {self.database} FROM PUBLIC")
            self.sql("REVOKE ALL ON SCHEMA public FROM PUBLIC")
            file = self.server.directory / f"{self.user}.sql"
            file.write_text(self._script)
            self.server.run(*self.server.client(self.database)[:-1], "-1", "-f", str(file))
        else:
            self.sql(self._script)
            self.sql(f"ALTER USER {self.user} IDENTIFIED BY 'secret' ACCOUNT UNLOCK")

    def sql(self, statement: str) -> None:
        if isinstance(self.server, PostgresServer):
            self.server.psql(self.database, statement)
        else:
            self.server.sql(statement, self.database)

    def drop(self) -> None:
        self.server.drop(self.database)
        if isinstance(self.server, MariaDbServer):
            self.server.drop(f"{self.database}_v1")
        if isinstance(self.server, PostgresServer):
            self.server.psql("postgres", f"DROP ROLE IF EXISTS {self.user}")
        else:
            self.server.sql(f"DROP USER IF EXISTS {self.user}")


@pytest.fixture(params=DIALECTS)
def role_of(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Role]]:
    server = request.getfixturevalue(f"{request.param}_server")
    made: list[Role] = []

    def make(service: str) -> Role:
        made.append(Role(server, service))
        return made[-1]

    yield make
    for each in made:
        each.drop()


async def init(service: Service) -> None:
    """What `ensue db init` does, as the owner."""
    await service.make_place()
    store = service.make_store()
    await store.open()
    try:
        assert service.tables is not None
        await store.create_tables(service.tables)
    finally:
        await store.close()


async def until(client: httpx.AsyncClient, path: str, **expected: object) -> None:
    async with asyncio.timeout(30):
        while expected.items() - (found := (await client.get(path)).json()).items():
            assert isinstance(found, dict)
            await asyncio.sleep(0.02)


async def place_and_cancel_an_order(monkeypatch: pytest.MonkeyPatch, brokers: Mapping[str, str]) -> None:
    """Run the shop, each service with a broker URL of its own, until all have seen an order come and go."""
    async with AsyncExitStack() as stack:
        clients = {}
        for name, service in SERVICES.items():
            monkeypatch.setenv("ENSUE_BROKER", brokers[name])
            runtime = await stack.enter_async_context(service.running())
            transport = httpx.ASGITransport(APPS[f"shop.{name}.app:app"])
            clients[name] = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://x"))
            await runtime.ready()
        customer = (await clients["customers"].post("/customers", json={"name": "Ann", "credit_limit": "10.00"})).json()
        order = {"customer_id": customer["customer_id"], "total": "4.00"}
        made = [
            await clients["orders"].post("/orders", json=order, headers={"Idempotency-Key": "one"}) for _ in range(2)
        ]
        assert made[0].json() == made[1].json()
        path = f"/orders/{made[0].json()['order_id']}"
        await until(clients["orders"], path, status="OPEN")
        await until(clients["order_history"], "/orders/counts", OPEN=1)
        assert (await clients["orders"].post(f"{path}/cancel")).is_success
        await until(clients["order_history"], "/orders/counts", CANCELLED=1)
        await until(clients["customers"], "/customers/counts", reservations=0)
        for service in SERVICES.values():
            assert not await service.runtime.context.books.letters()


async def test_the_shop_runs_with_exactly_these_rights(
    role_of: Callable[[str], Role], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, service in SERVICES.items():
        role, variable = role_of(name), f"ENSUE_{name.upper()}_DATABASE"
        monkeypatch.setenv(variable, role.owners_url)
        await init(service)
        role.make()
        monkeypatch.setenv(variable, role.url)
    await place_and_cancel_an_order(monkeypatch, dict.fromkeys(SERVICES, f"sqlite:///{tmp_path}/log.db"))


async def test_without_one_right_a_service_does_not_start_and_says_which(role_of: Callable[[str], Role]) -> None:
    role = role_of("orders")
    await init(Service("orders", database=role.owners_url, broker="memory://", tables=orders.tables))
    role.make()
    service = Service("orders", database=role.url, broker="memory://")
    for table, rights in schema.rights(DIALECTS[role.kind]).items():
        for right in rights.split(", "):
            role.sql(f"REVOKE {right} ON {table} FROM {role.user}")
            says = f"user of service orders lacks a right: [^/]*{table}[^/]*[.] Grant it .*roles"  # and the place once
            with pytest.raises(UsageError, match=says):
                async with service.running(work=False):
                    pass
            role.sql(f"GRANT {right} ON {table} TO {role.user}")
    async with service.running(work=False):
        pass


async def test_a_right_that_is_taken_from_a_service_that_runs_is_waited_for_in_sight(
    role_of: Callable[[str], Role],
) -> None:
    role = role_of("orders")
    await init(Service("orders", database=role.owners_url, broker="memory://", tables=orders.tables))
    role.make()
    service = Service("orders", database=role.url, broker="memory://")
    async with asyncio.timeout(60), service.running() as runtime:
        await runtime.ready()
        role.sql(f"REVOKE SELECT ON ensue_outbox FROM {role.user}")
        while not (reasons := await runtime.readiness()):  # noqa: ASYNC110  # a loop that waits tells nobody
            await asyncio.sleep(0.02)
        assert all("the database" in each and "ensue_outbox" in each and "GRANT it" in each for each in reasons)
        assert not await runtime.unhealthy()  # to begin it anew would not help
        role.sql(f"GRANT SELECT ON ensue_outbox TO {role.user}")
        while await runtime.readiness():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_table_that_comes_with_an_upgrade_is_not_missed_before_it(role_of: Callable[[str], Role]) -> None:
    role = role_of("orders")
    service = Service("orders", database=role.owners_url, broker="memory://", tables=orders.tables)
    await init(service)
    role.make()
    store = Service("orders", database=role.url, broker="memory://").make_store()
    await store.open()
    try:
        await store.make_own(())
        role.sql("DROP TABLE ensue_timer")
        await store.make_own(())
    finally:
        await store.close()


async def test_without_a_way_to_the_tables_it_says_so(postgres_server: PostgresServer) -> None:
    role = Role(postgres_server, "orders")
    try:
        await init(Service("orders", database=role.owners_url, broker="memory://", tables=orders.tables))
        role.make()
        service = Service("orders", database=role.url, broker="memory://")
        for right, says in {
            f"CONNECT ON DATABASE {role.database}": "permission denied for database",
            "USAGE ON SCHEMA public": "lacks a right: no schema has been selected",
        }.items():
            role.sql(f"REVOKE {right} FROM {role.user}")
            with pytest.raises(UsageError, match=says):
                async with service.running(work=False):
                    pass
            role.sql(f"GRANT {right} TO {role.user}")
    finally:
        role.drop()
