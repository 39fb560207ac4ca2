"""`/livez`, `/healthz`, `/readyz` and `/metrics` of a process that has no web app: what `ensue run --http` serves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ensue.app import Service
from ensue.engine.readiness import Detailed, ReadyLimits
from ensue.engine.runtime import Runtime
from ensue.errors import RetryableError
from ensue.integrations import problems
from ensue.integrations.probe_answers import NOT_READY, NOT_RUNNING, UNHEALTHY, runtime_of, unavailable

PATHS = ("/livez", "/healthz", "/readyz", "/metrics")


def probe_routes(services: Sequence[Service], limits: ReadyLimits) -> list[Route]:
    """Return /livez, /healthz and /readyz for all services of this process at once: 503 where it is not so of one of
    them; of several the reasons, and the remarks, begin with the service's name."""

    async def said(ask: Callable[[Runtime], Awaitable[list[str]]]) -> list[str]:
        found: list[str] = []
        for service in services:
            runtime = runtime_of(service)
            told = [NOT_RUNNING] if runtime is None else await ask(runtime)
            found += told if len(services) == 1 else [_named(service.name, each) for each in told]
        return found

    async def livez(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def healthz(request: Request) -> Response:
        found = await said(lambda runtime: runtime.unhealthy(limits.answer_s))
        if found:
            return unavailable(request, limits, "Unhealthy", UNHEALTHY, found)
        return JSONResponse({"status": "ok"})

    async def readyz(request: Request) -> Response:
        found = await said(lambda runtime: runtime.readiness(limits))
        if found:
            return unavailable(request, limits, "Not ready", NOT_READY, found)
        remarks = await said(lambda runtime: runtime.remarks(limits)) if limits.details else []
        return JSONResponse({"status": "ok", "remarks": remarks} if remarks else {"status": "ok"})

    answers: tuple[Any, ...] = (livez, healthz, readyz)
    return [Route(path, answer, methods=["GET"]) for path, answer in zip(PATHS, answers, strict=False)]


def probes_app(services: Sequence[Service], limits: ReadyLimits) -> Starlette:
    """Return an application that answers for all services of this process at once.

    It answers as `probe_routes` do, and with the metrics of all. Without prometheus-client `/metrics` is 404, and says
    what to install.
    """

    async def metrics(request: Request) -> Response:
        try:
            from ensue.integrations.exposition import CONTENT_TYPE_LATEST, exposition
        except ImportError:
            return problems.response(request, 404, detail='metrics need: pip install "ensue[prometheus]"')
        running = [each for each in services if runtime_of(each) is not None]
        if not running:
            return unavailable(request, limits, "Not ready", NOT_READY, [NOT_RUNNING])
        try:
            written = await exposition(running)
        except RetryableError as error:
            brief = Detailed(str(error), "a database does not answer")
            return unavailable(request, limits, "Unhealthy", UNHEALTHY, [brief])
        return Response(written, media_type=CONTENT_TYPE_LATEST)

    routes = [*probe_routes(services, limits), Route(PATHS[-1], metrics, methods=["GET"])]
    return Starlette(routes=routes, exception_handlers={HTTPException: _problem})


def _named(service: str, reason: str) -> str:
    if isinstance(reason, Detailed):
        return Detailed(f"{service}: {reason}", f"{service}: {reason.brief}")
    return f"{service}: {reason}"


def _problem(request: Request, error: Exception) -> Response:
    """Another path or method."""
    assert isinstance(error, HTTPException)
    detail = f"there are {', '.join(PATHS)}" if error.status_code == 404 else ""
    return problems.response(request, error.status_code, detail=detail, headers=error.headers)
