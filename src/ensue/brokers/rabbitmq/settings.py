"""What a URL says about RabbitMQ: address, credentials, TLS, limits, and how long the log keeps records."""

from __future__ import annotations

import dataclasses
import ssl
from urllib.parse import unquote, urlsplit

from ensue.addresses import Options, check_encoded, hosts_of
from ensue.errors import UsageError
from ensue.tls import demanded


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMqSettings:
    """timeout_s: how long to wait for a connection, an answer, a confirmation. max_age: how long a stream keeps its
    records (RabbitMQ's `x-max-age`, e.g. `7D`; empty: for ever); they are dropped by whole segments.
    hosts: with their ports, tried in turn. mechanism: how it is proven who we are, PLAIN or EXTERNAL.
    """

    hosts: tuple[tuple[str, int], ...]
    user: str = dataclasses.field(repr=False)
    password: str = dataclasses.field(repr=False)
    vhost: str
    tls: ssl.SSLContext | None
    mechanism: str = "PLAIN"
    prefix: str = ""
    timeout_s: float = 5.0
    heartbeat_s: int = 10
    max_age: str = ""
    segment_bytes: int = 0

    @classmethod
    def of(cls, url: str) -> RabbitMqSettings:
        """Raises UsageError that names the option."""
        check_encoded("broker URL", url)
        parts = urlsplit(url)
        options = Options("broker URL", parts.query)
        secure = demanded("broker URL", parts.scheme, options.left)
        cafile, certfile, keyfile = map(options.given, ("cafile", "certfile", "keyfile"))
        tls = None
        try:
            if secure:
                tls = ssl.create_default_context(cafile=cafile)
                if certfile is not None:
                    tls.load_cert_chain(certfile, keyfile)
        except (OSError, ValueError) as error:
            raise UsageError(f"the URL of the RabbitMQ broker: {error}") from error
        user, _, password = parts.netloc.rpartition("@")[0].partition(":")
        port = 5671 if tls else 5672
        settings = cls(
            hosts=hosts_of(parts.netloc, port) or (("localhost", port),),
            user=unquote(user or "guest"),
            password=unquote(password or "guest"),
            vhost=unquote(parts.path[1:]) or "/",
            tls=tls,
            mechanism=options.one_of("mechanism", "PLAIN", "EXTERNAL"),
            prefix=options.text("prefix"),
            timeout_s=options.number("timeout_s", 5, 0.1, 3600),
            heartbeat_s=options.whole("heartbeat_s", 10, 1, 65_535),
            max_age=options.text("max_age", "", r"[0-9]+[YMDhms]", "such as 7D: a number and Y, M, D, h, m or s"),
            segment_bytes=options.whole("segment_bytes", 0, 0, 2**53),
        )
        options.check_none_left()
        if settings.mechanism == "EXTERNAL" and (certfile is None or user):
            raise UsageError(
                "broker URL: mechanism=EXTERNAL proves who we are by a certificate: write certfile=, keyfile= and "
                "cafile=, and no user"
            )
        return settings

    @property
    def place(self) -> str:
        """What may be shown: no user, no password."""
        return self.place_of(*self.hosts)

    def place_of(self, *hosts: tuple[str, int]) -> str:
        names = ",".join(f"{host}:{port}" for host, port in hosts)
        return f"{'amqps' if self.tls else 'amqp'}://{names}/{self.vhost.lstrip('/')}"
