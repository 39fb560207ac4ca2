"""The end of a saga, for whoever waits for it. Its row is looked at, ever more seldom; who waits in the process that
writes it is woken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ensue.engine.calls import PAUSE_FIRST_S
from ensue.engine.clock import set_within
from ensue.engine.context import Context
from ensue.errors import ReplyTimeout, RetryableError, UsageError
from ensue.saga.code import SagaCode, declared_code
from ensue.saga.ending import SagaEnd
from ensue.saga.instance import ENDED, Instance, Status
from ensue.saga.wake import key_of


async def ended(context: Context, function: Callable[..., Any], saga_id: object, timeout_s: float) -> SagaEnd[Any]:
    """See `Service.ended`."""
    code = _of(context, function, timeout_s)
    key = key_of(code.name, saga_id)
    clock, pause = context.clock, PAUSE_FIRST_S
    until = clock.monotonic() + timeout_s
    trouble: RetryableError | None = None
    saga: Instance | None = None
    with context.waiting.waits(key) as woken:
        while True:
            woken.clear()  # before looking: what comes after it ends the next wait
            try:
                saga, trouble = await context.books.saga(key), None
            except RetryableError as error:
                trouble = error
            if saga is not None and saga.status in ENDED:
                return _end(context, code, saga)
            left = until - clock.monotonic()
            if left <= 0 or context.waiting.ended:
                when = f"within {timeout_s:g} s" if left <= 0 else f"before {context.service} stops"
                raise ReplyTimeout(
                    f"saga {key} has not ended {when}: {_said(saga)}. It goes on by itself"
                    + (f". The own database did not answer: {trouble}" if trouble is not None else ""),
                    id=key,
                    timeout_s=timeout_s,
                ) from trouble
            await set_within(woken, clock, min(pause, left))
            pause = min(pause * 2, context.config.poll_interval_s)


def _of(context: Context, function: Callable[..., Any], timeout_s: float) -> SagaCode:
    code = declared_code(function)
    if code.service != context.service:
        raise UsageError(
            f"{code.where} is of service {code.service}, and {context.service} waits for its end: ask there"
        )
    if not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise UsageError(f"{code.where} is waited for with timeout={timeout_s!r}, expected a number of seconds")
    return code


def _end(context: Context, code: SagaCode, saga: Instance) -> SagaEnd[Any]:
    if saga.status is Status.COMPLETED:
        own = context.dispatcher.definition.sagas.get((saga.name, saga.version), code)
        return SagaEnd("COMPLETED", own.read_result(bytes(saga.result)), None)
    return SagaEnd("UNDONE", None, None if saga.ending is None else saga.ending.failure())


def _said(saga: Instance | None) -> str:
    if saga is None:
        return "it has not begun yet, or was never started"
    reason = f", {saga.reason}" if saga.reason else ""
    return f"it is {saga.status}{reason}" + (f", and waits for {saga.waits_for}" if saga.waits_for else "")
