"""TLS of the SQL stores by nothing but the URLs of `docs/how-to/databases.md`: it is spoken, verified and demanded.

The servers take TLS connections alone, and their user `shop` has a password, which no error may show.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from servers import MariaDbServer, PostgresServer
from sqlalchemy import text
from tests.conftest import required, started

from ensue.conformance.store_suite import ACCOUNTS, METADATA, SERVICE, record, texts
from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.stores.mariadb import MariaDbStore
from ensue.stores.postgres import PostgresStore

#: A connection that is given up over TLS is closed in the background, once the server has said goodbye; on a busy
#: machine the test's loop ends before that.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

PASSWORD = "s3cret"
PATIENCE_S = 30.0
SCHEMES = pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg"])

Store = PostgresStore | MariaDbStore


@pytest.fixture(scope="module")
def postgres_with_tls() -> Iterator[PostgresServer]:
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")
    for server in started(PostgresServer, tls=True):
        server.psql("postgres", f"CREATE ROLE shop LOGIN SUPERUSER PASSWORD '{PASSWORD}'")
        yield server


@pytest.fixture
def postgres(postgres_with_tls: PostgresServer) -> PostgresServer:
    postgres_with_tls.drop("orders")  # another test may have read it by another outbox
    postgres_with_tls.url("orders")
    return postgres_with_tls


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDbServer]:
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")
    for server in started(MariaDbServer, tls=True):
        server.url("orders")
        server.sql(f"CREATE USER shop@'%' IDENTIFIED BY '{PASSWORD}'")
        server.sql("GRANT ALL ON *.* TO shop@'%'")
        yield server


def on(server: PostgresServer | MariaDbServer, scheme: str, options: str, host: str = "127.0.0.1") -> Store:
    url = f"{scheme}://shop:{PASSWORD}@{host}:{server.port}/orders?{options}"
    return PostgresStore(url, SERVICE) if isinstance(server, PostgresServer) else MariaDbStore(url, SERVICE)


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    async with asyncio.timeout(PATIENCE_S):
        await store.open()
    try:
        await store.create_tables(METADATA)
        yield store
    finally:
        await store.close()


async def does_a_step(store: Store, name: str, question: str) -> str:
    """Do one, see its event, and return the server's answer to `question` in the same transaction."""
    async with store.transaction() as transaction:
        await transaction.insert_rows(ACCOUNTS, [(name, 1)])
        await transaction.outbox_add([record(name)])
        answer = (await transaction.session.execute(text(question))).all()
    async with asyncio.timeout(PATIENCE_S):
        while name not in texts(await store.outbox_after(0, 100)):
            await store.outbox_wait(1.0)
    return str(answer)


async def refusal(store: Store, kind: type[EnsueError]) -> str:
    """The text of the error with which it does not open; it names the place, and no password."""
    with pytest.raises(kind) as caught:
        await store.open()
    said = str(caught.value)
    assert "127.0.0.1" in said or "localhost" in said
    assert "/orders" in said
    assert PASSWORD not in said
    return said


# ---------------------------------------------------------------------------------------------------------- PostgreSQL

POSTGRES_CIPHER = "SELECT ssl, cipher FROM pg_stat_ssl WHERE pid = pg_backend_pid()"


@SCHEMES
async def test_postgresql_does_a_step_over_tls_that_it_has_verified(postgres: PostgresServer, scheme: str) -> None:
    options = f"sslmode=verify-full&sslrootcert={postgres.certificates.authority}"
    async with opened(on(postgres, scheme, options)) as store:
        assert "(True, 'TLS_" in await does_a_step(store, f"verified by {scheme}", POSTGRES_CIPHER)


@SCHEMES
async def test_postgresql_takes_a_file_whose_name_has_a_space(
    postgres: PostgresServer, scheme: str, tmp_path: Path
) -> None:
    shutil.copy(postgres.certificates.authority, tmp_path / "our authority.pem")
    options = f"sslmode=verify-full&sslrootcert={tmp_path}/our%20authority.pem"
    async with opened(on(postgres, scheme, options)):
        pass


async def test_postgresql_reads_its_log_over_tls_too(postgres: PostgresServer) -> None:
    options = f"outbox=wal&sslmode=verify-full&sslrootcert={postgres.certificates.authority}"
    async with opened(on(postgres, "postgresql", options)) as store:
        await does_a_step(store, "tailed", POSTGRES_CIPHER)
        connections = postgres.psql(
            "postgres",
            "SELECT DISTINCT backend_type, ssl FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
            "WHERE usename = 'shop' ORDER BY 1",
        ).splitlines()
        assert connections == ["client backend|t", "walsender|t"]


async def test_postgresql_verifies_who_it_reads_the_log_from_by_itself(postgres: PostgresServer) -> None:
    """Steps reach the server under its own name here; the log is asked for under one that its certificate lacks."""
    options = f"outbox=wal&sslmode=verify-full&sslrootcert={postgres.certificates.authority}"
    with pytest.raises(StoreUnavailable, match="certificate") as caught:
        await on(postgres, "postgresql", f"{options}&replication_host=localhost").open()
    assert "localhost" in str(caught.value)
    assert PASSWORD not in str(caught.value)


@SCHEMES
@pytest.mark.parametrize("outbox", ["poll", "wal"])
async def test_postgresql_with_a_certificate_from_an_unknown_authority_is_refused(
    postgres: PostgresServer, mariadb: MariaDbServer, scheme: str, outbox: str
) -> None:
    options = f"outbox={outbox}&sslmode=verify-full&sslrootcert={mariadb.certificates.authority}"
    said = await refusal(on(postgres, scheme, options), StoreUnavailable)
    assert "certificate is not trusted" in said
    assert "sslrootcert" in said


