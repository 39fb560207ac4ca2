"""`ensue console`: the console as a server of its own, beside services that run, hang or are down."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ensue.cli.completing import services_here
from ensue.cli.http import Address, listen, read_address, served
from ensue.cli.loading import load_services
from ensue.cli.operator import user
from ensue.cli.output import say
from ensue.cli.serving import Stop
from ensue.errors import UsageError, not_installed
from ensue.logs import configure

if TYPE_CHECKING:
    from ensue.console.payloads import Modes

E = TypeVar("E", bound=enum.StrEnum)

_HTTP = "127.0.0.1:8040"


def console(
    services: Annotated[
        list[str],
        typer.Argument(metavar="SERVICE", autocompletion=services_here, help="MODULE:NAME, one or several"),
    ],
    http: Annotated[
        str,
        typer.Option(
            metavar="[HOST]:PORT", help="Listen there; port 0: any that is free; without --auth, :PORT is of 127.0.0.1"
        ),
    ] = _HTTP,
    auth: Annotated[
        str,
        typer.Option(metavar="proxy-header=NAME", help="A proxy in front says in this header who it is; else by link"),
    ] = "",
    trusted_proxy: Annotated[
        list[str] | None,
        typer.Option(metavar="CIDR", help="With --auth: from which addresses the proxy comes; repeatable"),
    ] = None,
    role: Annotated[
        str, typer.Option(metavar="reader|operator|admin", help="Of whoever comes in; else admin, with --auth reader")
    ] = "",
    roles_header: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="With --auth: the proxy says in this header which roles they have, by commas"
        ),
    ] = "",
    payloads: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[ROLE=]none|masked|limited|full",
            help="How much of users' data is shown; else full, with --auth masked; by role, repeatable: --roles-header",
        ),
    ] = None,
    answer: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long a page may take where a database hangs; else 30"),
    ] = None,
    trace_url: Annotated[
        str, typer.Option(metavar="URL", help="Where traces are shown, such as https://traces.example/trace/{trace_id}")
    ] = "",
    schemas: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="The committed schemas, to compare with what services write now"),
    ] = None,
) -> None:
    """See and steer services in a browser, until Ctrl-C. They need not run: their databases and the log are asked.

    Prints a link that is good once, for a browser on this machine. Other machines come in through a proxy alone, which
    knows who they are: --auth proxy-header=X-Forwarded-User --trusted-proxy 10.0.0.5/32.
    """
    try:
        from ensue.console.access import Role
        from ensue.console.alone import ENTER, standalone
        from ensue.console.patience import ANSWER_S, checked_answer_s
        from ensue.console.payloads import usual_mode
        from ensue.console.standalone import OneTimeLink, ProxyHeader, is_loopback, proxy_header
    except ImportError as error:
        raise not_installed("ensue console", "console") from error
    address = read_address(http)
    if not address.host and not auth:
        address = Address("127.0.0.1", address.port)  # without --auth it is for this machine alone
    way_in: OneTimeLink | ProxyHeader
    if not auth:
        if trusted_proxy:
            raise UsageError("--trusted-proxy says whom --auth proxy-header=NAME believes: give that too")
        if roles_header:
            raise UsageError("--roles-header is of the proxy that --auth proxy-header=NAME believes: give that too")
        if not is_loopback(address.host):
            raise UsageError(
                f"--http {http}: without --auth the console is for this machine alone: listen at 127.0.0.1 or [::1], "
                "or put a proxy before it that knows who comes: --auth proxy-header=NAME --trusted-proxy CIDR"
            )
        way_in = OneTimeLink(lambda: secrets.token_urlsafe(32), user(), [_one_of("--role", role or "admin", Role)])
    else:
        if role and roles_header:
            raise UsageError("--role and --roles-header: the header says who has which role, so give one of them")
        roles = [_one_of("--role", role or "reader", Role)]
        way_in = proxy_header(auth, trusted_proxy or [], roles, roles_header)
    modes = _modes(payloads, by_role=bool(roles_header)) if payloads else usual_mode(loopback=not auth)
    try:
        answer_s = checked_answer_s(ANSWER_S if answer is None else answer)
    except UsageError as error:
        raise UsageError(f"--answer: {error}") from error
    definitions = load_services(services)
    configure("info")
    names = [each.name for each in definitions]
    targets = dict(zip(names, services, strict=True))
    application = standalone(definitions, way_in, modes, targets, trace_url, schemas, answer_s)
    with Stop() as stop, contextlib.closing(listen(address)) as listening:
        at = Address(address.host or "127.0.0.1", listening.getsockname()[1])
        path = f"{ENTER}?token={way_in.token}" if isinstance(way_in, OneTimeLink) else "/"
        say(f"console of {', '.join(names)}: http://{at}{path}")
        if path != "/":
            say("The link is good once, on this machine. Ctrl-C ends the console; the services go on.")
        asyncio.run(_serve(application, listening, stop))


async def _serve(application: Any, listening: socket.socket, stop: Stop) -> None:
    stopping = stop.bind()
    async with served(application, listening, lifespan=True):
        await stopping.wait()


def _modes(given: Sequence[str], *, by_role: bool) -> Modes:
    """One mode, or by role as far as it was given, which the console goes on to check."""
    from ensue.console.access import Role
    from ensue.console.payloads import Payloads, modes_of

    if len(given) == 1 and "=" not in given[0]:
        return _one_of("--payloads", given[0], Payloads)
    if not by_role:
        raise UsageError(
            f"--payloads {' --payloads '.join(given)[:80]}: whoever comes in has the one role of --role: give one "
            "mode. By role there is one with --roles-header NAME, in which the proxy says who has which"
        )
    found: dict[Role | str, Payloads | str] = {}
    for each in given:
        name, equals, mode = each.partition("=")
        if not equals:
            raise UsageError(f"--payloads {each[:80]} beside others: expected ROLE=MODE, such as reader=masked")
        role = _one_of("--payloads", name, Role)
        if role in found:
            raise UsageError(f"--payloads: {role.value} is there twice: give each role one mode")
        found[role] = _one_of(f"--payloads {role.value}", mode, Payloads)
    modes_of(found)
    return found


def _one_of(option: str, text: str, kind: type[E]) -> E:
    try:
        return kind(text)
    except ValueError as error:
        raise UsageError(f"{option} is {text!r:.80}, expected one of {', '.join(kind)}") from error
