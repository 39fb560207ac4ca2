"""What every URL of a server has to keep to before any part of it is used, or shown in an error; and its options."""

from __future__ import annotations

import math
import re
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from ensue.errors import UsageError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=:)")


def scheme_of(url: str) -> str:
    """Return the scheme in small letters; empty without one. What `urlsplit` raises may show the password.

    >>> scheme_of("PostgreSQL+psycopg://u:p@[x/y"), scheme_of("orders.db")
    ('postgresql+psycopg', '')
    """
    found = _SCHEME.match(url)
    return found[0].lower() if found else ""


#: Other names of schemes that certainly mean the same, SQLAlchemy's with a driver that Ensue has no use for among them:
#: so an application's own URL will do. Not `sqlite+pysqlcipher`, say, whose files another driver cannot read.
_SAME = {
    "postgres": "postgresql",
    "postgresql+psycopg2": "postgresql",
    "postgresql+psycopg_async": "postgresql+psycopg",
    "sqlite+aiosqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    **{
        f"{base}+{driver}": base
        for base in ("mysql", "mariadb")
        for driver in ("aiomysql", "asyncmy", "mariadbconnector", "mysqlconnector", "mysqldb", "pymysql")
    },
}


def usual(url: str) -> str:
    """Return the URL with the usual name of its scheme.

    >>> usual("postgres://orders@db/orders"), usual("sqlite+aiosqlite:///shop.db"), usual("kafka://log:9092")
    ('postgresql://orders@db/orders', 'sqlite:///shop.db', 'kafka://log:9092')
    """
    scheme = scheme_of(url)
    base, plus, driver = scheme.partition("+")
    same = _SAME.get(scheme) or _SAME.get(base, base) + plus + driver
    return same + url[len(scheme) :]


_USER = re.compile(r"(?<=:/)/*[^/\s@]+(?=@)")
_SECRET = re.compile(r"(?<=[?&])([^=&\s]*(?:password|passwd|secret|token|key)[^=&\s]*)=[^&\s]*", re.IGNORECASE)


def masked(text: str) -> str:
    """Return the text with user names and passwords of its URLs replaced.

    >>> masked("postgresql://shop:s3cret@db/orders?sslpassword=x&sslmode=require")
    'postgresql://***@db/orders?sslpassword=***&sslmode=require'
    """
    return _SECRET.sub(r"\1=***", _USER.sub("/***", text))


def shown(url: str) -> str:
    """Return a URL as it may be shown, whatever is wrong with it: one that cannot be read is not shown, since where its
    password ends nobody knows.

    >>> shown("nats://shop:s3cret@log:4222"), shown("postgresql://shop:s3/cret@db"), shown("sqlite:///a b@c.db")
    ('nats://***@log:4222', 'postgresql://***', 'sqlite:///a b@c.db')
    """
    scheme = scheme_of(url)
    if scheme in ("", "memory", "sqlite"):
        return masked(url)
    return masked(url) if _is_readable(url, host_needed=False) else f"{scheme}://***"


def check_encoded(what: str, url: str, *, host_needed: bool = False) -> None:
    """Raise UsageError, which shows nothing of the URL, when user or password hold what has to be percent-encoded.

    A password with a raw `/`, `?` or `#` ends the part of the URL in which it is looked for, so its pieces would be
    taken for a port, a path or an option, and those are shown. One with a raw `@` ends there for some drivers.
    what: which URL, e.g. "broker URL". Several hosts may be named, with commas between them.
    """
    if _is_readable(url, host_needed):
        return
    raise UsageError(
        f"the {what} cannot be read: expected {scheme_of(url) or 'scheme'}://user:password@host:port/..., with special "
        "characters of user, password and values of options percent-encoded "
        "(% as %25, / as %2F, @ as %40, # as %23, ? as %3F, : as %3A, [ as %5B, ] as %5D, a space as %20), and "
        "ports from 1 to 65535"
    )


_SPACE = re.compile(r"\s")
_NO_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")


def _is_readable(url: str, host_needed: bool) -> bool:
    if _SPACE.search(url):  # which ends a URL for whoever looks for one in a text
        return False
    try:
        parts = urlsplit(url)
    except ValueError:  # a raw [ or ], or a letter that stands for one of / ? # @ :
        return False
    user, _, hosts = parts.netloc.rpartition("@")
    if "@" in f"{user}{parts.path}{parts.query}{parts.fragment}":
        return False
    if _NO_ESCAPE.search(f"{parts.netloc}{parts.path}?{parts.query}"):  # a driver would quote what it cannot decode
        return False
    if host_needed and (not hosts or hosts.startswith(":")):
        return False
    return all(_is_port(each) for each in hosts.split(","))