@SCHEMES
async def test_postgresql_under_a_name_that_is_not_in_its_certificate_is_refused(
    postgres: PostgresServer, scheme: str
) -> None:
    options = f"sslrootcert={postgres.certificates.authority}"
    said = await refusal(on(postgres, scheme, f"sslmode=verify-full&{options}", "localhost"), StoreUnavailable)
    assert "certificate is not trusted" in said
    async with opened(on(postgres, scheme, f"sslmode=verify-ca&{options}", "localhost")):
        pass


@SCHEMES
async def test_postgresql_that_demands_tls_refuses_a_plain_connection(postgres: PostgresServer, scheme: str) -> None:
    said = await refusal(on(postgres, scheme, "sslmode=disable"), UsageError)
    assert "28000" in said
    assert "and sslmode" in said


@SCHEMES
async def test_postgresql_that_speaks_no_tls_is_told_from_one_that_is_down(
    postgres: PostgresServer, postgres_server: PostgresServer, scheme: str
) -> None:
    options = f"sslmode=verify-full&sslrootcert={postgres.certificates.authority}"
    assert "does not speak TLS" in await refusal(on(postgres_server, scheme, options), StoreUnavailable)


@SCHEMES
@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("sslmode=verify-full&sslrootcert=/nowhere/authority.pem", "sslrootcert in the URL: /nowhere/authority.pem"),
        (f"sslmode=verify-full&sslrootcert={__file__}", "sslrootcert"),
        ("sslmode=verify", "sslmode"),
        ("sslmod=verify-full", "sslmod"),
    ],
)
async def test_postgresql_tells_which_option_of_tls_is_wrong(
    postgres: PostgresServer, scheme: str, options: str, told: str
) -> None:
    assert told in await refusal(on(postgres, scheme, options), UsageError)


# ------------------------------------------------------------------------------------------------------------- MariaDB

MARIADB_CIPHER = "SHOW STATUS LIKE 'Ssl_cipher'"


async def test_mariadb_does_a_step_over_tls_that_it_has_verified(mariadb: MariaDbServer) -> None:
    async with opened(on(mariadb, "mariadb", f"ssl_ca={mariadb.certificates.authority}")) as store:
        assert "('Ssl_cipher', 'TLS_" in await does_a_step(store, "verified", MARIADB_CIPHER)


async def test_mariadb_with_ssl_alone_trusts_the_authorities_of_the_system(
    mariadb: MariaDbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "certificate is not trusted" in await refusal(on(mariadb, "mariadb", "ssl=1"), StoreUnavailable)
    monkeypatch.setenv("SSL_CERT_FILE", str(mariadb.certificates.authority))
    async with opened(on(mariadb, "mariadb", "ssl=1")) as store:
        assert "('Ssl_cipher', 'TLS_" in await does_a_step(store, "by the system", MARIADB_CIPHER)
    said = await refusal(on(mariadb, "mariadb", "ssl_verify_cert=1", "localhost"), StoreUnavailable)
    assert "certificate is not trusted" in said, "the host's name is compared without ssl_ca, too"


async def test_mariadb_with_a_certificate_from_an_unknown_authority_is_refused(
    mariadb: MariaDbServer, postgres: PostgresServer
) -> None:
    said = await refusal(on(mariadb, "mariadb", f"ssl_ca={postgres.certificates.authority}"), StoreUnavailable)
    assert "certificate is not trusted" in said
    assert "ssl_ca" in said
    async with opened(on(mariadb, "mariadb", "ssl_verify_cert=0")) as store:
        assert "('Ssl_cipher', 'TLS_" in await does_a_step(store, "unverified", MARIADB_CIPHER)


async def test_mariadb_under_a_name_that_is_not_in_its_certificate_is_refused(mariadb: MariaDbServer) -> None:
    options = f"ssl_ca={mariadb.certificates.authority}"
    assert "certificate is not trusted" in await refusal(on(mariadb, "mariadb", options, "localhost"), StoreUnavailable)
    async with opened(on(mariadb, "mariadb", f"{options}&ssl_check_hostname=0", "localhost")):
        pass


async def test_mariadb_that_demands_tls_refuses_a_plain_connection(mariadb: MariaDbServer) -> None:
    said = await refusal(on(mariadb, "mariadb", ""), UsageError)
    assert "whether the server demands TLS" in said
    assert "ssl_ca=FILE" in said


@pytest.mark.parametrize("options", ["ssl=1", "ssl_verify_cert=0"])
async def test_mariadb_that_speaks_no_tls_never_gets_a_plain_connection_instead(
    mariadb_server: MariaDbServer, options: str
) -> None:
    assert "no TLS with the server" in await refusal(on(mariadb_server, "mariadb", options), StoreUnavailable)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("ssl_ca=/nowhere/authority.pem", "ssl_ca=/nowhere/authority.pem: No such file"),
        (f"ssl_ca={__file__}", "ssl_ca="),
        ("ssl_verify_cert=0&ssl_check_hostname=1", "leave out ssl_verify_cert=0"),
        ("ssl=maybe", "ssl='maybe', expected 1 or 0"),
    ],
)
def test_mariadb_tells_which_option_of_tls_is_wrong(options: str, told: str) -> None:
    with pytest.raises(UsageError) as caught:
        MariaDbStore(f"mariadb://shop:{PASSWORD}@127.0.0.1/orders?{options}", SERVICE)
    assert told in str(caught.value)
    assert PASSWORD not in str(caught.value)
