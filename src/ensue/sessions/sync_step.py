"""A step for code that is not async: it is open on the service's event loop while a block runs in this thread."""

from __future__ import annotations

import asyncio
import concurrent.futures
import datetime
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from ensue.command import Command
from ensue.engine.nesting import check_aside, stepping
from ensue.engine.runtime import Runtime
from ensue.errors import UsageError
from ensue.origin import current_origin
from ensue.step import Step
from ensue.tracing import here

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

R = TypeVar("R")


class SyncStep:
    """A `Step` whose session is a plain one. Its attributes and methods are as there; see `Service.sync_step`."""

    __slots__ = ("_step",)

    def __init__(self, step: Step) -> None:
        self._step = step

    @property
    def session(self) -> Session:
        """The user's SQLAlchemy session in this step's transaction, for this thread alone."""
        return self._step.transaction.sync_session()

    @property
    def now(self) -> datetime.datetime:
        return self._step.now

    @property
    def correlation_id(self) -> str:
        return self._step.correlation_id

    @property
    def idempotency_key(self) -> str:
        return self._step.idempotency_key

    def publish(
        self,
        event: object,
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> str:
        """See `Step.publish`."""
        return self._step.publish(event, extensions, after=after, at=at)

    def send(
        self,
        command: Command[Any],
        extensions: Mapping[str, str] | None = None,
        *,
        after: datetime.timedelta | None = None,
        at: datetime.datetime | None = None,
    ) -> str:
        """See `Step.send`."""
        return self._step.send(command, extensions, after=after, at=at)

    def cancel(self, message_id: str) -> None:
        """See `Step.cancel`."""
        self._step.cancel(message_id)

    def start(self, saga: Callable[[Any, R], Awaitable[Any]], request: R, *, id: object) -> None:
        """See `Step.start`."""
        self._step.start(saga, request, id=id)

    def tell(self, saga: Callable[..., Awaitable[Any]], id: object, event: object) -> None:
        """See `Step.tell`."""
        self._step.tell(saga, id, event)


class _Left(Exception):
    """Rolls back the step of a block that was left by something which must not run through an event loop."""


def refuse_in_loop(service: str) -> None:
    """Raise UsageError on an event loop, which would wait for itself."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise UsageError(
        f"{service}.sync_step() in async code, whose event loop would stand still: write "
        f"`async with {service}.step() as step:` where the service runs, and else do it in a thread, "
        "asyncio.to_thread(...), or publish in a session of your own"
    )


def _refuse_green_threads(service: str) -> None:
    """Raise UsageError where each thread is a greenlet of one: an event loop in one of them is in the way of the
    others, which would be taken for async code from the second step on."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        replaced = "gevent"
    elif eventlet is not None and eventlet.is_monkey_patched("thread"):
        replaced = "eventlet"
    else:
        return
    raise UsageError(
        f"{service}.sync_step() where {replaced} has replaced Python's threads: its event loop wants a real one. "
        f"Publish in a session of your own, {service}.publish(session, event), which works there, or take threads: "
        "gunicorn -k gthread, celery -P threads"
    )


def check_place(service: str) -> None:
    """Raise UsageError where no step can be opened by `sync_step`."""
    _refuse_green_threads(service)
    refuse_in_loop(service)
    check_aside(service, f"{service}.sync_step()", requested=current_origin() is not None)


@contextmanager
def sync_step(runtime: Runtime, loop: asyncio.AbstractEventLoop) -> Iterator[SyncStep]:
    """A step of a runtime that runs on `loop`, in another thread. What the step raises is raised here."""
    begun: concurrent.futures.Future[tuple[Step, asyncio.Future[BaseException | None]]] = concurrent.futures.Future()

    async def hold() -> None:
        ended: asyncio.Future[BaseException | None] = loop.create_future()
        async with runtime.step() as step:
            begun.set_result((step, ended))
            error = await ended
            if error is not None:
                raise error

    def not_begun(held: concurrent.futures.Future[None]) -> None:
        if not begun.done():
            error = None if held.cancelled() else held.exception()
            begun.set_exception(error or _stopped(runtime.definition.name))

    # It runs in a copy of this thread's context, so the step has the origin that is set here.
    held = asyncio.run_coroutine_threadsafe(hold(), loop)
    held.add_done_callback(not_begun)
    try:
        step, ended = begun.result()
    except BaseException:  # Ctrl-C among them
        held.cancel()
        raise
    try:
        with stepping(runtime.definition.name), here(step.outgoing.trace):
            yield SyncStep(step)
    except BaseException as error:
        through = error if isinstance(error, Exception) and not isinstance(error, StopIteration) else _Left()
        loop.call_soon_threadsafe(_settle, ended, through)
        try:
            held.result()
        except (_Left, type(error)) as raised:
            if raised is not through:
                raise
        raise
    loop.call_soon_threadsafe(_settle, ended, None)
    held.result()


def _stopped(service: str) -> UsageError:
    return UsageError(f"{service}.sync_step(): the service stopped before the step began, so nothing of it was done")


def _settle(ended: asyncio.Future[BaseException | None], error: BaseException | None) -> None:
    if not ended.done():
        ended.set_result(error)
