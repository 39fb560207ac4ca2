"""What probes are answered, by whichever application serves them. Needs Starlette, and nothing of FastAPI."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from ensue.app import Service
from ensue.engine.readiness import Detailed, ReadyLimits
from ensue.engine.runtime import Runtime
from ensue.errors import UsageError
from ensue.integrations import problems

UNHEALTHY = "urn:ensue:problem:unhealthy"
NOT_READY = "urn:ensue:problem:not-ready"
NOT_RUNNING = "the service does not run in this process"


def runtime_of(service: Service) -> Runtime | None:
    """None: it does not run in this process, or not yet."""
    try:
        return service.runtime
    except UsageError:
        return None


def unavailable(request: Request, limits: ReadyLimits, title: str, type: str, reasons: Sequence[str]) -> Response:
    """503, a problem document with the reasons, without names of hosts, databases or keys unless `limits.details`."""
    told = reasons if limits.details else [each.brief if isinstance(each, Detailed) else each for each in reasons]
    shown = [problems.printable(each) for each in told]
    return problems.response(
        request, 503, title, "; ".join(shown), type=type, headers={"Retry-After": "1"}, reasons=shown
    )
