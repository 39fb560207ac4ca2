"""Drive the function of a saga through its journal, up to the first thing that is not resolved yet.

This module itself sends into the coroutine, and while it does no event loop runs as far as anybody can see: so whatever
else is awaited, sleeps, tasks, HTTP, a database, is noticed where it stands. No coroutine outlives its transaction: a
cache would hide what cannot be replayed until a crash, and be wrong when a batch rolls back.
"""

from __future__ import annotations

import asyncio.events
import traceback
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import FrameType
from typing import Any, Literal

import msgspec

from ensue.errors import BadMessage, UsageError
from ensue.failure import Failure
from ensue.saga.code import SagaCode
from ensue.saga.instance import Instance
from ensue.saga.journal import Issued
from ensue.saga.replaying import (
    Closed,
    Largest,
    Operation,
    Replaying,
    Restarted,
    Unreplayable,
    Wait,
    usual_largest,
)
from ensue.saga.saga import Saga
from ensue.texts import said_by

_running_loop, _set_running_loop = asyncio.events._get_running_loop, asyncio.events._set_running_loop
_NO_LOOP = "no running event loop"
_INSTEAD = (
    "A saga awaits operations of its own only: saga.sleep for time, saga.call for another service, saga.gather for "
    "several at once, and a local step, saga.local, for anything that the database is asked"
)


class Outcome(msgspec.Struct, frozen=True):
    """What a replay came to. new: what is issued now. waits_for: numbers. result, request: JSON. flaw: why it parks;
    brief: the same, without what is of this one saga."""

    kind: Literal["waits", "returned", "failed", "restarts", "flawed"]
    new: list[tuple[Issued, Operation[Any] | None]]
    waits_for: tuple[int, ...] = ()
    result: bytes = b"null"
    request: bytes = b""
    failure: Failure | None = None
    flaw: str = ""
    brief: str = ""
    open: tuple[Operation[Any], ...] = ()
    """waits: for what, each with its number."""


def replay(code: SagaCode, instance: Instance, largest: Largest = usual_largest, *, values: bool = False) -> Outcome:
    """Run the function up to its next wait. Nothing of it stays. largest: see `Replaying`. values: see `go_on`."""
    live = Live()
    outcome = live.go_on(code, instance, largest, values=values)
    return live.closed(outcome, values=values)


class Live:
    """The function of a saga in one transaction: replayed once, it goes on as its local steps come back.

    Where it waits for anything else it is closed, and nothing of it stays: see `close` for what must be so in the end.
    """

    def __init__(self) -> None:
        self._run: Replaying | None = None
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._inside: Callable[..., Any] = _not_begun

    def go_on(
        self, code: SagaCode, instance: Instance, largest: Largest = usual_largest, *, values: bool = False
    ) -> Outcome:
        """Up to the next wait whose end is not in the journal. largest, values: see `replay`."""
        run, coroutine = self._run, self._coroutine
        if run is None or coroutine is None:
            run = Replaying(instance, largest)
            try:
                request = code.request.read(instance.request)
            except BadMessage as error:
                return _flawed(run, f"its request cannot be read: {error}")
            coroutine = code.function(Saga(run, code), request)
            self._run, self._coroutine, self._inside = run, coroutine, copy_context().run
        else:
            run.more(instance.journal)
        # Meanwhile no event loop runs, as far as anybody can see.
        loop = _running_loop()
        _set_running_loop(None)
        try:
            outcome = _driven(code, run, coroutine, self._inside, values=values)
        finally:
            _set_running_loop(loop)
        if outcome.kind == "waits" and run.waits_for_step(outcome.waits_for):
            return outcome
        return self.closed(outcome, values=values)

    def closed(self, outcome: Outcome, *, values: bool) -> Outcome:
        """Close it, and return what it came to with that."""
        if outcome.kind == "returned":
            self._left()  # it has run to its end: there is nothing to close
            return outcome
        run = self._run
        flaw = self.close(values=values)
        return _flawed(run, flaw) if run is not None and flaw and outcome.kind != "flawed" else outcome

    def close(self, *, values: bool = False) -> str:
        """Before the transaction ends, however it does. Returns what went wrong; empty: nothing."""
        run, coroutine = self._run, self._coroutine
        if run is None or coroutine is None:
            return ""
        loop = _running_loop()
        _set_running_loop(None)
        try:
            return _close(run, coroutine, self._inside, values=values)
        finally:
            _set_running_loop(loop)
            self._left()

    def _left(self) -> None:
        """What refers to each other lets go, so that nobody has to look for it as garbage."""
        if self._run is not None:
            self._run.waited, self._run.new, self._run.made = None, [], {}
        self._run = self._coroutine = None


