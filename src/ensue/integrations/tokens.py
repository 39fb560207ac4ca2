"""Ensue-Token: answers say what a request has written, and a request that brings that back waits until it is seen here.

The wait comes before the route's dependencies: a query that they begin would not see what came after it, and nobody who
waits holds a connection to the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from starlette.datastructures import MutableHeaders
from starlette.requests import Request

from ensue.app import Service
from ensue.errors import StoreUnavailable, UsageError
from ensue.integrations.given_again import PLACES
from ensue.message import Timer
from ensue.origin import Origin
from ensue.step import Step
from ensue.texts import logger
from ensue.token import Token

log = logger("ensue.http")

HEADER = "Ensue-Token"
#: Where `install` puts an app's `Tokens`, in the request's scope.
TOKENS = "ensue.tokens"
#: How long a request waits unless `install` says.
WAIT_S = 5.0
_Places = list[tuple[str, str, int]]


class Tokens:
    """Of an app: its services, each with how long a request waits for it, in seconds."""

    def __init__(self) -> None:
        self.waits: dict[str, tuple[Service, float]] = {}

    async def wait(self, request: Request, given: Origin) -> None:
        """Return when all services of the app have caught up. Raises what `Service.caught_up` does."""
        given.committed = []
        if text := ",".join(request.headers.getlist(HEADER)):
            for service, timeout_s in self.waits.values():
                await service.caught_up(text, timeout=timeout_s)

    async def tell(self, given: Origin, headers: MutableHeaders) -> None:
        """Say in the answer's headers what the request's steps have written, or those whose answer this is once more.

        They are committed: a database that does not say now where takes nothing back, so the answer goes without."""
        steps, given.committed = given.committed or [], None  # a task that outlives the request has its origin
        places = _decode(stored) if (stored := headers.get(PLACES)) else []
        if stored:
            del headers[PLACES]
        if HEADER in headers:
            return  # the route's own
        try:
            token = await self._written(steps, places)
            if token:
                headers[HEADER] = str(token)
        except (StoreUnavailable, UsageError) as error:
            log.warning("an answer goes out without %s: %s", HEADER, error)

    async def _written(self, steps: Sequence[Step], places: _Places) -> Token:
        token = Token()
        for step in steps:
            if step.outgoing.service in self.waits:
                token |= await step.token()
        for name in {name for name, _, _ in places} & self.waits.keys():
            service, _ = self.waits[name]
            token |= await service.runtime.token_at((topic, number) for owner, topic, number in places if owner == name)
        return token

    def kept(self, given: Origin) -> Mapping[str, str]:
        """Headers of an answer that is kept: which places its open steps publish to, so that it can be told again."""
        found = {
            (step.outgoing.service, record.topic, record.partition)
            for step in given.steps
            for record in step.outgoing.records
            if not isinstance(record, Timer)
        }
        return {PLACES: msgspec.json.encode(sorted(found)).decode()} if found else {}


_decode = msgspec.json.Decoder(_Places).decode
