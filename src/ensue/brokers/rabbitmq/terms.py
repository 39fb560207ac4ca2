"""What a stream loses by itself: what it was made with, which AMQP tells only by refusing to make it otherwise."""

from __future__ import annotations

import re

from ensue.brokers.rabbitmq.connection import Connection
from ensue.brokers.rabbitmq.making import Argument, declare, stream_arguments
from ensue.brokers.rabbitmq.reader import no_stream
from ensue.errors import BrokerUnavailable
from ensue.ports import TopicTerms

_ACCESS_REFUSED, _PRECONDITION_FAILED = 403, 406
#: The server's words, in the one language that it has: the first argument that differs, and what it is.
_DIFFERS = re.compile(r"inequivalent arg '([^']+)' .* but current is (?:none|(?:the value )?'([^']*)')")
_UNITS_S = {"Y": 365 * 86_400, "M": 30 * 86_400, "D": 86_400, "h": 3_600, "m": 60, "s": 1}
_SIZES = ("x-max-length-bytes", "x-max-length")


async def terms_of(connection: Connection, queue: str) -> TopicTerms:
    """Of a stream that is there. Nobody is told of the policies on it. Raises BrokerUnavailable, UsageError when it is
    no stream."""
    arguments = await _arguments(connection, queue)
    todo = (
        f"max_age= in the broker's URL to more than that, or leave it out, and delete the stream {queue}, which stays "
        "as it was made: the outboxes fill the next one"
    )
    for name in _SIZES:
        if name in arguments:
            return TopicTerms(drops=f"by {name}={arguments[name]}", todo=todo)
    age = str(arguments.get("x-max-age", ""))
    return TopicTerms(keeps_s=int(age[:-1]) * _UNITS_S[age[-1]] if age else None, todo=todo)


async def _arguments(connection: Connection, queue: str) -> dict[str, Argument]:
    """What the stream was made with, as far as the server tells this user."""
    arguments = stream_arguments(connection.settings)
    asked: set[str] = set()
    while True:
        try:
            await declare(connection, queue, arguments)
            return arguments
        except BrokerUnavailable as error:
            code = error.values.get("code")
            if code == _ACCESS_REFUSED:
                return arguments  # of a stream that others make; they are told
            found = _DIFFERS.search(str(error)) if code == _PRECONDITION_FAILED else None
            if found is None:
                raise
            name, value = found[1], found[2]
            if name == "x-queue-type" or not name.startswith("x-"):  # all streams are durable, and nobody's own
                raise no_stream(queue) from error
            if name in asked:
                return arguments  # of another type than ours: a stranger's
            asked.add(name)
            if value is None:
                del arguments[name]
            else:
                arguments[name] = int(value) if value.isdigit() else value
