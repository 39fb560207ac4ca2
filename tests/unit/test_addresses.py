"""URLs of servers: a password that is not percent-encoded is refused by every adapter, and no piece of it is shown."""

from __future__ import annotations

import traceback

import pytest

from ensue.adapters import BROKERS, STORES, make_broker, make_store
from ensue.addresses import Options, check_encoded, scheme_of
from ensue.errors import UsageError
from ensue.ports import Broker, Store

#: Those without an extra are files and memory: they have no password.
SCHEMES = [
    *(("store", scheme) for scheme, (*_, extra) in STORES.items() if extra),
    *(("broker", scheme) for scheme, (*_, extra) in BROKERS.items() if extra),
]


async def _make_and_open(kind: str, url: str) -> None:
    adapter: Store | Broker = make_store(url, "orders") if kind == "store" else make_broker(url)
    try:
        await adapter.open()
    finally:
        await adapter.close()


@pytest.mark.parametrize(
    "password",
    ["s3/cret", "s3#cret", "12/cret", "s3?cret", "s3@cret", "s3[cret", "s3]cret", "s3℀cret", "12/7/cret"],
)
@pytest.mark.parametrize(("kind", "scheme"), SCHEMES)
async def test_a_password_that_is_not_encoded_is_refused_and_not_shown(kind: str, scheme: str, password: str) -> None:
    with pytest.raises(UsageError, match="percent-encoded") as caught:
        await _make_and_open(kind, f"{scheme}://zoe:{password}@127.0.0.1:1/orders")
    shown = "".join(traceback.format_exception_only(caught.value)) + repr(caught.value.__dict__)
    for piece in ("s3", "12", "cret", "zoe", "127.0.0.1"):
        assert piece not in shown
    cause = caught.value.__cause__ or caught.value.__context__
    assert cause is None, "a traceback shows causes too"


@pytest.mark.parametrize(("kind", "scheme"), SCHEMES)
async def test_a_password_in_the_place_of_a_port_is_refused_and_not_shown(kind: str, scheme: str) -> None:
    with pytest.raises(UsageError, match="ports from 1 to 65535") as caught:
        await _make_and_open(kind, f"{scheme}://zoe:s3cret/orders")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "kafka://a:9092,b:9093,[::1],[::1]:9094",
        "kafkas://u%40x:p%2Fw@a,b?mechanism=PLAIN",
        "mongodb://u:p:w@a:1,b:2/orders?replicaSet=rs",
        "postgresql:///orders?host=/run/postgresql",
        "redis://:pw@h",
        "nats://token@h",
        "amqp://u:p@h:5672/%2Fvhost",
    ],
)
def test_urls_that_are_fine_are_let_through(url: str) -> None:
    check_encoded("broker URL", url)


@pytest.mark.parametrize("url", ["redis://h:0/0", "redis://h:65536/0", "kafka://a:1,b:x", "kafka://a?conf.x=u@REALM"])
def test_what_might_be_a_piece_of_a_password_is_not_taken_for_something_else(url: str) -> None:
    with pytest.raises(UsageError, match=r"the broker URL cannot be read: expected (redis|kafka)://user:password@"):
        check_encoded("broker URL", url)


@pytest.mark.parametrize("url", ["postgresql:///log", "postgresql://u:p@:5432/log", "postgresql://u:p@/log"])
def test_a_host_that_is_needed_is_asked_for(url: str) -> None:
    check_encoded("broker URL", url)
    with pytest.raises(UsageError, match="cannot be read"):
        check_encoded("broker URL", url, host_needed=True)


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("memory:", "memory"), ("SQLite:///x.db", "sqlite"), ("redis://u:[x@h", "redis"), ("orders.db", ""), ("", "")],
)
def test_the_scheme_is_read_whatever_follows(url: str, scheme: str) -> None:
    assert scheme_of(url) == scheme


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("timeout_s=soon", "broker URL: timeout_s='soon', expected a number from 0.1 to 3600"),
        ("timeout_s=nan", "broker URL: timeout_s='nan', expected a number from 0.1 to 3600"),
        ("timeout_s=", "broker URL: timeout_s='', expected a number from 0.1 to 3600"),
        ("pool_size=2.5", "broker URL: pool_size='2.5', expected a whole number"),
        ("pool_size=99", "broker URL: pool_size='99', expected a number from 1 to 8"),
        ("pgbouncer=maybe", "broker URL: pgbouncer='maybe', expected 1 or 0"),
        ("outbox=file", "broker URL: outbox='file', expected poll or wal"),
        ("prefix=a b", "broker URL: prefix='a b', expected letters"),
        (
            "retention=1",
            "broker URL: unknown option 'retention', expected one of timeout_s, pool_size, pgbouncer, outbox, prefix, "
            "more",
        ),
    ],
)
def test_an_option_that_cannot_be_is_named_with_what_is_expected(query: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        _take(Options("broker URL", query))
    assert str(caught.value) == said


def test_options_have_defaults_and_the_rest_is_left_as_it_was() -> None:
    assert _take(Options("broker URL", "")) == (10, 5, False, "poll", "ensue")
    options = Options("broker URL", "pgbouncer=TRUE&sslmode=a%2Bb c&pool_size=8&outbox=wal&prefix=&timeout_s=2.5")
    assert (options.flag("pgbouncer"), options.whole("pool_size", 5, 1, 8)) == (True, 8)
    assert (options.one_of("outbox", "poll", "wal"), options.text("prefix", "ensue")) == ("wal", "")
    assert options.number("timeout_s", 10, 0.1, 3600) == 2.5
    assert (options.left, options.left_query) == ({"sslmode": "a+b c"}, "sslmode=a%2Bb%20c")


def _take(options: Options) -> tuple[object, ...]:
    taken = (
        options.number("timeout_s", 10, 0.1, 3600),
        options.whole("pool_size", 5, 1, 8),
        options.flag("pgbouncer"),
        options.one_of("outbox", "poll", "wal"),
        options.text("prefix", "ensue", "[a-z]+", "letters"),
    )
    options.check_none_left("more")
    return taken


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("store", "mariadb://u:s3cret@a:1,b:2/d"),
        ("store", "redis://u:s3cret@a,b/0"),
        ("broker", "redis://u:s3cret@a:1,b:2/0"),
    ],
)
async def test_several_hosts_are_refused_where_one_is_all_that_the_driver_takes(kind: str, url: str) -> None:
    with pytest.raises(UsageError, match="names several hosts") as caught:
        await _make_and_open(kind, url)
    assert "s3cret" not in str(caught.value)
