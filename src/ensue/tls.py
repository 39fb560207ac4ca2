"""What the URLs of servers say of TLS, the same for all: an option that is about TLS demands it, whatever the scheme.

Every driver has its own words, and most of them take the name of an authority and then connect in plain text, if the
scheme is not the one with TLS. So it is decided here, from the words that are listed here.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

from ensue.addresses import Options, scheme_of
from ensue.errors import UsageError


class Words(NamedTuple):
    """options: names of those that are about TLS, a regular expression. secure: what to write for TLS, in words.

    scheme: the one that demands TLS. switch: the option that switches it on or off, with which values.
    key, certificate: options of which the first is nothing without the second.
    """

    options: str
    secure: str
    scheme: str = ""
    switch: str = "(?!)"
    on: tuple[str, ...] = ()
    off: tuple[str, ...] = ()
    key: str = ""
    certificate: str = ""


_YES, _NO = ("1", "true", "yes"), ("0", "false", "no")
_POSTGRESQL = Words(
    "sslrootcert|sslcert|sslkey|sslpassword|sslcrl|sslcrldir|sslcertmode|sslnegotiation|ssl_(min|max)_protocol_version",
    "sslmode=verify-full", "", "sslmode", ("require", "verify-ca", "verify-full"), ("disable", "allow", "prefer"),
)  # fmt: skip
_MARIADB = Words(
    "ssl_(ca|capath|cert|key|cipher|verify_cert|check_hostname)", "ssl=1", "", "ssl", _YES, _NO, "ssl_key", "ssl_cert"
)
_BY_SCHEME = {
    "kafka": Words(
        r"ca|certificate|key|key_password|conf\.(ssl\..*|enable\.ssl\.certificate\.verification)", "kafkas://",
        "kafkas", "security", ("ssl", "sasl_ssl"), ("plaintext", "sasl_plaintext"), "key", "certificate",
    ),
    "nats": Words("tls_(ca|cert|key|hostname)", "tls://", "tls", key="tls_key", certificate="tls_cert"),
    "amqp": Words("(ca|cert|key)file", "amqps://", "amqps", key="keyfile", certificate="certfile"),
    "redis": Words("ssl_.*", "rediss://", "rediss", key="ssl_keyfile", certificate="ssl_certfile"),
    "mongodb": Words("tls.+", "tls=true", "", "tls|ssl", _YES, _NO),
    "postgresql": _POSTGRESQL,
    "mariadb": _MARIADB,
    "mysql": _MARIADB,
}  # fmt: skip


def _words(scheme: str) -> Words | None:
    base = scheme.partition("+")[0]
    return _BY_SCHEME.get(base) or next((each for each in _BY_SCHEME.values() if each.scheme == base), None)


def demanded(what: str, scheme: str, options: Mapping[str, str]) -> bool:
    """Whether connections must speak TLS. what: which URL, e.g. "broker URL". options: all that it has.

    Raises UsageError, which shows names of options alone, where one option contradicts the others.

    >>> demanded("broker URL", "amqp", {"cafile": "/ca.pem"}), demanded("database URL", "postgresql", {})
    (True, False)
    """
    words = _words(scheme)
    if words is None:
        return False
    about = [name for name in options if re.fullmatch(words.options, name.lower())]
    switches = {name: text for name, text in options.items() if re.fullmatch(words.switch, name.lower())}
    for name, text in switches.items():
        if text.lower() in words.off and (about or scheme == words.scheme):
            raise UsageError(
                f"{what}: {name}={text} lets connections be plain, and {', '.join(about) or f'{scheme}://'} is for "
                f"TLS: write {words.secure} instead of {name}={text}, or leave the other out",
                found=name,
            )
    if words.key in about and words.certificate not in about:
        raise UsageError(f"{what}: {words.key} is nothing without {words.certificate}: write both, or neither")
    on = any(text.lower() in words.on for text in switches.values())
    return bool(about) or on or scheme == words.scheme


def say_for_postgresql(what: str, options: dict[str, str], given: Mapping[str, object] | None = None) -> None:
    """Write into the options, which go to the driver, that it has to verify the server where they ask for TLS at all.

    given: the driver's arguments besides. libpq's own default, without `sslmode`, reads no file and is content with a
    plain connection. Raises UsageError as `demanded` does.
    """
    said = {**options, **{name: str(value) for name, value in (given or {}).items()}}
    wanted = demanded(what, "postgresql", said)
    if wanted and "ssl" in said:
        raise UsageError(
            f"{what}: it has options of TLS, and connect_args has ssl, which makes the driver forget them: say all of "
            "it in one of the two"
        )
    if wanted:
        options.setdefault("sslmode", said.get("sslmode", "verify-full"))


_SECRET = re.compile(r".*(password|passwd|token).*", re.IGNORECASE)


def exposed(what: str, url: str) -> str:
    """What to say of a URL whose password may go to another machine in plain text; empty: nothing.

    what: which URL, e.g. "broker URL". The URL is one that its adapter takes.

    >>> exposed("broker URL", "amqp://shop:s3cret@mq/")
    'the broker URL has a password for mq and demands no TLS, so others on the way may read it: write amqps://'
    >>> exposed("broker URL", "amqp://shop:s3cret@127.0.0.1/"), exposed("broker URL", "amqps://shop:s3cret@mq/")
    ('', '')
    """
    scheme, parts = scheme_of(url), urlsplit(url)
    options = Options(what, parts.query).left
    words = _words(scheme)
    credentials, _, netloc = parts.netloc.rpartition("@")
    token = credentials if scheme == "nats" else ""  # one alone, without a colon
    secret = credentials.partition(":")[2] or token or any(map(_SECRET.fullmatch, options))
    if words is None or not secret or "unix_socket" in options or demanded(what, scheme, options):
        return ""
    hosts = [host for each in (netloc or options.get("host", "")).split(",") if not _is_here(host := _name(each))]
    if not hosts:
        return ""
    return (
        f"the {what} has a password for {', '.join(hosts)} and demands no TLS, so others on the way may read it: "
        f"write {words.secure}"
    )


def _name(place: str) -> str:
    """Of `host`, `host:port`, `[address]:port`."""
    return place.partition("]")[0].lstrip("[") if place.startswith("[") else place.partition(":")[0]


def _is_here(host: str) -> bool:
    """Whether what is sent to that host stays on this machine: by the loopback, or through a socket of its own."""
    if not host or host.startswith(("/", "%2F", "%2f", "@")) or host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
