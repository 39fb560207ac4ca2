"""Commands that somebody waits for: sent in a step of their own, and their answers looked for until they are there.

An answer is a row that whichever worker of the service reads it writes. Who waits in that worker's process is woken;
everybody else looks for the row, ever more seldom.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from ensue.command import Command, CommandType, command_type
from ensue.engine.clock import set_within
from ensue.engine.context import Context
from ensue.engine.nesting import check_step
from ensue.errors import ReplyTimeout, RetryableError, UsageError
from ensue.origin import current_origin
from ensue.reply import Reply, outcome, replies_of
from ensue.step import Step

#: Between the first looks, in seconds: most answers take a few round trips of the databases.
PAUSE_FIRST_S = 0.02


async def call(
    context: Context, step: Callable[[], AbstractAsyncContextManager[Step]], command: Command[Any], timeout_s: float
) -> Any:
    """See `Service.call`. step: opens one of the service."""
    spec = _callable(context, command, timeout_s)
    await _check_place(context.service, spec.cls.__name__)
    until = context.clock.monotonic() + timeout_s
    async with step() as one:
        command_id = one.ask(command, reply_to=replies_of(context.service))
    reply = await _reply(context, spec, command_id, timeout_s, until)
    return outcome(spec, reply)


def _callable(context: Context, command: Command[Any], timeout_s: float) -> CommandType[Any]:
    spec, service = command_type(command), context.service
    if not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise UsageError(
            f"service {service} calls {spec.cls.__qualname__} with timeout={timeout_s!r}, expected a number of seconds"
        )
    if spec.cls not in context.dispatcher.definition.calls:
        raise UsageError(
            f"service {service} calls {spec.cls.__qualname__}, which its declaration leaves out, so that its workers "
            f"read no answer: write Service({service!r}, calls=[{spec.cls.__name__}])"
        )
    return spec


async def _check_place(service: str, name: str) -> None:
    origin = current_origin()
    await check_step(service, requested=origin is not None, called=name)
    if origin is not None and origin.fingerprint and not origin.settled:
        raise UsageError(
            f"a request with an Idempotency-Key: service {service} calls {name}, which is sent before the request's "
            f"answer is kept, so a retry would send it again. Send it in the request's step, step.send({name}(...))"
        )


async def _reply(context: Context, spec: CommandType[Any], command_id: str, timeout_s: float, until: float) -> Reply:
    clock, pause = context.clock, PAUSE_FIRST_S
    trouble: RetryableError | None = None
    with context.waiting.waits(command_id) as woken:
        while True:
            woken.clear()  # before looking: what comes after it ends the next wait
            try:
                reply = await context.books.reply(command_id)
                trouble = None
            except RetryableError as error:  # the command is sent, whatever the database says now
                reply, trouble = None, error
            if reply is not None:
                return reply
            left = until - clock.monotonic()
            if left <= 0 or context.waiting.ended:
                lacks = (
                    f"no answer within {timeout_s:g} s" if left <= 0 else f"no answer before {context.service} stops"
                )
                raise ReplyTimeout(
                    f"{spec.type} with id {command_id}: {lacks}. The command goes on and takes effect, or comes to "
                    "nothing, later: do not send it again, look at what it is to bring about"
                    + (f". The own database did not answer: {trouble}" if trouble is not None else ""),
                    id=command_id,
                    timeout_s=timeout_s,
                ) from trouble
            await set_within(woken, clock, min(pause, left))
            pause = min(pause * 2, context.config.poll_interval_s)
