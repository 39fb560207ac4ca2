"""A channel: calls in turn, and what the server sends by itself (deliveries, returns, confirmations, cancellation)."""

from __future__ import annotations

import asyncio
import struct
from typing import Protocol

from ensue.brokers.rabbitmq import frames
from ensue.errors import BrokerUnavailable


class Line(Protocol):
    """What a channel and its publisher need of their connection."""

    frame_max: int
    place: str
    blocked: str

    def write(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def release(self, number: int) -> None: ...

    @property
    def timeout_s(self) -> float: ...


def check_unblocked(line: Line) -> None:
    """Raise BrokerUnavailable while the server has blocked publishing: it reads nothing of such a connection then."""
    if line.blocked:
        raise BrokerUnavailable(f"rabbitmq at {line.place}: {line.blocked}", place=line.place)


class Listener:
    """Who wants to hear what the server sends on a channel by itself. A subclass hears what it asked for."""

    def delivered(self, tag: int, content: frames.Content, body: bytes) -> None: ...

    def returned(self, queue: str) -> None:
        """A message found no such queue. The server confirms it after this all the same."""

    def confirmed(self, tag: int, multiple: bool, good: bool) -> None: ...

    def failed(self, error: BrokerUnavailable) -> None:
        """The channel or the consumer is gone. Told once."""


class Channel:
    """Used by one task at a time, except that anybody may close it."""

    def __init__(self, line: Line, number: int) -> None:
        self.number = number
        self.listener: Listener | None = None
        self._line = line
        self._error: BrokerUnavailable | None = None
        self._closing = False
        self._reply: asyncio.Future[bytes] | None = None
        self._expected = 0
        self._begun: tuple[int, bytes] | None = None  # a delivery or return whose content comes next
        self._content: frames.Content | None = None
        self._parts: list[bytes] = []
        self._missing = 0

    @property
    def is_open(self) -> bool:
        return self._error is None and not self._closing

    def check(self) -> None:
        if self._error is not None:
            raise self._error.again()
        if self._closing:
            raise BrokerUnavailable(f"a channel to rabbitmq at {self._line.place} is closed")

    def send(self, method: int, arguments: bytes) -> None:
        self._line.write(frames.method_frame(self.number, method, arguments))

    async def call(self, method: int, arguments: bytes, expected: int) -> bytes:
        """Send a method and return the payload of its answer. Raises BrokerUnavailable.

        A call that is cancelled or takes too long closes the channel: its answer would be taken for another's.
        """
        self.check()
        check_unblocked(self._line)
        self._reply = asyncio.get_running_loop().create_future()
        self._expected = expected
        self.send(method, arguments)
        try:
            async with asyncio.timeout(self._line.timeout_s):
                return await self._reply
        except TimeoutError as error:
            self.close()
            raise BrokerUnavailable(
                f"rabbitmq at {self._line.place} did not answer within {self._line.timeout_s:g} s"
            ) from error
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._reply = None

    def close(self) -> None:
        """Close it without waiting; what still comes is dropped. Safe to repeat."""
        if self.is_open:
            self._closing = True
            self.send(frames.CHANNEL_CLOSE, struct.pack(">H", 200) + frames.short("done") + bytes(4))

    def fail(self, error: BrokerUnavailable) -> None:
        """The channel is gone, with its connection or alone."""
        if self._error is not None:
            return
        self._error = error
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(error.again())
        if self.listener is not None and not self._closing:
            self.listener.failed(error)

    # --- what comes in

    def frame(self, kind: int, payload: bytes) -> None:
        if kind == frames.METHOD:
            self._method(int.from_bytes(payload[:4], "big"), payload)
        elif self._closing or self._begun is None:
            pass  # the rest of a delivery that nobody wants any more
        elif kind == frames.HEADER:
            self._content = frames.read_content(payload)
            self._missing = self._content.size
            self._parts = []
            if not self._missing:
                self._complete()
        elif kind == frames.BODY:
            self._parts.append(payload)
            self._missing -= len(payload)
            if self._missing <= 0:
                self._complete()

    def _method(self, method: int, payload: bytes) -> None:
        if method == frames.CHANNEL_CLOSE_OK:
            self._line.release(self.number)
        elif method == frames.CHANNEL_CLOSE:
            self._closed_by_server(payload)
        elif self._closing:
            return
        elif method in (frames.BASIC_DELIVER, frames.BASIC_RETURN):
            self._begun = (method, payload)
        elif method in (frames.BASIC_ACK, frames.BASIC_NACK):
            tag = int.from_bytes(payload[4:12], "big")
            if self.listener is not None:
                self.listener.confirmed(tag, bool(payload[12] & 1), method == frames.BASIC_ACK)
        elif method == frames.BASIC_CANCEL:
            # The consumer has ended, the channel has not: whoever owns it closes it.
            if self.listener is not None:
                text = f"rabbitmq at {self._line.place} ended the reading: the stream was deleted"
                self.listener.failed(BrokerUnavailable(text))
        elif method == frames.CHANNEL_FLOW:
            self.send(frames.CHANNEL_FLOW_OK, payload[4:5])
        elif method == self._expected and self._reply is not None and not self._reply.done():
            self._reply.set_result(payload)

    def _closed_by_server(self, payload: bytes) -> None:
        self.send(frames.CHANNEL_CLOSE_OK, b"")
        code = int.from_bytes(payload[4:6], "big")
        text, _ = frames.read_short(payload, 6)
        self._line.release(self.number)
        self.fail(BrokerUnavailable(f"rabbitmq at {self._line.place}: {code} {text}", code=code))

    def _complete(self) -> None:
        assert self._begun is not None
        assert self._content is not None
        method, payload = self._begun
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        content, self._begun, self._content, self._parts = self._content, None, None, []
        if self.listener is None:
            return
        if method == frames.BASIC_DELIVER:
            self.listener.delivered(frames.delivery_tag(payload), content, body)
        else:
            _, at = frames.read_short(payload, 6)
            _, at = frames.read_short(payload, at)
            queue, _ = frames.read_short(payload, at)
            self.listener.returned(queue)
