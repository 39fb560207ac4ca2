"""What each option of TLS demands and verifies, for each adapter: a cell is one start against one kind of server.

No URL here has the scheme with TLS: the options alone must bring it about. `docs/how-to/tls.md` has the same table.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from servers import KafkaServer, MariaDbServer, NatsServer, PostgresServer, Server
from servers.base import free_port
from servers.certificates import Certificates, certificates
from servers.tls_front import tls_in_front_of
from tests.conftest import required, started

from ensue import Service
from ensue.adapters import make_broker, make_store
from ensue.errors import BrokerUnavailable, StoreUnavailable, UsageError
from ensue.ports import Broker, Store
from ensue.stores.postgres.url import parse as parse_postgres
from ensue.tls import demanded, exposed

#: pymongo and asyncio leave sockets to the garbage collector when a handshake fails, on our side or the server's.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

RIGHT, HOST, AUTHORITY, PLAIN = "the right server", "the wrong host", "the wrong authority", "no TLS"
CELLS = (RIGHT, HOST, AUTHORITY, PLAIN)
#: What is let in when all is verified; the authority alone; nothing but that it is TLS. Without an authority nobody is.
ALL, BY_AUTHORITY, UNVERIFIED, NOBODY = {RIGHT}, {RIGHT, HOST}, {RIGHT, HOST, AUTHORITY}, set[str]()
LIMIT_S = 30.0


class Adapter(NamedTuple):
    """store: one, not a broker. url: with a host, a port, and room for options."""

    store: bool
    server: str
    url: str
    options: dict[str, set[str]]


POSTGRESQL = {
    "sslrootcert={ca}": ALL,
    "sslrootcert={ca}&sslmode=verify-full": ALL,
    "sslrootcert={ca}&sslmode=verify-ca": BY_AUTHORITY,
    "sslrootcert={ca}&sslmode=require": BY_AUTHORITY,
    "sslrootcert={ca}&ssl_min_protocol_version=TLSv1.2": ALL,
    "sslmode=require": UNVERIFIED,
    "sslmode=verify-full": NOBODY,
    "sslcert={cert}&sslkey={key}": NOBODY,
}
REDIS = {
    "ssl_ca_certs={ca}": ALL,
    "ssl_ca_certs={ca}&ssl_check_hostname=false": BY_AUTHORITY,
    "ssl_certfile={cert}&ssl_keyfile={key}": NOBODY,
    "ssl_cert_reqs=required": NOBODY,
    "ssl_cert_reqs=none": UNVERIFIED,
}
ADAPTERS = {
    "nats": Adapter(
        False, "nats", "nats://{host}:{port}?timeout_s=2&",
        {
            "tls_ca={ca}": ALL,
            "tls_ca={ca}&tls_hostname=127.0.0.1": BY_AUTHORITY,  # by another name than the URL's
            "tls_hostname=127.0.0.1": NOBODY,
            "tls_cert={cert}&tls_key={key}": NOBODY,
        },
    ),
    "rabbitmq": Adapter(
        False, "rabbitmq_server", "amqp://guest:guest@{host}:{port}/?timeout_s=10&",
        {"cafile={ca}": ALL, "certfile={cert}&keyfile={key}": NOBODY},
    ),
    "kafka": Adapter(
        False, "kafka", "kafka://{host}:{port}?timeout_s=3&",
        {
            "ca={ca}": ALL,
            "conf.ssl.ca.location={ca}": ALL,
            "ca={ca}&conf.ssl.endpoint.identification.algorithm=none": BY_AUTHORITY,
            "conf.enable.ssl.certificate.verification=false": UNVERIFIED,
            "certificate={cert}&key={key}&key_password=none": NOBODY,
        },
    ),
    "redis": Adapter(False, "redis_server", "redis://{host}:{port}/1?prefix=tls:&", REDIS),
    "redis store": Adapter(True, "redis_server", "redis://{host}:{port}/2?", REDIS),
    "mongodb": Adapter(
        True, "mongodb_server", "mongodb://{host}:{port}/tls?",
        {
            "tlsCAFile={ca}": ALL,
            "tlscafile={ca}": ALL,
            "tlsCAFile={ca}&tlsAllowInvalidHostnames=true": BY_AUTHORITY,
            "tlsAllowInvalidHostnames=true": NOBODY,
            "tlsAllowInvalidCertificates=true": UNVERIFIED,
            "tlsInsecure=true": UNVERIFIED,
            "tlsCertificateKeyFile={both}": NOBODY,
            "ssl=true&tlsCAFile={ca}": ALL,
        },
    ),
    "mariadb": Adapter(
        True, "mariadb", "mariadb://root@{host}:{port}/tls?",
        {
            "ssl_ca={ca}": ALL,
            "ssl_ca={ca}&ssl_check_hostname=0": BY_AUTHORITY,
            "ssl_verify_cert=1": NOBODY,
            "ssl_verify_cert=0": UNVERIFIED,
            "ssl_check_hostname=1": NOBODY,
            "ssl_cert={cert}&ssl_key={key}": NOBODY,
            "ssl_cipher=HIGH": NOBODY,
            "ssl=1": NOBODY,
        },
    ),
    "postgresql by asyncpg": Adapter(True, "postgres", "postgresql://postgres@{host}:{port}/postgres?", POSTGRESQL),
    "postgresql by psycopg": Adapter(
        True, "postgres", "postgresql+psycopg://postgres@{host}:{port}/postgres?schema=other&", POSTGRESQL
    ),
    "postgresql log": Adapter(False, "postgres", "postgresql://postgres@{host}:{port}/postgres?", POSTGRESQL),
}  # fmt: skip
TABLE = [
    pytest.param(adapter, options, cell, cell in lets_in, id=f"{name}: {options}: {cell}")
    for name, adapter in ADAPTERS.items()
    for options, lets_in in adapter.options.items()
    for cell in CELLS
]


def openssl_needed() -> None:
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    openssl_needed()
    yield from started(PostgresServer, tls=True)


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDbServer]:
    openssl_needed()
    for server in started(MariaDbServer, tls=True):
        server.url("tls")
        yield server


class NatsWithTls(NatsServer):
    def prepare(self) -> None:
        files = certificates(self)
        self._settings = (f'tls {{ cert_file: "{files.certificate}", key_file: "{files.key}" }}',)
        super().prepare()


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    openssl_needed()
    yield from started(NatsWithTls)


@pytest.fixture(scope="module")
def kafka() -> Iterator[KafkaServer]:
    """It tells clients to come to the port where TLS is put before it."""
    openssl_needed()
    required(KafkaServer.missing())
    server = KafkaServer()
    server.advertised = free_port()
    with server:
        yield server


@pytest.fixture(scope="module")
def stranger() -> Iterator[Certificates]:
    """Of an authority that vouches for none of the servers."""
    openssl_needed()
    for server in started(NatsWithTls):
        yield certificates(server)


#: Those that speak TLS by themselves, and who does the same without.
PLAIN_ONES = {"postgres": "postgres_server", "mariadb": "mariadb_server", "nats": "nats_server"}


@pytest.fixture
async def port(adapter: Adapter, cell: str, request: pytest.FixtureRequest) -> AsyncIterator[int]:
    server: Server = request.getfixturevalue(
        PLAIN_ONES.get(adapter.server, adapter.server) if cell == PLAIN else adapter.server
    )
    if cell == PLAIN or adapter.server in PLAIN_ONES:
        if isinstance(server, MariaDbServer):
            server.url("tls")
        yield server.port
        return
    openssl_needed()
    files = certificates(server)
    at = server.advertised or 0 if isinstance(server, KafkaServer) else 0
    async with tls_in_front_of(server.port, files.certificate, files.key, at=at) as front:
        yield front


@pytest.fixture
def files(
    adapter: Adapter, cell: str, stranger: Certificates, request: pytest.FixtureRequest, tmp_path: Path
) -> dict[str, Path]:
    mine = certificates(request.getfixturevalue(adapter.server))
    key, both = tmp_path / "client.key", tmp_path / "both.pem"
    key.write_bytes(stranger.key.read_bytes())
    key.chmod(0o600)  # libpq asks for that
    both.write_bytes(stranger.key.read_bytes() + stranger.certificate.read_bytes())
    authority = stranger.authority if cell == AUTHORITY else mine.authority
    return {"ca": authority, "cert": stranger.certificate, "key": key, "both": both}


@asynccontextmanager
async def opened(adapter: Adapter, url: str) -> AsyncIterator[Store | Broker]:
    made: Store | Broker = make_store(url, "tls") if adapter.store else make_broker(url)
    try:
        async with asyncio.timeout(LIMIT_S):
            await made.open()
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(("adapter", "options", "cell", "let_in"), TABLE)
async def test_an_option_of_tls_demands_it_and_verifies_what_the_table_says(
    adapter: Adapter,
    options: str,
    cell: str,
    let_in: bool,
    port: int,
    files: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where libpq looks for an authority that nobody named
    monkeypatch.setattr("ensue.stores.mongodb.server.ANSWER_MS", 10_000 if let_in else 1500)
    host = "localhost" if cell == HOST else "127.0.0.1"
    url = adapter.url.format(host=host, port=port) + options.format(**files)
    if let_in:
        async with opened(adapter, url):
            return
    with pytest.raises((BrokerUnavailable, StoreUnavailable, UsageError)):
        async with opened(adapter, url):
            pass


def test_the_page_about_tls_names_every_option() -> None:
    page = (Path(__file__).parents[2] / "docs/how-to/tls.md").read_text()
    named = {each.partition("=")[0] for a in ADAPTERS.values() for options in a.options for each in options.split("&")}
    assert sorted(each for each in named - {"tlscafile", "ssl", "sslmode"} if f"`{each}" not in page) == []


# ------------------------------------------------------------------------------------------------- what contradicts it


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@h/d?sslmode=disable&sslrootcert=/a.pem", "sslmode=disable lets connections be plain"),
        ("postgresql://u:s3cret@h/d?sslmode=prefer&sslrootcert=/a.pem", "write sslmode=verify-full instead"),
        ("postgresql+psycopg://u:s3cret@h/d?sslmode=allow&sslcert=/a.pem", "sslcert is for TLS"),
        ("mariadb://u:s3cret@h/d?ssl=0&ssl_ca=/a.pem", "write ssl=1 instead of ssl=0"),
        ("mysql://u:s3cret@h/d?ssl_key=/a.pem", "ssl_key is nothing without ssl_cert"),
        ("mongodb://u:s3cret@h/d?tls=false&tlsCAFile=/a.pem", "write tls=true instead of tls=false"),
        ("mongodb://u:s3cret@h/d?ssl=false&tlsinsecure=true", "write tls=true instead of ssl=false"),
        ("redis://u:s3cret@h/0?ssl_keyfile=/a.pem", "ssl_keyfile is nothing without ssl_certfile"),
        ("redis://u:s3cret@h/0?protocol=3", "protocol cannot be set"),
        ("redis://u:s3cret@h/0?decode_responses=True", "decode_responses cannot be set"),
    ],
)
async def test_a_store_whose_options_contradict_each_other_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        await make_store(url, "orders").open()
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@h/d?sslmode=disable&sslrootcert=/a.pem", "write sslmode=verify-full"),
        ("kafka://u:s3cret@h?security=sasl_plaintext&ca=/a.pem", "write kafkas:// instead"),
        ("kafkas://u:s3cret@h?security=sasl_plaintext", "kafkas:// is for TLS"),
        ("kafka://h?key=/a.pem", "key is nothing without certificate"),
        ("kafka://h?conf.security.protocol=plaintext", "write security="),
        ("nats://u:s3cret@h?tls_key=/a.pem", "tls_key is nothing without tls_cert"),
        ("amqp://u:s3cret@h/?keyfile=/a.pem", "keyfile is nothing without certfile"),
        ("redis://u:s3cret@h/0?protocol=3", "protocol cannot be set"),
    ],
)
def test_a_broker_whose_options_contradict_each_other_is_refused_with_what_to_write(url: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_broker(url)
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("database", ["postgresql://h/d?sslrootcert=/a.pem", "mariadb://h/d?ssl=1"])
def test_tls_is_said_in_the_url_or_in_the_code_but_not_in_both(database: str) -> None:
    with pytest.raises(UsageError, match="connect_args has ssl"):
        make_store(database, "orders", {"ssl": False})


@pytest.mark.parametrize("driver", ["postgresql", "postgresql+psycopg"])
def test_the_driver_is_told_to_verify_even_where_the_environment_says_otherwise(driver: str) -> None:
    assert parse_postgres(f"{driver}://h/d?sslrootcert=/a.pem").dsn.endswith("&sslmode=verify-full")
    assert parse_postgres(f"{driver}://h/d", {"sslrootcert": "/a.pem"}).dsn.endswith("?sslmode=verify-full")


# ------------------------------------------------------------------------------------- a password in plain text is told


@pytest.mark.parametrize(
    ("url", "write"),
    [
        ("postgresql://u:s3cret@db-1/d", "sslmode=verify-full"),
        ("postgresql+psycopg:///d?host=db-1&user=u&password=s3cret&sslmode=prefer", "sslmode=verify-full"),
        ("mariadb://u:s3cret@db-1/d", "ssl=1"),
        ("mongodb://u:s3cret@127.0.0.1,db-1/d", "tls=true"),
        ("kafka://u:s3cret@db-1:9092", "kafkas://"),
        ("kafka://db-1:9092?security=sasl_plaintext&conf.sasl.password=s3cret", "kafkas://"),
        ("nats://u:s3cret@db-1", "tls://"),
        ("nats://s3cret@db-1", "tls://"),
        ("nats://db-1?token=s3cret", "tls://"),
        ("amqp://u:s3cret@db-1/", "amqps://"),
        ("redis://:s3cret@db-1:6379/0", "rediss://"),
    ],
)
def test_a_password_that_goes_to_another_machine_without_tls_is_told_of(url: str, write: str) -> None:
    said = exposed("broker URL", url)
    assert said.startswith("the broker URL has a password for db-1 and demands no TLS")
    assert said.endswith(f": write {write}")
    assert "s3cret" not in said


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@127.0.0.1/d",
        "postgresql://u:p@[::1]:5432/d",
        "postgresql://u:p@localhost/d",
        "postgresql:///d?host=/run/postgresql&password=p",
        "postgresql://u@db-1/d",
        "postgresql://u:p@db-1/d?sslmode=require",
        "postgresql://u:p@db-1/d?sslrootcert=/a.pem",
        "mariadb://u:p@db-1/d?ssl_ca=/a.pem",
        "mariadb://u:p@db-1/d?unix_socket=/s.sock",
        "mongodb://u:p@db-1/d?tls=true",
        "mongodb://u:p@db-1/d?tlsInsecure=true",
        "kafkas://u:p@db-1",
        "kafka://u:p@db-1?security=SASL_SSL",
        "nats://u:p@127.1.2.3",
        "nats://db-1?creds=/a.creds",
        "tls://u:p@db-1",
        "amqps://u:p@db-1/",
        "amqp://u:p@db-1/?cafile=/a.pem",
        "rediss://:p@db-1/0",
        "sqlite:///a.db",
        "memory:x",
        "theirs://u:p@db-1/",
    ],
)
def test_nothing_is_said_of_a_password_that_stays_here_or_is_encrypted(url: str) -> None:
    assert exposed("broker URL", url) == ""


def test_a_service_says_so_in_one_line_when_it_is_made_to_run(caplog: pytest.LogCaptureFixture) -> None:
    plain = "postgresql://u:s3cret@db-1/d"
    Service("orders", database=plain, broker="amqp://u:s3cret@mq-1/").make_runtime()
    said = [each.getMessage() for each in caplog.records if "demands no TLS" in each.getMessage()]
    assert [each.partition(" has a password for ")[0] for each in said] == [
        "orders: the database URL", "orders: the broker URL",
    ]  # fmt: skip
    assert "s3cret" not in caplog.text
    caplog.clear()
    Service("orders", database=plain, broker="memory:", connect_args={"ssl": True}).make_runtime()
    assert "demands no TLS" not in caplog.text


def test_only_the_words_of_an_adapter_count() -> None:
    assert not demanded("broker URL", "memory", {"cafile": "/a.pem"})
    assert not demanded("broker URL", "kafka", {"conf.sasl.mechanism": "PLAIN", "timeout_s": "3"})
    assert demanded("database URL", "mysql", {"ssl": "YES"})