def _not_begun(*_: Any) -> Any:
    raise AssertionError("a function that has not begun is not run on")


def _driven(
    code: SagaCode,
    run: Replaying,
    coroutine: Coroutine[Any, Any, Any],
    inside: Callable[..., Any],
    *,
    values: bool,
) -> Outcome:
    resolved, send = run.resolved, coroutine.send
    while True:
        if run.waited is not None:
            missing = tuple([each for each in run.waited.numbers if each not in resolved])
            if missing:
                if run.unasked is not None:
                    return _flawed(run, _unasked(run, f"waits at {_place(coroutine)}"))
                waiting = tuple([each for each in run.waited.operations if each.number in missing])
                return Outcome("waits", run.new, waits_for=missing, open=waiting)
            run.now = max([resolved[each].at for each in run.waited.numbers], default=run.now)
        try:
            run.waited = inside(send, None)
        except StopIteration as done:
            return _returned(code, run, done.value)
        except Restarted as again:
            return _ended(run, Outcome("restarts", run.new, request=again.request))
        except Failure as failure:
            return _ended(run, Outcome("failed", run.new, failure=failure))
        except Unreplayable as error:
            return _flawed(run, str(error))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            run.brief = run.brief or f"{type(error).__qualname__}{_where(error)}"
            return _flawed(run, _said(error, values=values))
        if run.flaw:
            return _flawed(run, run.flaw)  # the function has caught it
        if not isinstance(run.waited, Wait) or run.waited.run is not run:
            return _flawed(run, f"it awaited {run.waited!r:.200} at {_place(coroutine)}. {_INSTEAD}")


def _returned(code: SagaCode, run: Replaying, value: Any) -> Outcome:
    forgotten = next(iter(run.made), None)
    if forgotten is not None and not run.flaw:
        return _flawed(run, f"it has ended without awaiting {forgotten}: write `await` before it, or leave it out")
    try:
        result = code.write_result(value)
    except (UsageError, TypeError) as error:
        return _flawed(run, str(error))
    return _ended(run, Outcome("returned", run.new, result=result))


def _ended(run: Replaying, outcome: Outcome) -> Outcome:
    if run.flaw:
        return _flawed(run, run.flaw)
    return outcome if run.unasked is None else _flawed(run, _unasked(run, "has ended"))


def _unasked(run: Replaying, does: str) -> str:
    entry = run.unasked
    assert entry is not None
    number = run.issued.index(entry) + 1
    run.brief = run.brief or f"entry {number}: the journal has {entry.what}, the code {does} before it"
    return (
        f"entry {number}: the journal has {entry}, the code {does} before it. "
        "A saga that has begun must go on as it did: put back what was there, or declare the new code beside it, with "
        "another version="
    )


def _flawed(run: Replaying, text: str) -> Outcome:
    return Outcome("flawed", [], flaw=text, brief=run.brief or text)


def _close(run: Replaying, coroutine: Coroutine[Any, Any, Any], inside: Callable[..., Any], *, values: bool) -> str:
    """Close the function where it waits; its `finally` blocks run. Return what went wrong there."""
    run.closed = True
    where = _place(coroutine)
    try:
        inside(coroutine.close)
    except Closed:
        return ""  # a `finally` with an operation: it is not issued, and is reached when the function really gets there
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        return f"while it was closed at its wait ({where}), as at each: {_said(error, values=values)}"
    return ""


def _said(error: BaseException, *, values: bool) -> str:
    """What a bug says: the error and where it is."""
    hint = f". {_INSTEAD}" if isinstance(error, RuntimeError) and _NO_LOOP in str(error) else ""
    return f"{type(error).__qualname__}: {said_by(error, values=values)}{_where(error)}{hint}"


def _where(error: BaseException) -> str:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    lines = {id(frame): line for frame, line in traceback.walk_tb(error.__traceback__)}
    own = [each for each in frames if _is_users(each)]
    return f" ({own[-1].f_code.co_filename}:{lines[id(own[-1])]})" if own else ""


def _place(coroutine: Any) -> str:
    """File and line where a coroutine waits, in the innermost one of the user's own."""
    own, found = None, coroutine
    while (frame := getattr(found, "cr_frame", None)) is not None:
        if _is_users(frame):
            own = frame
        found = found.cr_await
    return f"{own.f_code.co_filename}:{own.f_lineno}" if own is not None else "its end"


def _is_users(frame: FrameType) -> bool:
    return not frame.f_globals.get("__name__", "").startswith(("asyncio.", "ensue.saga."))
