"""A route of the API: which action it is, who may ask for it, and that a repeated decision decides once.

All of it is done before FastAPI reads a body or a parameter: whoever may not ask is not told what is wrong with it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from ensue.console.access import Action, Actor, Authorize, NotAllowed, Role, actor_of, deciding, require, why_not
from ensue.console.patience import within
from ensue.console.payloads import Payloads, mode_for
from ensue.console.rest.answers import HEADERS, written
from ensue.console.same_origin import check_same_origin
from ensue.console.services import Services
from ensue.deciding import Deciding, Face
from ensue.errors import UsageError
from ensue.integrations import problems
from ensue.integrations.problems import Problem
from ensue.operations.repeats import Keeping, Repeated, done_once, fingerprint_of, key_of

#: Of an operation in OpenAPI: which action it is, and the role that it needs.
ACTION, ROLE = "x-ensue-action", "x-ensue-role"
_KEY = re.compile(r"[ -~]{1,255}")
_DESK: Final = "ensue.console.desk"


@dataclasses.dataclass(frozen=True, slots=True)
class Desk:
    """What all routes of one API share. origins: of other sites that may ask, see `same_origin`. answer_s: see
    `patience`."""

    services: Services
    authorize: Authorize
    payloads: Mapping[Role, Payloads]
    origins: frozenset[str]
    answer_s: float


class ActionRoute(APIRoute):
    """A route that says which action it is. Raises UsageError at the start for one that does not."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        said = (options.get("openapi_extra") or {}).get(ACTION)
        if said is None:
            raise UsageError(f"{path}: the route says no action, so nobody knows who may ask: add **asks(Action...)")
        self.action = Action(said)
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_for_actor(request: Request) -> Response:
            desk = desk_of(request)
            check_same_origin(request.method, request.headers, desk.origins)
            since = asyncio.get_running_loop().time()  # to say who asks is a part of the answer
            actor = await actor_of(desk.authorize, request)
            require(actor, self.action)
            request.scope[_DESK] = Asking(desk, actor, self.action, request)
            # A stream of lines ends with its reader, before the next letters are released.
            goes_on = self.action.decides and self.response_class is not StreamingResponse
            return await within(
                desk.answer_s, handle(request), decides=self.action.decides, goes_on=goes_on, since=since
            )

        return handle_for_actor


@dataclasses.dataclass(frozen=True, slots=True)
class Asking:
    """One request of somebody who may ask it."""

    desk: Desk
    actor: Actor
    action: Action
    request: Request

    @property
    def payloads(self) -> Payloads:
        """How much of users' data the actor is shown."""
        return mode_for(self.actor, self.desk.payloads)

    def why(self, reason: str) -> Deciding:
        return deciding(self.actor, self.action, Face.API, reason)

    async def why_not(self) -> str:
        """Ask the host again; why the actor may not do this any more, empty: they may."""
        return await why_not(self.desk.authorize, self.request, self.actor, self.action)

    async def done_once(self, access: Keeping, do: Callable[[Repeated], Awaitable[Any]], status: int = 200) -> Response:
        """Do it and answer; under an Idempotency-Key that came before, give the answer of then."""
        key, fingerprint = await self.key()
        async with done_once(access, key, fingerprint) as repeated:
            if repeated.answer is not None:
                return again(repeated)
            body = written(await do(repeated))
            await repeated.keep(status, {}, body)
            return Response(body, status, HEADERS, "application/json")

    async def key(self) -> tuple[str, str]:
        """The Idempotency-Key as this actor's own, empty: there is none; and a hash of what is asked for. Raises
        Problem 400."""
        keys = self.request.headers.getlist("idempotency-key")
        if not keys:
            return "", ""
        if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
            raise Problem(
                400, "Malformed header", "Idempotency-Key wants 1 to 255 printable ASCII characters, once",
                type=problems.MALFORMED_HEADER, header="Idempotency-Key",
            )  # fmt: skip
        try:
            body = await self.request.body()
        except ClientDisconnect as error:
            raise Problem(400, detail="The connection ended before the body did") from error
        path, query = self.request.scope["path"], self.request.scope["query_string"]
        return key_of(self.actor.name, self.request.method, path, keys[0]), fingerprint_of(query, body)


def again(repeated: Repeated) -> Response:
    assert repeated.answer is not None
    answer = repeated.answer
    headers = {**HEADERS, **answer.headers, "Idempotency-Replayed": "true"}
    return Response(answer.body, answer.status, headers, "application/json")


def asks(action: Action) -> dict[str, Any]:
    """Of a route: `@router.get(path, **asks(Action.SEE))`."""
    return {"openapi_extra": {ACTION: action.value, ROLE: action.needs.value}}


def desk_of(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def asking(request: Request) -> Asking:
    """For `Depends`: it has passed the route by now."""
    found = request.scope.get(_DESK)
    if not isinstance(found, Asking):
        raise NotAllowed("this route is not asked through ActionRoute")
    return found
