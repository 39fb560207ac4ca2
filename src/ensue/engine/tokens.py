"""Waiting for a token: which of it concerns this service, and whether it may be waited for here."""

from __future__ import annotations

from ensue.engine.context import Context
from ensue.engine.nesting import check_wait
from ensue.errors import TokenInvalid, UsageError
from ensue.signatures import Trust
from ensue.token import Token


async def caught_up(context: Context, token: Token | str, timeout_s: float, trust: Trust) -> None:
    """See `Service.caught_up`."""
    if not isinstance(timeout_s, int | float) or not timeout_s >= 0:
        raise UsageError(
            f"service {context.service} is to catch up with timeout={timeout_s!r}, expected a number of seconds"
        )
    if isinstance(token, str):
        token = Token.parse(token, trust)
    topics = context.dispatcher.definition.subscribed_topics
    parts = [each for each in token.parts if each.topic in topics]
    for each in parts:
        if each.partition >= context.partitions:
            raise TokenInvalid(
                f"a token names {each.topic}/{each.partition}, but topics have {context.partitions} partitions here: "
                "it was made where ENSUE_PARTITIONS is another number, or is none of ours"
            )
    if parts:
        check_wait(context.service)
        await context.caught_up.wait(parts, timeout_s)