def _is_port(host: str) -> bool:
    """Of `host`, `host:port`, `[address]`, `[address]:port`: whether the port is one, or is not there."""
    port = host.rpartition("]")[2].partition(":")[2]
    return not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)


def hosts_of(netloc: str, default_port: int) -> tuple[tuple[str, int], ...]:
    """Return host and port of each that a URL names, which `check_encoded` has let through.

    >>> hosts_of("shop:s3cret@a,b:4333,[::1]:4444", 4222)
    (('a', 4222), ('b', 4333), ('::1', 4444))
    """
    return tuple(host_and_port(each, default_port) for each in netloc.rpartition("@")[2].split(",") if each)


def check_one_host(what: str, url: str) -> None:
    """Raise UsageError where the URL names several, which its driver takes for one of an odd name."""
    if "," in urlsplit(url).netloc.rpartition("@")[2]:
        raise UsageError(f"the {what} names several hosts: {scheme_of(url)}:// takes one, or a name for all of them")


def host_and_port(place: str, default_port: int) -> tuple[str, int]:
    """Of `host`, `host:port`, `[address]:port`."""
    bracket, colon = place.rfind("]"), place.rfind(":")
    host, port = (place[:colon], place[colon + 1 :]) if colon > bracket else (place, "")
    return host.strip("[]"), int(port or default_port)


_FLAGS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


class Options:
    """The options of a URL, each taken once. What is wrong raises UsageError that names the option, never the URL.

    what: which URL, e.g. "broker URL".

    >>> options = Options("broker URL", "timeout_s=2.5&sslmode=require")
    >>> options.number("timeout_s", 10, 0.1, 3600), options.whole("pool_size", 8, 1, 1000), options.left
    (2.5, 8, {'sslmode': 'require'})
    """

    def __init__(self, what: str, query: str) -> None:
        self._what = what
        self._asked: list[str] = []
        #: What nobody has taken yet, by name: the driver's, where it has options of its own.
        self.left = dict(parse_qsl(query, keep_blank_values=True))

    @property
    def left_query(self) -> str:
        return urlencode(self.left, quote_via=quote)  # libpq takes a + for a plus, not for a space

    def check_none_left(self, *others: str) -> None:
        """Once all that there are were asked for: refuse an unknown one. others: more that may be said."""
        for name in self.left:
            known = ", ".join((*self._asked, *others))
            raise UsageError(f"{self._what}: unknown option {name!r}, expected one of {known}", found=name)

    def given(self, name: str) -> str | None:
        """The text as it stands there; None: it does not."""
        self._asked.append(name)
        return self.left.pop(name, None)

    def text(self, name: str, default: str = "", pattern: str = ".*", expected: str = "") -> str:
        """pattern: a regular expression for the whole of what is given. expected: what that is in words."""
        text = self.given(name)
        if text is not None and not re.fullmatch(pattern, text, re.DOTALL):
            raise self.wrong(name, text, expected)
        return default if text is None else text

    def one_of(self, name: str, *choices: str) -> str:
        """The first of them is the default."""
        return self.text(name, choices[0], "|".join(map(re.escape, choices)), " or ".join(choices))

    def flag(self, name: str, default: bool = False) -> bool:
        text = self.text(name, str(default)).lower()
        if text not in _FLAGS:
            raise self.wrong(name, text, "1 or 0")
        return _FLAGS[text]

    def number(self, name: str, default: float, least: float, most: float) -> float:
        text = self.given(name)
        if text is None:
            return default
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise self.wrong(name, text, f"a number from {least:.16g} to {most:.16g}")
        return number

    def whole(self, name: str, default: int, least: int, most: int) -> int:
        number = self.number(name, default, least, most)
        if int(number) != number:
            raise self.wrong(name, f"{number:g}", "a whole number")
        return int(number)

    def wrong(self, name: str, found: str, expected: str) -> UsageError:
        return UsageError(f"{self._what}: {name}={found!r}, expected {expected}", found=found, expected=expected)
