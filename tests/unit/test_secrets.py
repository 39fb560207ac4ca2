"""No password of a URL in an error or what lies behind it, in anybody's log, or in a repr, whatever the adapter."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
import shutil
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import NatsServer, PostgresServer
from servers.base import free_port
from tests.conftest import required

from ensue import Service
from ensue.adapters import make_broker, make_store
from ensue.addresses import check_encoded, masked, shown
from ensue.brokers.kafka.settings import parse_kafka_url
from ensue.brokers.nats.options import parse_nats_url
from ensue.brokers.postgres.address import parse_address
from ensue.brokers.rabbitmq.settings import RabbitMqSettings
from ensue.config import Settings
from ensue.errors import EnsueError
from ensue.stores.mariadb.url import parse as parse_mariadb
from ensue.stores.postgres.tail_access import make_access
from ensue.stores.postgres.url import parse as parse_postgres

#: pymongo leaves sockets that it was about to connect to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")

PASSWORD = "Rec0gnizable"
LIMIT_S = 30.0
#: As a database (True) or a broker, with the options that keep a failure short.
URLS = [
    (True, "postgresql://shop:{password}@127.0.0.1:{port}/d?{options}"),
    (True, "postgresql+psycopg://shop:{password}@127.0.0.1:{port}/d?{options}"),
    (True, "postgresql://shop:{password}@127.0.0.1:{port}/d?outbox=wal&{options}"),
    (True, "postgresql://127.0.0.1:{port}/d?user=shop&password={password}&{options}"),
    (True, "mariadb://shop:{password}@127.0.0.1:{port}/d?{options}"),
    (True, "mongodb://shop:{password}@127.0.0.1:{port}/d?{options}"),
    (True, "redis://shop:{password}@127.0.0.1:{port}/0?{options}"),
    (False, "postgresql://shop:{password}@127.0.0.1:{port}/d?timeout_s=2&{options}"),
    (False, "kafka://shop:{password}@127.0.0.1:{port}?timeout_s=2&{options}"),
    (False, "kafka://127.0.0.1:{port}?security=sasl_plaintext&conf.sasl.username=shop&conf.sasl.password={password}"
            "&timeout_s=2&{options}"),
    (False, "nats://shop:{password}@127.0.0.1:{port}?timeout_s=2&{options}"),
    (False, "nats://127.0.0.1:{port}?token={password}&timeout_s=2&{options}"),
    (False, "amqp://shop:{password}@127.0.0.1:{port}/?timeout_s=2&{options}"),
    (False, "redis://shop:{password}@127.0.0.1:{port}/0?timeout_s=2&{options}"),
]  # fmt: skip
EVERY = pytest.mark.parametrize(("store", "url"), URLS, ids=[url.partition("@")[0] for _, url in URLS])


@pytest.fixture(autouse=True)
def logs(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """At the end nobody has logged it, the drivers at their most talkative included."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr("ensue.stores.mongodb.server.ANSWER_MS", 1500)
    yield
    assert PASSWORD not in caplog.text


async def fails(store: bool, url: str) -> None:
    with pytest.raises(EnsueError) as caught:
        await make_and_open(store, url)
    hides_it(caught.value)


async def make_and_open(store: bool, url: str) -> None:
    made: Any = make_store(url, "orders") if store else make_broker(url)
    assert PASSWORD not in repr(made)
    try:
        async with asyncio.timeout(LIMIT_S):
            await made.open()
    finally:
        await made.close()


def hides_it(error: BaseException, *others: str) -> None:
    """The error, all that is behind it, and the values of each."""
    shown = ["".join(traceback.format_exception(error)), *others]
    each: BaseException | None = error
    while each is not None:
        shown += [repr(each), repr(each.args), repr(getattr(each, "values", ""))]
        each = each.__cause__ or each.__context__
    assert [text for text in shown if PASSWORD in text] == []


@EVERY
async def test_a_closed_port_shows_no_password(store: bool, url: str) -> None:
    await fails(store, url.format(password=PASSWORD, port=free_port(), options=""))


@EVERY
@pytest.mark.parametrize(
    "options", ["colour=red", "timeout_s=soon", "pool_size=many", "sslmode=maybe", "tls_ca=/nowhere", "protocol=3"]
)
async def test_an_option_that_cannot_be_shows_no_password(store: bool, url: str, options: str) -> None:
    await fails(store, url.format(password=PASSWORD, port=free_port(), options=options))


@EVERY
@pytest.mark.parametrize("odd", ["%zz", "%", "%0", "/", "#", "?", "[", "@"])
async def test_a_password_that_cannot_be_read_shows_nothing_of_it(store: bool, url: str, odd: str) -> None:
    """libpq quotes what it cannot decode."""
    if "={password}" in url and odd in "/#?[":
        pytest.skip("in the value of an option these are letters, or begin something else")
    await fails(store, url.format(password=f"{PASSWORD}{odd}{PASSWORD}", port=free_port(), options=""))


