"""Stacks: which databases and which broker a run uses. The services' code is the same on all; two URLs differ.

A name is `<store>-<broker>`, or one of PRESETS. The servers are started here, on the loopback, each behind a proxy that
can cut the line, and are stopped at the end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import servers
from servers import Server, ServerMissing, TcpProxy

from ensue.errors import StoreUnavailable
from shop.demo.databases import Database, Databases, database_at
from shop.demo.directory import CannotRun
from shop.demo.services import SERVICES

Url = Callable[[Server, str], str]


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """server: what to start, None: files. url: of a service's database, or of the log (by the name `ensue`).

    durable: whether a kill must not take anything away, so the server has to sync what it acknowledges.
    """

    server: type[Server] | type[servers.NatsCluster] | None
    url: Callable[..., str]
    durable: bool = False


STORES: Mapping[str, Kind] = {
    "sqlite": Kind(None, lambda directory, name: f"sqlite:///{directory.absolute()}/{name}.db"),
    "postgres": Kind(servers.PostgresServer, lambda server, name: server.url(name)),
    "psycopg": Kind(servers.PostgresServer, lambda server, name: server.url(name, "postgresql+psycopg")),
    "wal": Kind(servers.PostgresServer, lambda server, name: server.url(name) + "?outbox=wal"),
    "mariadb": Kind(servers.MariaDbServer, lambda server, name: server.url(name)),
    # For views alone: orders and customers have SQLite files then.
    "redisview": Kind(servers.RedisServer, lambda server, name: server.url(1), durable=True),
    "mongodbview": Kind(servers.MongoDbServer, lambda server, name: server.url(name)),
}
BROKERS: Mapping[str, Kind] = {
    "embedded": Kind(None, lambda directory, name: f"sqlite:///{directory.absolute()}/broker.db"),
    "kafka": Kind(servers.KafkaServer, lambda server, name: server.url()),
    "nats": Kind(servers.NatsServer, lambda server, name: server.url()),
    "rabbitmq": Kind(servers.RabbitMqServer, lambda server, name: server.url()),
    "redis": Kind(servers.RedisServer, lambda server, name: server.url(), durable=True),
    "postgres": Kind(servers.PostgresServer, lambda server, name: server.url(name)),
}
#: The stores of orders, customers and order_history, and the broker. payments has the store of orders.
PRESETS: Mapping[str, tuple[str, str, str, str]] = {
    "embedded": ("sqlite", "sqlite", "sqlite", "embedded"),
    "postgres": ("postgres", "postgres", "postgres", "postgres"),
    "polyglot": ("postgres", "mariadb", "redisview", "kafka"),
    "polyglot-mongodb": ("postgres", "mariadb", "mongodbview", "nats"),
}


def parts(name: str) -> tuple[str, str, str, str]:
    """Return the stores of the three services and the broker that a name means. Raises CannotRun."""
    if name in PRESETS:
        return PRESETS[name]
    store, _, broker = name.partition("-")
    if store not in STORES or broker not in BROKERS:
        raise CannotRun(
            f"there is no stack {name!r}: give {', '.join(PRESETS)}, or <store>-<broker> of the stores "
            f"{', '.join(STORES)} and the brokers {', '.join(BROKERS)}"
        )
    if store.endswith("view"):
        return "sqlite", "sqlite", store, broker
    return store, store, store, broker


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A server and the proxy through which the services reach it."""

    name: str
    server: Server
    proxy: TcpProxy


@dataclasses.dataclass(frozen=True, slots=True)
class Stack:
    """Servers that run. environment: settings of the services. databases: read past them, and past the proxies.

    brokers, stores: by what they serve; empty where files do. A server that is both is in both.
    """

    name: str
    environment: Mapping[str, str]
    databases: Databases
    brokers: tuple[Line, ...]
    stores: tuple[Line, ...]

    @property
    def lines(self) -> tuple[Line, ...]:
        return tuple({id(each.server): each for each in (*self.brokers, *self.stores)}.values())

    @property
    def away(self) -> tuple[type[Exception], ...]:
        """Errors of databases whose server is being killed."""
        if not self.stores:
            return ()
        import psycopg
        import pymongo.errors
        import pymysql
        import redis.exceptions

        return (
            psycopg.Error,
            pymysql.MySQLError,
            redis.exceptions.RedisError,
            pymongo.errors.PyMongoError,
            OSError,
            StoreUnavailable,
        )


@contextmanager
def running(name: str, directory: Path, services: Sequence[str] = SERVICES) -> Iterator[Stack]:
    """Start the servers of a stack; stop them and remove their data at the end. Raises CannotRun when one is missing.

    Each kind of server is started once, whatever it is used for. The proxies are opened in an event loop: they are
    context managers of their own.
    """
    *stores, broker = parts(name)
    started: dict[type[object], Line] = {}
    with ExitStack() as closing:

        def line(kind: Kind) -> Line | None:
            if kind.server is None:
                return None
            found = started.get(kind.server)
            if found is None:
                try:
                    server = kind.server(durable=kind.durable)  # type: ignore[call-arg]  # a cluster is no stack yet
                except ServerMissing as error:
                    raise CannotRun(f"stack {name}: {error}") from None
                assert isinstance(server, Server)
                closing.callback(server.close)
                proxy = TcpProxy(server.port)
                if isinstance(server, servers.KafkaServer):
                    server.advertised = proxy.port  # else its clients would go past the proxy
                server.start()
                found = started[kind.server] = Line(server.name, server, proxy)
            return found

        environment: dict[str, str] = {}
        databases: dict[str, Database] = {}
        store_lines: list[Line] = []
        of_service = dict(zip(SERVICES, stores, strict=True)) | {"payments": stores[0]}
        for service in services:
            store = of_service[service]
            kind = STORES[store]
            found = line(kind)
            url = kind.url(found.server if found else directory, service)
            databases[service] = database_at(service, url)
            environment[f"ENSUE_{service.upper()}_DATABASE"] = through(url, found)
            if found is not None and found not in store_lines:
                store_lines.append(found)
        kind = BROKERS[broker]
        found = line(kind)
        environment["ENSUE_BROKER"] = through(kind.url(found.server if found else directory, "ensue"), found)
        yield Stack(name, environment, databases, (found,) if found else (), tuple(store_lines))


def through(url: str, line: Line | None) -> str:
    """The same URL by way of the proxy."""
    if line is None:
        return url
    split = urlsplit(url)
    return urlunsplit(split._replace(netloc=split.netloc.replace(f":{line.server.port}", f":{line.proxy.port}")))
