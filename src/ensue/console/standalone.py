"""The ways in where there is no host with users of its own: a link that is good once, from this machine alone; or a
proxy in front that says in a header who it is."""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Collection, Sequence
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from ensue.console.access import Actor, NotAllowed, NotAuthenticated, Role
from ensue.console.cookies import found_cookie
from ensue.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_FIELD_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
#: The cookie with the session for which the link's token was exchanged. Under which name a browser has it: `cookies`.
SESSION_COOKIE: Final = "ensue-session"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class OneTimeLink:
    """A token for a link that is printed, and the session for which it is exchanged once.

    make: returns a new secret each time, such as `lambda: secrets.token_urlsafe(32)`. name: of who comes by it.
    Give it as `authorize`: it lets in who has the session's cookie, asks a loopback name, and comes from this machine.
    """

    def __init__(self, make: Callable[[], str], name: str, roles: Collection[Role | str] = (Role.ADMIN,)) -> None:
        self._actor = Actor(name, roles)
        self.token = make()
        self._session = make()
        self._redeemed = False

    def redeem(self, token: str) -> str:
        """Return the session, for the cookie. Raises NotAuthenticated for another token, and the second time: whoever
        finds the link in a history, or in a log, gets in no more."""
        if not _same(token, self.token):
            raise NotAuthenticated(
                "this link's token is not the one that was printed: take the link as it stands there"
            )
        if self._redeemed:
            raise NotAuthenticated(
                "this link has been used already, and is good once: start the console again for another"
            )
        self._redeemed = True
        return self._session

    def __call__(self, connection: HTTPConnection) -> Actor | None:
        check_loopback(connection)
        session = found_cookie(SESSION_COOKIE, connection)
        return self._actor if self._redeemed and _same(session, self._session) else None


def check_loopback(connection: HTTPConnection) -> None:
    """Raise NotAllowed unless it comes from this machine, and asks for it by a name that no other can take: a page from
    elsewhere whose name was made to lead here asks for that name."""
    client = connection.client
    if client is None or not is_loopback(client.host):
        raise NotAllowed("this is for who sits at this machine: the request comes from elsewhere")
    name = _name_of(connection.headers.get("host", ""))
    if name not in _LOOPBACK_NAMES:
        raise NotAllowed(f"the Host {name[:80]!r} is no name of this machine alone: ask for 127.0.0.1 or localhost")


class ProxyHeader:
    """Lets in whom a proxy names. Give it as `authorize`.

    header: in which the proxy writes who it is; it must take out of the request what a client has written there.
    trusted: the proxy's addresses. roles: of everybody whom it names. roles_header: in which it writes their roles
    instead, with commas between; what is no role of ours there counts for nothing. The server must hand on the
    connection's own address (uvicorn: `proxy_headers=False`), not one from X-Forwarded-For.
    """

    def __init__(
        self,
        header: str,
        trusted: Sequence[Network],
        roles: Collection[Role | str] = (Role.READER,),
        roles_header: str = "",
    ) -> None:
        for name in (header, *filter(None, [roles_header])):
            if not _FIELD_NAME.fullmatch(name):
                raise UsageError(f"{name!r:.80} is no name of a header, expected one such as X-Forwarded-User")
        if header.lower() == roles_header.lower():
            raise UsageError(
                f"--roles-header {header} is the one that says who it is: whoever is named admin would be one"
            )
        if not trusted:
            raise UsageError(
                f"--auth proxy-header={header} without --trusted-proxy: anybody could write that header; say from "
                "which addresses the proxy comes, such as --trusted-proxy 10.0.0.5/32"
            )
        for network in trusted:
            if not network.prefixlen:
                raise UsageError(f"--trusted-proxy {network} is everybody: expected the proxy's own addresses")
        Actor("proxy", roles)
        self.header, self._trusted, self._roles, self._roles_header = header, tuple(trusted), roles, roles_header

    def __call__(self, connection: HTTPConnection) -> Actor | None:
        client = connection.client
        if client is None or not self.trusts(client.host):
            raise NotAllowed("this is behind a proxy, and the request does not come from it")
        name = _single(connection, self.header)
        if not name:
            return None
        roles = self._roles
        if self._roles_header:
            said = (each.strip().lower() for each in _single(connection, self._roles_header).split(","))
            roles = [each for each in said if each in set(Role)]
        try:
            return Actor(name, roles)
        except UsageError as error:  # the proxy's name, not the programmer's
            raise NotAllowed(f"the header {self.header} names nobody who could be written down: {error}") from error

    def trusts(self, host: str) -> bool:
        """Whether the proxy is there."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:  # a socket file, say
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)


class BehindProxy:
    """ASGI: what a browser asked for over https is https here, where the proxy says so in X-Forwarded-Proto, once.
    The header counts for nothing when it comes from elsewhere."""

    def __init__(self, application: ASGIApp, trusts: Callable[[str], bool]) -> None:
        self._application, self._trusts = application, trusts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            connection = HTTPConnection(scope)
            said = [each.strip().lower() for each in connection.headers.getlist("x-forwarded-proto")]
            if said in (["https"], ["http"]) and connection.client and self._trusts(connection.client.host):
                scope = {**scope, "scheme": said[0]}
        await self._application(scope, receive, send)


def proxy_header(
    auth: str, trusted: Sequence[str], roles: Collection[Role | str] = (Role.READER,), roles_header: str = ""
) -> ProxyHeader:
    """From the options: `--auth proxy-header=NAME`, each `--trusted-proxy CIDR`, `--roles-header NAME`. Raises
    UsageError."""
    kind, equals, name = auth.partition("=")
    if kind != "proxy-header" or not equals:
        raise UsageError(f"--auth {auth[:80]!r}, expected proxy-header=NAME, such as proxy-header=X-Forwarded-User")
    networks: list[Network] = []
    for each in trusted:
        try:
            networks.append(ipaddress.ip_network(each))
        except ValueError as error:
            raise UsageError(
                f"--trusted-proxy {each[:80]!r}: {error}; expected addresses such as 10.0.0.5/32 or fd00::/64"
            ) from error
    return ProxyHeader(name, networks, roles, roles_header)


def _single(connection: HTTPConnection, header: str) -> str:
    """The header's value. Raises NotAllowed when it is there twice: one of them is a client's own."""
    found = connection.headers.getlist(header)
    if len(found) > 1:
        raise NotAllowed(
            f"the header {header} is there {len(found)} times: the proxy has to replace what a client sends"
        )
    return found[0].strip() if found else ""


def _name_of(host: str) -> str:
    """Of a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))