@pytest.mark.parametrize("kind", ["mariadb_server", "redis_server", "rabbitmq_server", "kafka_server"])
async def test_a_password_that_the_server_refuses_is_not_shown(kind: str, request: pytest.FixtureRequest) -> None:
    server = request.getfixturevalue(kind)
    schemes = {"mariadb_server": "mariadb", "redis_server": "redis", "rabbitmq_server": "amqp", "kafka_server": "kafka"}
    for store, url in URLS:
        if url.startswith(schemes[kind]):
            await fails(store, url.format(password=PASSWORD, port=server.port, options=""))


async def test_a_password_that_nats_refuses_is_not_shown(start: Callable[..., Any]) -> None:
    server: NatsServer = start(NatsServer, settings=["authorization { user: shop, password: other }"])
    for store, url in URLS:
        if url.startswith("nats"):
            await fails(store, url.format(password=PASSWORD, port=server.port, options=""))


async def test_a_password_that_postgresql_refuses_is_not_shown(start: Callable[..., Any]) -> None:
    required("" if shutil.which("openssl") else "openssl is not installed: no certificate to test with")
    server: PostgresServer = start(PostgresServer, tls=True)
    server.psql("postgres", "CREATE ROLE shop LOGIN SUPERUSER PASSWORD 'other'")
    server.url("d")
    for store, url in URLS:
        if url.startswith("postgresql"):
            await fails(store, url.format(password=PASSWORD, port=server.port, options="sslmode=require"))


async def test_a_service_that_waits_for_its_broker_shows_no_password_in_its_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = f"nats://shop:{PASSWORD}@127.0.0.1:{free_port()}?timeout_s=1"
    async with Service("orders", database="sqlite://", broker=broker).running() as runtime:
        assert PASSWORD not in "".join([*await runtime.readiness(), repr(runtime), repr(runtime.settings)])
    assert "waiting for it" in caplog.text


def test_what_is_read_from_a_url_shows_no_password_in_its_repr() -> None:
    postgresql = f"postgresql://shop:{PASSWORD}@h/d?sslpassword={PASSWORD}"
    made = [
        parse_postgres(postgresql, {"password": PASSWORD}),
        make_access(parse_postgres(postgresql)),
        parse_address(postgresql),
        parse_mariadb(f"mariadb://shop:{PASSWORD}@h/d", {"password": PASSWORD}),
        parse_kafka_url(f"kafkas://shop:{PASSWORD}@h?key_password={PASSWORD}"),
        parse_nats_url(f"nats://shop:{PASSWORD}@h"),
        parse_nats_url(f"nats://{PASSWORD}@h"),
        RabbitMqSettings.of(f"amqp://shop:{PASSWORD}@h/"),
        Settings(database=postgresql, broker=f"kafka://shop:{PASSWORD}@h"),
    ]
    assert [each for each in made if PASSWORD in repr(each)] == []
    assert all(map(dataclasses.is_dataclass, made))


@pytest.mark.parametrize("url", ["sqlite://shop:{}@h/d", "sqlite:/shop:{}@h/d.db", "sqlite:///d?key={}", "shop:{}@h"])
@pytest.mark.parametrize("make", [lambda url: make_store(url, "orders"), make_broker])
def test_a_url_of_a_file_that_is_none_shows_no_password(url: str, make: Callable[[str], Any]) -> None:
    with pytest.raises(EnsueError) as caught:
        make(url.replace("{}", PASSWORD))
    hides_it(caught.value)


@pytest.mark.parametrize("raw", [" ", "/", "@", "?", "#", "[", "\t", "%"])
def test_a_url_with_a_password_that_is_not_encoded_is_not_shown(raw: str) -> None:
    for scheme in ("postgresql", "nats", "mariadb", "redis", "mongodb"):
        url = f"{scheme}://shop:Rec0g{raw}nizable@db:1/orders"
        assert not {"Rec0g", "nizable"} & set(re.findall(r"Rec0g|nizable", shown(url))), shown(url)
        with pytest.raises(EnsueError) as caught:
            check_encoded("database URL", url)
        assert not re.search(r"Rec0g|nizable", str(caught.value))


def test_a_password_is_masked_wherever_it_may_stand_in_a_url() -> None:
    for text in (
        f"x postgresql://shop:{PASSWORD}@db/orders?sslpassword={PASSWORD}&a=b y",
        f"kafka://a?conf.sasl.password={PASSWORD}&conf.sasl.oauthbearer.client.secret={PASSWORD}",
        f"nats://{PASSWORD}@a,b nats://a?token={PASSWORD}",
        f"mongodb://u:{PASSWORD}@a,b/d?tlsCertificateKeyFilePassword={PASSWORD}",
    ):
        assert PASSWORD not in masked(text)
