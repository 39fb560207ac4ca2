"""What another site's page, a proxy, and a link that was used already are refused."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence

import httpx
import pytest
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection

from ensue import Service
from ensue.console.access import Actor, NotAllowed, NotAuthenticated, Role
from ensue.console.alone import standalone
from ensue.console.cookies import cookie_name
from ensue.console.payloads import Payloads
from ensue.console.same_origin import check_same_origin, checked_origins
from ensue.console.standalone import SESSION_COOKIE, OneTimeLink, ProxyHeader, is_loopback, proxy_header
from ensue.errors import UsageError


def connection(client: str = "127.0.0.1", *headers: tuple[str, str]) -> HTTPConnection:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return HTTPConnection({"type": "http", "client": (client, 5000), "headers": raw})


SAME = [
    {},
    {"sec-fetch-site": "same-origin", "origin": "https://desk.example"},
    {"sec-fetch-site": "none"},
    {"origin": "https://desk.example", "host": "desk.example"},
    {"origin": "http://localhost:8080", "host": "localhost:8080"},
    {"origin": "https://other.example", "sec-fetch-site": "cross-site", "host": "desk.example"},
]
CROSS = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site", "origin": "https://blog.desk.example"},
    {"origin": "null", "host": "desk.example"},
    {"origin": "https://desk.example:8443", "host": "desk.example"},
    {"origin": "https://evil.example", "host": "desk.example"},
    {"origin": "https://[", "host": "desk.example"},
]


@pytest.mark.parametrize("headers", SAME)
def test_a_request_of_the_own_page_or_of_a_program_may_change_something(headers: dict[str, str]) -> None:
    check_same_origin("POST", Headers(headers), checked_origins(["https://OTHER.example"]))


@pytest.mark.parametrize("headers", CROSS)
def test_a_request_that_another_site_began_may_only_look(headers: dict[str, str]) -> None:
    for method in ("POST", "DELETE", "put"):
        with pytest.raises(NotAllowed, match="would change something"):
            check_same_origin(method, Headers(headers))
    check_same_origin("GET", Headers(headers))


def test_two_origins_are_none() -> None:
    raw = [(b"origin", b"https://desk.example"), (b"origin", b"https://evil.example"), (b"host", b"desk.example")]
    with pytest.raises(NotAllowed, match="twice"):
        check_same_origin("POST", Headers(raw=raw))


@pytest.mark.parametrize("origin", ["desk.example", "https://desk.example/", "https://", "null", "ftp://desk.example"])
def test_what_is_no_origin_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(UsageError, match="expected scheme and host alone"):
        checked_origins([origin])


def link() -> OneTimeLink:
    secrets = (f"secret-{number}" for number in itertools.count())
    return OneTimeLink(lambda: next(secrets), "ann")


def test_a_link_is_good_once() -> None:
    way = link()
    with pytest.raises(NotAuthenticated, match="not the one that was printed"):
        way.redeem("secret-1")
    session = way.redeem(way.token)
    assert session != way.token
    with pytest.raises(NotAuthenticated, match="used already"):
        way.redeem(way.token)
    came = connection("127.0.0.1", ("host", "127.0.0.1:8080"), ("cookie", f"{SESSION_COOKIE}-8080={session}"))
    assert way(came) == Actor("ann", [Role.ADMIN])
    assert way(connection("127.0.0.1", ("host", "localhost"), ("cookie", f"{SESSION_COOKIE}={way.token}"))) is None


def test_no_session_counts_before_the_link_was_used() -> None:
    assert link()(connection("::1", ("host", "[::1]:8080"), ("cookie", f"{SESSION_COOKIE}-8080=secret-1"))) is None


@pytest.mark.parametrize(("client", "host"), [("10.0.0.1", "localhost"), ("127.0.0.1", "rebound.example:8080")])
def test_the_link_is_for_this_machine_and_its_own_names(client: str, host: str) -> None:
    way = link()
    session = way.redeem(way.token)
    with pytest.raises(NotAllowed):
        way(connection(client, ("host", host), ("cookie", f"{SESSION_COOKIE}={session}")))


def test_loopback_is_what_no_other_machine_reaches() -> None:
    assert [is_loopback(each) for each in ("127.3.2.1", "::1", "localhost", "0.0.0.0", "::", "10.0.0.1", "")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip


def test_a_proxy_says_who_it_is() -> None:
    way = proxy_header("proxy-header=X-User", ["10.0.0.0/24", "fd00::/64"])
    assert way(connection("10.0.0.5", ("X-User", "ann"))) == Actor("ann", ["reader"])
    assert way(connection("::ffff:10.0.0.5", ("X-User", "ann"))) == Actor("ann", ["reader"])
    assert way(connection("10.0.0.5")) is None
    assert way(connection("10.0.0.5", ("X-User", " "))) is None


def test_a_proxy_may_say_which_roles() -> None:
    way = ProxyHeader("X-User", proxy_header("proxy-header=X", ["10.0.0.5/32"])._trusted, roles_header="X-Groups")
    assert way(connection("10.0.0.5", ("X-User", "ann"), ("X-Groups", "staff, Operator"))) == Actor("ann", ["operator"])
    assert way(connection("10.0.0.5", ("X-User", "ann"))) == Actor("ann", [])


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("10.0.1.5", [("X-User", "ann")]),
        ("no address", [("X-User", "ann")]),
        ("10.0.0.5", [("X-User", "ann"), ("X-User", "root")]),
        ("10.0.0.5", [("X-User", "a" * 300)]),
    ],
)
def test_a_header_that_the_proxy_alone_has_not_written_is_refused(
    client: str, headers: Sequence[tuple[str, str]]
) -> None:
    with pytest.raises(NotAllowed):
        proxy_header("proxy-header=X-User", ["10.0.0.0/24"])(connection(client, *headers))


@pytest.mark.parametrize(
    ("auth", "trusted", "said"),
    [
        ("none", ["10.0.0.5/32"], "expected proxy-header=NAME"),
        ("proxy-header=", ["10.0.0.5/32"], "no name of a header"),
        ("proxy-header=X User", ["10.0.0.5/32"], "no name of a header"),
        ("proxy-header=X-User", [], "without --trusted-proxy"),
        ("proxy-header=X-User", ["0.0.0.0/0"], "is everybody"),
        ("proxy-header=X-User", ["10.0.0.5/8"], "has host bits set"),
    ],
)
def test_options_that_would_let_in_more_than_they_say_are_refused(auth: str, trusted: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        proxy_header(auth, trusted)


def test_two_consoles_of_one_machine_do_not_take_each_other_s_cookies() -> None:
    """A browser keeps cookies by the host, whatever the port; and sends those of / to all that is mounted below."""

    def name(host: str, root: str = "", scheme: str = "http") -> str:
        scope = {"type": "http", "scheme": scheme, "root_path": root, "headers": [(b"host", host.encode())]}
        return cookie_name("ensue-form", HTTPConnection(scope))

    hosts = ("127.0.0.1:8040", "127.0.0.1:8041", "[::1]:8042", "desk.example")
    names = [name(host, root, scheme) for host in hosts for root in ("", "/ensue") for scheme in ("http", "https")]
    assert len(set(names)) == len(names)
    assert name(hosts[0]) == "ensue-form-8040"
    assert name(hosts[3], scheme="https") == "__Host-ensue-form"
    assert re.fullmatch(r"[\w-]+", name("a;b=c:12;x", "/a;b=c")), "no sign that ends a cookie"


async def test_behind_tls_a_cookie_is_secure_and_only_the_proxy_says_that_it_is_tls() -> None:
    way = proxy_header("proxy-header=X-User", ["10.0.0.0/24"])
    application = standalone([Service("behind_tls")], way, Payloads.MASKED, {})

    async def cookie(client: str, *proto: str) -> str:
        headers = [("host", "desk.example"), ("x-user", "ann"), *(("x-forwarded-proto", each) for each in proto)]
        transport = httpx.ASGITransport(application, client=(client, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://inside:8040", headers=headers) as browser:
            return (await browser.get("/topology")).headers["set-cookie"]

    secure = await cookie("10.0.0.5", "https")
    assert secure.startswith("__Host-ensue-form=")
    assert "; Path=/;" in secure
    assert "; Secure" in secure
    assert "Domain" not in secure
    for plain in (
        await cookie("10.0.0.5"),
        await cookie("10.0.0.5", "http", "https"),
        await cookie("10.0.9.9", "https"),
    ):
        assert plain.startswith("ensue-form=")
        assert "Secure" not in plain
