"""The API's OpenAPI document: FastAPI's for what is asked, msgspec's for what is answered, and the problems."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from ensue.console.rest import answers, groups, letters, reading, sagas, steering, views
from ensue.console.rest.route import ACTION, ActionRoute
from ensue.errors import UsageError
from ensue.integrations.openapi import IDEMPOTENCY_KEY_PARAMETER, PROBLEM_SCHEMA, problem_responses
from ensue.operations.epoch import EpochStanding
from ensue.operations.group_decisions import Progress
from ensue.operations.partitions import Steered
from ensue.operations.status import ServiceStatus
from ensue.operations.views import ViewStatus
from ensue.views.states import ViewRow

_REFERENCE = "#/components/schemas/{name}"

#: What each route answers. A route that is not here stops the API at its start.
ANSWERS: Final[dict[Callable[..., Any], Any]] = {
    reading.show_me: answers.Me,
    reading.list_services: answers.ServiceList,
    reading.show_service: ServiceStatus,
    reading.show_topology: answers.Topology,
    reading.show_flow: answers.Flow,
    reading.list_decisions: answers.DecisionPage,
    letters.list_letters: answers.LetterPage,
    letters.show_letter: answers.LetterShown,
    letters.retry_letter: answers.LetterNow,
    letters.discard_letter: answers.LetterNow,
    letters.edit_letter: answers.LetterNow,
    letters.retry_letters: answers.LettersDecided,
    letters.discard_letters: answers.LettersDecided,
    letters.purge_letters: answers.Purged,
    groups.list_groups: answers.GroupList,
    groups.discard_group: answers.LettersDecided,
    groups.retry_group: Progress,
    steering.pause_partition: Steered,
    steering.resume_partition: Steered,
    steering.release_partition: Steered,
    steering.list_gaps: answers.GapList,
    steering.accept_loss: answers.GapDecided,
    steering.forget_gap: answers.GapDecided,
    steering.rewind_source: answers.GapDecided,
    steering.list_outbox: answers.RecordPage,
    steering.publish_event: answers.EventPublished,
    steering.withdraw_event: answers.EventWithdrawn,
    steering.show_epoch: EpochStanding,
    steering.begin_epoch: answers.EpochBegun,
    steering.replay_type: answers.Replayed,
    steering.list_timers: answers.TimerPage,
    steering.cancel_timers: answers.TimersCancelled,
    sagas.list_sagas: answers.SagaPage,
    sagas.show_saga: answers.SagaShown,
    sagas.retry_saga: answers.SagasOrdered,
    sagas.cancel_saga: answers.SagasOrdered,
    sagas.skip_operation: answers.SagasOrdered,
    sagas.retry_sagas: answers.SagasOrdered,
    sagas.cancel_sagas: answers.SagasOrdered,
    views.show_view: ViewStatus,
    views.rebuild_view: ViewRow,
    views.pause_build: ViewRow,
    views.resume_build: ViewRow,
    views.swap_version: ViewRow,
    views.accept_missing: ViewRow,
    views.roll_back: ViewRow,
    views.drop_version: ViewRow,
}
ROUTERS: Final = (
    reading.router, letters.router, groups.router, steering.router, sagas.router, views.router,
)  # fmt: skip


def routes() -> Iterator[ActionRoute]:
    """All that the API has, each once. Raises UsageError for one whose answer is not described."""
    for router in ROUTERS:
        for route in router.routes:
            if not isinstance(route, ActionRoute):
                raise UsageError(f"{route}: expected an ActionRoute, which says who may ask")
            if route.endpoint not in ANSWERS:
                raise UsageError(f"{route.path}: say in schema.py what it answers")
            yield route


def document(app: FastAPI, prefix: str = "") -> dict[str, Any]:
    """The OpenAPI 3.1 document. prefix: of all paths, where the API is mounted."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=[*routes()],
    )  # fmt: skip
    found["servers"] = [{"url": prefix or "/"}]
    structs, components = msgspec.json.schema_components([*ANSWERS.values()], ref_template=_REFERENCE)
    described = dict(zip(ANSWERS, structs, strict=True))
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schemas |= components
    schemas["Problem"] = PROBLEM_SCHEMA
    for route in routes():
        for method in route.methods or ():
            _describe(found["paths"][route.path_format][method.lower()], route, described[route.endpoint])
    return found


def _describe(operation: dict[str, Any], route: APIRoute, answer: dict[str, Any]) -> None:
    decides = operation[ACTION] != "see"
    named = "{" in route.path
    statuses = [
        401,
        403,
        *([404] if named else []),
        *([409] if decides or route.endpoint is steering.show_epoch else []),
        422,
        503,
        504,
    ]
    if "requestBody" in operation:
        statuses += [400, 413, 415]
    media_type = groups.LINES if route.endpoint is groups.retry_group else "application/json"
    code = str(route.status_code or 200)
    operation["responses"] = {
        code: {"description": "Done" if decides else "Found", "content": {media_type: {"schema": answer}}},
        **{str(status): each for status, each in problem_responses(*sorted(statuses)).items()},
    }
    if decides:
        operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY_PARAMETER)
