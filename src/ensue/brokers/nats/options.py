"""What the URL of a NATS broker may say: hosts, credentials, TLS, and how streams are made."""

from __future__ import annotations

import dataclasses
import ssl
from urllib.parse import unquote, urlsplit

from ensue.addresses import Options, check_encoded, hosts_of
from ensue.errors import UsageError
from ensue.tls import demanded

DEFAULT_PORT = 4222
#: Words of a subject, with dots between them.
_WORDS = r"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64})*"
_PATH = (".+", "a path")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class NatsOptions:
    """`nats://[user:password@|token@]host[:port][,host…]?…`; scheme `tls` insists on encryption.

    prefix: first part of the names of streams and subjects, so that several systems share a server.
    creds, nkey: a file with a user's token and seed; one with a seed alone.
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
    nkey: str = ""
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
    credentials = parts.netloc.rpartition("@")[0]
    user, colon, password = credentials.partition(":")
    hosts = hosts_of(parts.netloc, DEFAULT_PORT)
    if not hosts:
        raise UsageError("a NATS URL names no host: expected e.g. nats://localhost:4222")
    options = Options("NATS URL", parts.query)
    found = NatsOptions(
        hosts=hosts,
        tls=demanded("NATS URL", parts.scheme, options.left),
        user=unquote(user) if colon else "",
        password=unquote(password),
        token=options.text("token", "" if colon else unquote(user)),
        creds=options.text("creds", "", *_PATH),
        nkey=options.text("nkey", "", *_PATH),
        tls_ca=options.text("tls_ca", "", *_PATH),
        tls_cert=options.text("tls_cert", "", *_PATH),
        tls_key=options.text("tls_key", "", *_PATH),
        tls_hostname=options.text("tls_hostname", "", ".+", "a host name"),
        prefix=options.text(
            "prefix", "ensue", rf"{_WORDS}\.?", "letters, digits, _ and -, in parts separated by dots"
        ).removesuffix("."),
        replicas=options.whole("replicas", 1, 1, 5),
        storage=options.one_of("storage", "file", "memory"),
        compression=options.text("compression", "", "none|s2|", "none or s2"),
        domain=options.text("domain", "", "[A-Za-z0-9_]{1,64}", "a JetStream domain"),
        inbox=options.text("inbox", "_INBOX", r"[A-Za-z0-9_$-]+(\.[A-Za-z0-9_$-]+)*", "a subject without wildcards"),
        timeout_s=options.number("timeout_s", 5, 0, 9999),
        synced=options.flag("synced"),
    )
    options.check_none_left()
    return found
