"""The console as a server of its own: from this machine by a link that is good once, or behind a proxy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from ensue.app import Service
from ensue.console.access import NotAllowed, NotAuthenticated
from ensue.console.cookies import keep_cookie
from ensue.console.patience import ANSWER_S
from ensue.console.payloads import Modes
from ensue.console.standalone import SESSION_COOKIE, BehindProxy, OneTimeLink, ProxyHeader, check_loopback
from ensue.console.visit import root_of
from ensue.console.web import app, refused

#: Where the link leads.
ENTER = "/enter"


def standalone(
    services: Sequence[Service],
    way_in: OneTimeLink | ProxyHeader,
    payloads: Modes,
    targets: Mapping[str, str],
    trace_url: str = "",
    schemas: Path | None = None,
    answer_s: float = ANSWER_S,
) -> Starlette:
    """Return the console with its way in. For a OneTimeLink the link leads to `/enter?token=...`."""
    # On one's own machine, which only its user reaches, it is for development too.
    own = isinstance(way_in, OneTimeLink)
    console = app(
        *services, authorize=way_in, payloads=payloads, targets=targets, publishing=own, trace_url=trace_url,
        schemas=schemas, answer_s=answer_s,
    )  # fmt: skip
    if isinstance(way_in, ProxyHeader):
        console.add_middleware(BehindProxy, trusts=way_in.trusts)
    if isinstance(way_in, OneTimeLink):
        console.router.routes.insert(0, Route(ENTER, _enter(way_in), methods=["GET"]))
    return console


def _enter(link: OneTimeLink) -> Callable[[Request], Awaitable[Response]]:
    async def enter(request: Request) -> Response:
        """Exchange the token for a session, and leave it behind: the address that stays in the history has none."""
        if request.method == "HEAD":  # what looks at a link before a person follows it must not use it up
            return Response(status_code=204)
        try:
            check_loopback(request)
            session = link.redeem(request.query_params.get("token", ""))
        except (NotAllowed, NotAuthenticated) as error:
            return refused(request, error)
        answer = RedirectResponse(f"{root_of(request)}/", 303)
        keep_cookie(answer, request, SESSION_COOKIE, session)
        return answer

    return enter
