"""Which adapter a URL means. The one place that knows them all, and it imports only the one that is asked for.

An installed package adds its own as an entry point named by the URL's scheme, in the group `ensue.stores`,
`ensue.brokers`, `ensue.places` or `ensue.session_outboxes`: a class that is called as Ensue's own are, `(url, service)`
for a store and `(url)` for a broker; for a place see `Place`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, cast

from ensue.addresses import scheme_of
from ensue.errors import UsageError, not_installed
from ensue.ports import Broker, Place, SessionOutbox, Store

#: scheme -> (module, class, extra to install)
STORES = {
    "sqlite": ("ensue.stores.sqlite", "SqliteStore", ""),
    "postgresql": ("ensue.stores.postgres", "PostgresStore", "postgres"),
    "postgresql+asyncpg": ("ensue.stores.postgres", "PostgresStore", "postgres"),
    "postgresql+psycopg": ("ensue.stores.postgres", "PostgresStore", "postgres"),
    "mariadb": ("ensue.stores.mariadb", "MariaDbStore", "mariadb"),
    "mysql": ("ensue.stores.mariadb", "MariaDbStore", "mariadb"),
    "mongodb": ("ensue.stores.mongodb", "MongoDbStore", "mongodb"),
    "redis": ("ensue.stores.redis", "RedisStore", "redis"),
    "rediss": ("ensue.stores.redis", "RedisStore", "redis"),
}
BROKERS = {
    "sqlite": ("ensue.brokers.embedded", "EmbeddedBroker", ""),
    "memory": ("ensue.brokers.memory", "MemoryBroker", ""),
    "kafka": ("ensue.brokers.kafka", "KafkaBroker", "kafka"),
    "kafkas": ("ensue.brokers.kafka", "KafkaBroker", "kafka"),
    "nats": ("ensue.brokers.nats", "NatsBroker", "nats"),
    "tls": ("ensue.brokers.nats", "NatsBroker", "nats"),
    "amqp": ("ensue.brokers.rabbitmq", "RabbitMqBroker", "rabbitmq"),
    "amqps": ("ensue.brokers.rabbitmq", "RabbitMqBroker", "rabbitmq"),
    "redis": ("ensue.brokers.redis", "RedisBroker", "redis"),
    "rediss": ("ensue.brokers.redis", "RedisBroker", "redis"),
    "postgresql": ("ensue.brokers.postgres", "PostgresBroker", "postgres"),
}

#: scheme -> (module, class, extra): where a version of a view lives, see `Place`.
PLACES = {scheme: (f"{module}.place", "OwnPlace", extra) for scheme, (module, _, extra) in STORES.items()}

#: The outboxes of stores that have sessions, for sessions of the user's.
SESSION_OUTBOXES = {
    scheme: (f"{module}.session_outbox", "OwnSessionOutbox", extra)
    for scheme, (module, _, extra) in STORES.items()
    if module not in ("ensue.stores.mongodb", "ensue.stores.redis")
}

#: Those whose driver makes connections to a server, and takes arguments for them.
_CONNECTING = ("postgresql", "mariadb", "mysql")


def make_store(url: str, service: str, connect_args: Mapping[str, Any] | None = None) -> Store:
    """Return the store of `service` at `url`, not yet open. connect_args: see `Service`."""
    adapter = _adapter("database", "ensue.stores", STORES, url)
    if not connect_args:
        return cast(Store, adapter(url, service))
    base = scheme_of(url).partition("+")[0]
    if base not in _CONNECTING:
        raise UsageError(
            f"service {service}: connect_args={sorted(connect_args)} are for {', '.join(_CONNECTING)}; {base} has "
            "none: leave them out, what it can be told stands in its URL"
        )
    return cast(Store, adapter(url, service, connect_args=connect_args))


def make_place(url: str, service: str, suffix: str, connect_args: Mapping[str, Any] | None = None) -> Place:
    """Return the place `suffix` (letters, digits, _) of a service whose database is at `url`: `v2`, say, for the store
    of the name `<service>@2`. An installed package adds its own in the group `ensue.places`."""
    adapter = _adapter("database of a view", "ensue.places", PLACES, url)
    return cast(Place, adapter(url, service, suffix, connect_args))


def make_session_outbox(url: str, service: str) -> SessionOutbox:
    """Return the outbox of a service whose database is at `url`, for sessions of the user's. An installed package adds
    its own in the group `ensue.session_outboxes`. Raises UsageError for a database that has no such sessions."""
    scheme = scheme_of(url)
    if scheme in STORES and scheme not in SESSION_OUTBOXES:
        raise UsageError(
            f"service {service}: its database is {scheme}, which SQLAlchemy has no sessions for: publish with a step, "
            f"`async with {service}.step() as step:`",
            found=scheme,
        )
    adapter = _adapter("database", "ensue.session_outboxes", SESSION_OUTBOXES, url)
    return cast(SessionOutbox, adapter(url, service))


def make_broker(url: str) -> Broker:
    """Return the broker at `url`, not yet open."""
    return cast(Broker, _adapter("broker", "ensue.brokers", BROKERS, url)(url))


def _adapter(what: str, group: str, known: dict[str, tuple[str, str, str]], url: str) -> Any:
    scheme = scheme_of(url)
    if scheme not in known:
        others = {each.name: each for each in entry_points(group=group)}
        if scheme in others:
            return others[scheme].load()
        schemes = sorted({*known, *others})
        base, _, driver = scheme.partition("+")
        if driver and base in schemes:
            ours = " or ".join(f"{each}://" for each in schemes if each.partition("+")[0] == base)
            raise UsageError(f"{what} URL with scheme {scheme!r}: Ensue takes no +{driver} there; write {ours}")
        close = difflib.get_close_matches(base, schemes, 1)
        example = f"perhaps {close[0]}://" if close else "e.g. sqlite:///./data.db"
        raise UsageError(
            f"{what} URL with scheme {scheme!r}: expected one of {', '.join(schemes)}, "
            f"{example}, or that of an installed package (entry points {group})"
        )  # the URL itself may hold a password: never shown
    module, name, extra = known[scheme]
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        if not extra:
            raise
        raise not_installed(f"{what} {scheme}", extra) from error
