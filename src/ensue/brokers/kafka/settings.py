"""What a Kafka URL says, and the librdkafka properties that follow from it."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any
from urllib.parse import unquote, urlsplit

from ensue.addresses import Options, check_encoded
from ensue.errors import UsageError
from ensue.texts import logger
from ensue.tls import demanded

#: librdkafka's own log lines go here, never to standard error.
client_log = logger("ensue.kafka.client")


def _of_this_client(record: logging.LogRecord) -> bool:
    """A property given by the URL goes to producer and consumer alike; the one it does not concern says so."""
    text = record.getMessage()
    return "CONFWARN" not in text or "will be ignored by this" not in text


client_log.addFilter(_of_this_client)

_SECURITY = ("plaintext", "ssl", "sasl_plaintext", "sasl_ssl")
#: Properties on which the port's promises rest.
_OURS = frozenset(
    {
        "acks", "request.required.acks", "enable.idempotence", "auto.offset.reset", "enable.auto.commit",
        "enable.auto.offset.store", "enable.partition.eof", "isolation.level", "allow.auto.create.topics",
        "bootstrap.servers", "metadata.broker.list", "transactional.id", "max.in.flight",
        "max.in.flight.requests.per.connection", "delivery.report.only.error",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSettings:
    """timeout_s: how long any request, an append too, may take before BrokerUnavailable. Sizes in bytes.

    replication: of topics made by us; -1: the cluster's default. security: librdkafka's properties of TLS and SASL,
    never shown. extra: the URL's `conf.` properties.
    """

    servers: str
    prefix: str = ""
    replication: int = -1
    timeout_s: float = 10.0
    max_message_bytes: int = 8 * 1024 * 1024
    security: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)
    extra: dict[str, str] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def compresses(self) -> bool:
        names = ("compression.type", "compression.codec")
        return any(self.extra.get(name, "none") != "none" for name in names)

    def common(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.servers,
            "client.id": "ensue",
            "logger": client_log,
            # A broker that is back is found again soon; idle connections that it closes are no news.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1000,
            "log.connection.close": False,
            "socket.nagle.disable": True,
            **self.security,
            **self.extra,
        }

    def producer(self) -> dict[str, Any]:
        return {
            "linger.ms": 0.5,
            "message.timeout.ms": int(self.timeout_s * 1000),
            "message.max.bytes": self.max_message_bytes + 64 * 1024,  # with key and headers
            "queue.buffering.max.messages": 1_000_000,
            "queue.buffering.max.kbytes": 1024 * 1024,
            **self.common(),
            "acks": "all",
            "enable.idempotence": True,
        }

    def consumer(self) -> dict[str, Any]:
        return {
            "group.id": "ensue",  # librdkafka asks for a name; we never join the group nor commit to it
            # While a fetch waits at the broker, a new partition or offset has to wait with it.
            "fetch.wait.max.ms": 100,
            "fetch.error.backoff.ms": 100,
            "fetch.queue.backoff.ms": 10,
            "queued.min.messages": 10_000,
            "queued.max.messages.kbytes": 16 * 1024,
            "message.max.bytes": self.max_message_bytes + 64 * 1024,
            **self.common(),
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "allow.auto.create.topics": False,
        }


def parse_kafka_url(url: str) -> KafkaSettings:
    """Return what the URL says. Raises UsageError that names what is wrong, never a password."""
    check_encoded("broker URL", url)
    parts = urlsplit(url)
    credentials, _, servers = parts.netloc.rpartition("@")
    servers = ",".join(
        each if ":" in each.rpartition("]")[2] else f"{each}:9092" for each in servers.split(",") if each
    )
    if not servers:
        raise UsageError("Kafka URL without a server: expected kafka://host:9092, or kafka://a:9092,b:9092")
    options = Options("Kafka URL", parts.query)
    secure = demanded("Kafka URL", parts.scheme, options.left)
    extra = {name[5:]: options.left.pop(name) for name in [*options.left] if name.startswith("conf.")}
    for name in extra.keys() & _OURS:
        raise UsageError(f"Kafka URL: {name} cannot be set, Ensue's guarantees rest on its own value")
    if "security.protocol" in extra:
        raise UsageError("Kafka URL: conf.security.protocol: write security=, or the scheme kafkas:// for TLS")
    settings = KafkaSettings(
        servers=servers,
        prefix=options.text("prefix"),
        replication=options.whole("replication", -1, 1, 2**15 - 1),
        timeout_s=options.whole("timeout_s", 10, 1, 3600),
        max_message_bytes=options.whole("max_message_bytes", 8 * 1024 * 1024, 1, 2**31 - 1),
        security=_security(secure, credentials, options),
        extra=extra,
    )
    options.check_none_left("conf.<librdkafka property>")
    return settings


def _security(tls: bool, credentials: str, options: Options) -> dict[str, str]:
    chosen = options.text("security").lower()
    if not chosen:
        chosen = ("sasl_" if credentials else "") + ("ssl" if tls else "plaintext")
    if chosen not in _SECURITY or (credentials and not chosen.startswith("sasl_")):
        raise UsageError(
            f"Kafka URL: security={chosen!r}, expected one of {', '.join(_SECURITY)} (a user needs a sasl_ one)"
        )
    mechanism = options.text("mechanism", "PLAIN")
    found = {"security.protocol": chosen}
    if chosen.startswith("sasl_"):
        user, _, password = credentials.partition(":")
        found["sasl.mechanism"] = mechanism
        if credentials:
            found |= {"sasl.username": unquote(user), "sasl.password": unquote(password)}
    for option, name in (
        ("ca", "ssl.ca.location"), ("certificate", "ssl.certificate.location"), ("key", "ssl.key.location"),
        ("key_password", "ssl.key.password"),
    ):  # fmt: skip
        if (given := options.given(option)) is not None:
            found[name] = given
    return found
