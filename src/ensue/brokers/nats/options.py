"""What the URL of a NATS broker may say: hosts, credentials, TLS, and how streams are made."""

from __future__ import annotations

import dataclasses
import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from ensue.addresses import check_encoded
from ensue.errors import UsageError

_DEFAULT_PORT = 4222
_NAME = re.compile(r"[A-Za-z0-9_]{1,64}")
_PREFIX = re.compile(r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})*\.?")
_INBOX = re.compile(r"[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+)*")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """`nats://[user:password@|token@]host[:port][,host…]?…`; scheme `tls` insists on encryption.

    prefix: first part of the names of streams and subjects, so that several systems share a server.
    replicas, storage, compression: of streams that are made; existing ones stay as they are.
    timeout_s: how long the server may take to answer. synced: it is known to sync before it acknowledges.
    inbox: first part of the subjects of answers, for accounts whose permissions ask for one. domain: of JetStream.
    """

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    user: str = dataclasses.field(default="", repr=False)
    password: str = dataclasses.field(default="", repr=False)
    token: str = dataclasses.field(default="", repr=False)
    creds: str = ""
    tls_ca: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_hostname: str = ""
    prefix: str = "ensue"
    replicas: int = 1
    storage: str = "file"
    compression: str = ""
    domain: str = ""
    inbox: str = "_INBOX"
    timeout_s: float = 5.0
    synced: bool = False

    @property
    def address(self) -> str:
        """The hosts, for errors: never a user or a password."""
        return ",".join(f"{host}:{port}" for host, port in self.hosts)

    @property
    def api(self) -> str:
        return f"$JS.{self.domain}.API" if self.domain else "$JS.API"

    def ssl_context(self) -> ssl.SSLContext:
        """Raises UsageError when a file of certificates cannot be read."""
        try:
            context = ssl.create_default_context(cafile=self.tls_ca or None)
            if self.tls_cert:
                context.load_cert_chain(self.tls_cert, self.tls_key or None)
        except OSError as error:  # ssl.SSLError is one
            raise UsageError(f"NATS at {self.address}: the TLS files cannot be used: {error}") from error
        return context


def parse_nats_url(url: str) -> NatsOptions:
    """Raises UsageError that names the option and what was expected, and shows no part that may be a secret."""
    check_encoded("broker URL", url)
    parts = urlsplit(url)
    credentials, _, places = parts.netloc.rpartition("@")
    user, colon, password = credentials.partition(":")
    options: dict[str, Any] = {"hosts": tuple(_host(place) for place in places.split(",") if place)}
    if not options["hosts"]:
        raise UsageError("a NATS URL names no host: expected e.g. nats://localhost:4222")
    if colon:
        options["user"], options["password"] = unquote(user), unquote(password)
    elif user:
        options["token"] = unquote(user)
    options["tls"] = parts.scheme == "tls"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        options[name] = _option(name, value)
    return NatsOptions(**options)


def _host(place: str) -> tuple[str, int]:
    bracket = place.rfind("]")  # of an IPv6 address
    colon = place.rfind(":")
    host, port = (place[:colon], place[colon + 1 :]) if colon > bracket else (place, "")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise UsageError(f"a NATS URL has the port {port!r}: expected a number, e.g. nats://localhost:4222")
    return host.strip("[]"), int(port or _DEFAULT_PORT)


def _one_of(*known: str) -> re.Pattern[str]:
    return re.compile("|".join(known))


#: option -> (what a value looks like, how to say so)
_OPTIONS: Mapping[str, tuple[re.Pattern[str], str]] = {
    "prefix": (_PREFIX, "letters, digits, _ and -, in parts separated by dots"),
    "replicas": (re.compile("[1-5]"), "1 to 5"),
    "storage": (_one_of("file", "memory"), "file or memory"),
    "compression": (_one_of("", "none", "s2"), "none or s2"),
    "domain": (_NAME, "a JetStream domain"),
    "inbox": (_INBOX, "a subject without wildcards"),
    "timeout_s": (re.compile(r"[0-9]{1,4}(\.[0-9]+)?"), "seconds"),
    "synced": (_one_of("true", "false"), "true or false"),
    "token": (re.compile(".*", re.DOTALL), "a token"),
    "creds": (re.compile(".+"), "a path"),
    "tls_ca": (re.compile(".+"), "a path"),
    "tls_cert": (re.compile(".+"), "a path"),
    "tls_key": (re.compile(".+"), "a path"),
    "tls_hostname": (re.compile(".+"), "a host name"),
}


def _option(name: str, value: str) -> object:
    if name not in _OPTIONS:
        raise UsageError(f"a NATS URL has the option {name!r}: expected one of {', '.join(_OPTIONS)}")
    pattern, expected = _OPTIONS[name]
    if not pattern.fullmatch(value):
        raise UsageError(f"a NATS URL has an unusable value for {name}: expected {expected}")
    if name == "replicas":
        return int(value)
    if name == "timeout_s":
        return float(value)
    if name == "prefix":
        return value.removesuffix(".")
    return value == "true" if name == "synced" else value
