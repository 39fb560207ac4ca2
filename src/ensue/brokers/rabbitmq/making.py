"""Making streams, one process at a time.

RabbitMQ 3.10 answers two that declare one stream at once with internal errors, and breaks the connection of whoever
writes to a stream that is just being made. So makers take turns: an exclusive queue belongs to one connection, and
ends with it.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq.channel import Channel
from ensue.brokers.rabbitmq.connection import Connection
from ensue.brokers.rabbitmq.settings import RabbitMqSettings
from ensue.errors import BrokerUnavailable

Argument = str | int | bool

_LOCKED = 405
#: How long until the next try for our turn.
_PAUSE_S = 0.03
_EXCLUSIVE, _DURABLE = b"\x04", b"\x02"
_NOWAIT = b"\x04"


@asynccontextmanager
async def making(connection: Connection, here: asyncio.Lock, queue: str) -> AsyncIterator[None]:
    """Our turn, among the tasks that share `here` and among all connections. Raises BrokerUnavailable when it does not
    come within timeout_s."""
    async with here:
        channel = await _turn(connection, queue)
        try:
            yield
        finally:
            if channel.is_open:
                channel.send(frames.QUEUE_DELETE, b"\x00\x00" + frames.short(queue) + _NOWAIT)
                try:
                    # The next one here must not get its turn before this one has ended.
                    await channel.call(frames.BASIC_QOS, struct.pack(">IHB", 0, 1, 0), frames.BASIC_QOS_OK)
                finally:
                    channel.close()


async def _turn(connection: Connection, queue: str) -> Channel:
    give_up_at = asyncio.get_running_loop().time() + connection.timeout_s
    declare = b"\x00\x00" + frames.short(queue) + _EXCLUSIVE + frames.table({})
    while True:
        channel = await connection.channel()
        try:
            await channel.call(frames.QUEUE_DECLARE, declare, frames.QUEUE_DECLARE_OK)
        except BrokerUnavailable as error:
            if error.values.get("code") != _LOCKED or asyncio.get_running_loop().time() > give_up_at:
                raise
            await asyncio.sleep(_PAUSE_S)
        else:
            return channel


async def declare(connection: Connection, queue: str, arguments: Mapping[str, Argument]) -> None:
    """Make a stream. One that is there is let be, and raises BrokerUnavailable when it was made with others."""
    channel = await connection.channel()
    try:
        wanted = b"\x00\x00" + frames.short(queue) + _DURABLE + frames.table(arguments)
        await channel.call(frames.QUEUE_DECLARE, wanted, frames.QUEUE_DECLARE_OK)
    finally:
        channel.close()


def stream_arguments(settings: RabbitMqSettings, *, keep_all: bool = False) -> dict[str, Argument]:
    """keep_all: nothing of this stream is ever dropped."""
    arguments: dict[str, Argument] = {"x-queue-type": "stream"}
    if settings.max_age and not keep_all:
        arguments["x-max-age"] = settings.max_age
    if settings.segment_bytes:
        arguments["x-stream-max-segment-size-bytes"] = settings.segment_bytes
    return arguments
