"""What a URL says about RabbitMQ: address, credentials, TLS, limits, and how long the log keeps records."""

from __future__ import annotations

import dataclasses
import ssl
from urllib.parse import parse_qsl, unquote, urlsplit

from ensue.addresses import check_encoded
from ensue.errors import UsageError

_OPTIONS = frozenset(
    {
        "prefix", "timeout_s", "heartbeat_s", "max_age", "max_length_bytes", "segment_bytes",
        "cafile", "certfile", "keyfile",
    }
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RabbitMqSettings:
    """timeout_s: how long to wait for a connection, an answer, a confirmation. max_age, max_length_bytes: what a
    stream keeps at most (RabbitMQ's `x-max-age`, e.g. `7D`; empty and 0: all), dropped by whole segments.
    """

    host: str
    port: int
    user: str = dataclasses.field(repr=False)
    password: str = dataclasses.field(repr=False)
    vhost: str
    tls: ssl.SSLContext | None
    prefix: str = ""
    timeout_s: float = 5.0
    heartbeat_s: int = 10
    max_age: str = ""
    max_length_bytes: int = 0
    segment_bytes: int = 0

    @classmethod
    def of(cls, url: str) -> RabbitMqSettings:
        """Raises UsageError that names the option."""
        check_encoded("broker URL", url)
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := options.keys() - _OPTIONS:
            raise UsageError(f"broker URL has the option {min(unknown)}, expected one of {', '.join(sorted(_OPTIONS))}")
        tls = None
        try:
            port = parts.port
            if parts.scheme == "amqps":
                tls = ssl.create_default_context(cafile=options.get("cafile"))
                if "certfile" in options:
                    tls.load_cert_chain(options["certfile"], options.get("keyfile"))
            return cls(
                host=parts.hostname or "localhost",
                port=port or (5671 if tls else 5672),
                user=unquote(parts.username or "guest"),
                password=unquote(parts.password or "guest"),
                vhost=unquote(parts.path[1:]) or "/",
                tls=tls,
                prefix=options.get("prefix", ""),
                timeout_s=_number(options, "timeout_s", 5.0, 0.1),
                heartbeat_s=int(_number(options, "heartbeat_s", 10, 1)),
                max_age=options.get("max_age", ""),
                max_length_bytes=int(_number(options, "max_length_bytes", 0, 0)),
                segment_bytes=int(_number(options, "segment_bytes", 0, 0)),
            )
        except (OSError, ValueError) as error:
            raise UsageError(f"the URL of the RabbitMQ broker: {error}") from error

    @property
    def place(self) -> str:
        """What may be shown: no user, no password."""
        return f"{'amqps' if self.tls else 'amqp'}://{self.host}:{self.port}/{self.vhost.lstrip('/')}"


def _number(options: dict[str, str], name: str, default: float, least: float) -> float:
    text = options.get(name)
    if text is None:
        return default
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not least <= number <= 2**53:
        raise UsageError(f"broker URL option {name} is {text!r}, expected a number of at least {least:g}")
    return number
