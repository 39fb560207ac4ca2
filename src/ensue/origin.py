"""Where a step that begins outside comes from: its correlation id, trace and Idempotency-Key.

A web integration sets it for the time of one request; `service.step()` reads it. So the step takes no argument, and
the same call works in a route, a command line and a test.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ensue.errors import IdempotencyMismatch
from ensue.message import StoredResponse
from ensue.step import Step


@dataclasses.dataclass(slots=True)
class Origin:
    """idempotency_key: made of what the client sent and who it is, so that nobody meets the answer of somebody else.

    fingerprint: of the request, so that one key with another request is noticed.
    keep: set while a step is open; stores the answer in its transaction.
    settled: the integration has kept the answer with the open step, so the step of a request with a key may commit.
    refused: the answer says that the request failed (5xx), so that the steps of the request are rolled back.
    guarded: the request's dependencies (authentication is one) have not all passed: an earlier answer has to wait.
    earlier: what came of this key before, for a step that began while this was guarded; that step is rolled back.
    task: of the request. steps: those that it has open; those of other tasks are their own affair. committed: those
    that have ended so, in order; None: nobody wants to know. tracestate: goes with the traceparent.
    answered: the services in whose steps this request's answer is kept, and committed, or was found.
    """

    correlation_id: str = ""
    traceparent: str = ""
    idempotency_key: str = ""
    fingerprint: str = ""
    keep: Callable[[StoredResponse], Awaitable[None]] | None = None
    settled: bool = False
    refused: bool = False
    guarded: bool = False
    earlier: AlreadyAnswered | IdempotencyMismatch | None = None
    task: asyncio.Task[Any] | None = None
    steps: list[Step] = dataclasses.field(default_factory=list)
    committed: list[Step] | None = None
    tracestate: str = ""
    answered: set[str] = dataclasses.field(default_factory=set)

    @contextmanager
    def holding(self, step: Step, keep: Callable[[StoredResponse], Awaitable[None]]) -> Iterator[None]:
        """The step is open in this block, and `keep` stores an answer in its transaction: unless it is one of another
        task, which commits by itself, so that an answer in it would be one to what is not done."""
        counts = self.task is not None and self.task is asyncio.current_task()
        before = self.keep
        if counts:
            self.steps.append(step)
        if counts or self.task is None:
            self.keep = keep
        try:
            yield
        finally:
            if counts:
                self.steps.remove(step)
            if self.keep is keep:
                self.keep = before

    async def flush(self) -> None:
        """Write what the open steps have changed, so that what the database makes of it is known."""
        for step in self.steps:
            await step.transaction.flush()

    def met(self, stored: StoredResponse) -> None:
        """The key was answered before. Raises AlreadyAnswered or IdempotencyMismatch, at once or in `admit`."""
        if stored.fingerprint == self.fingerprint:
            self.earlier = AlreadyAnswered(stored)
        else:
            self.earlier = IdempotencyMismatch(
                "this Idempotency-Key was used before for another request: send the same request again, or use a new "
                "key",
                key=self.idempotency_key,
            )
        if not self.guarded:
            raise self.earlier

    def admit(self) -> None:
        """All dependencies have passed. Raises what `met` has kept."""
        self.guarded = False
        if self.earlier is not None:
            raise self.earlier


_current: contextvars.ContextVar[Origin | None] = contextvars.ContextVar("ensue_origin", default=None)


class AlreadyAnswered(Exception):
    """This Idempotency-Key was answered before, with the same request: give `response` again, do nothing."""

    def __init__(self, response: StoredResponse) -> None:
        super().__init__(response.key)
        self.response = response


@contextmanager
def coming_from(given: Origin) -> Iterator[Origin]:
    """Make `given` the origin of the steps that begin inside this block."""
    token = _current.set(given)
    try:
        yield given
    finally:
        _current.reset(token)


def current_origin() -> Origin | None:
    return _current.get()
