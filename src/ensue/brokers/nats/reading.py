"""Reading a stream in order from a sequence on: a pull consumer of the server's and a buffer of ours.

A pull is always outstanding while somebody reads, so what is appended comes at once, and what comes is returned at
once: no batch is held until it is full. The next batch is asked for when one is taken, so it comes while that is
worked on. No acknowledgements: where a reader stands is its own business.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec

from ensue.brokers.nats.headers import decode
from ensue.brokers.nats.jetstream import CONSUMER_NOT_FOUND, STREAM_NOT_FOUND, ApiError, JetStream
from ensue.brokers.nats.wire import Wire
from ensue.errors import BrokerUnavailable
from ensue.message import Garbage, Message

#: Records asked for at once, and at most this much data of them.
_PULL_RECORDS = 500
_PULL_BYTES = 8 << 20
#: How long the server keeps a pull that finds nothing.
_PULL_S = 10.0
#: The server forgets a consumer that nobody pulls from, after this.
_INACTIVE_S = 60.0
#: A reader that waits makes sure this often that its consumer is still there: a lost one is silent.
_CHECK_S = 2.0

_encode = msgspec.json.Encoder().encode


class _Delivered(msgspec.Struct, frozen=True):
    consumer_seq: int = 0


class _ConsumerInfo(msgspec.Struct):
    name: str = ""
    num_pending: int = 0
    delivered: _Delivered = _Delivered()


_decode_info = msgspec.json.Decoder(_ConsumerInfo).decode


class Cursor:
    """Reads on from `position`, the last offset handed out. One task at a time; a cancel loses nothing.

    broken: why it cannot go on. lost: it is the consumer that is gone, so a new one from the same position can.
    """

    def __init__(self, wire: Wire, jetstream: JetStream, stream: str, after: int) -> None:
        self.position = after
        self.broken: BrokerUnavailable | None = None
        self.lost = False
        self.wire = wire
        self._jetstream = jetstream
        self._stream = stream
        self._name = ""
        self._number = b""
        self._inbox = ""
        self._received = after  # last sequence in the buffer or handed out
        self._count = 0  # records that the consumer has sent
        self._buffer: deque[tuple[int, bytes, bytes]] = deque()
        self._pull = 0  # number of the one that is out; 0: none is
        self._pulls = 0
        self._wanted = 0  # records that it may still bring
        self._brought = False
        self._checked_at = 0.0
        self._arrived = asyncio.Event()

    async def open(self) -> None:
        """Make the consumer. Raises ApiError (no such stream), BrokerUnavailable."""
        self._number, self._inbox = self.wire.subscribe(self)
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.position + 1,
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": int(_INACTIVE_S * 1e9),
        }
        verb = f"CONSUMER.CREATE.{self._stream}"
        try:
            body = {"stream_name": self._stream, "config": config}
            self._name = _decode_info(await self._jetstream.call(verb, body, wire=self.wire)).name
        except BaseException:
            self.wire.unsubscribe(self._number)
            raise
        self._checked_at = asyncio.get_running_loop().time()

    def close(self) -> None:
        """Let go of it; the server is told, and forgets it by itself if that is lost."""
        self.wire.unsubscribe(self._number)
        if self._name and self.wire.alive:
            subject = f"{self._jetstream.options.api}.CONSUMER.DELETE.{self._stream}.{self._name}"
            self.wire.send(f"PUB {subject} 0\r\n\r\n".encode())

    # --- what the connection calls

    def arrived(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if not reply.startswith(b"$JS.ACK."):
            self._status(subject, headers)
            return
        words = reply.split(b".")
        at = 5 if len(words) == 9 else 7  # newer servers put domain and account in front
        sequence, count = int(words[at]), int(words[at + 1])
        if count != self._count + 1 or sequence <= self._received:
            self._break(f"record {count} of its consumer came after {self._count}: some were lost on the way")
            return
        self._count = count
        self._received = sequence
        self._buffer.append((sequence, headers, payload))
        self._brought = True
        self._wanted -= 1
        if not self._wanted:
            self._pull = 0
        self._arrived.set()

    def _status(self, subject: bytes, headers: bytes) -> None:
        """A pull has ended. Ends of pulls before the present one are no news."""
        if subject.rpartition(b".")[2] != b"%d" % self._pull:
            return
        code, text = headers[9:12], headers[13 : headers.find(b"\r\n")].decode(errors="replace")
        if code == b"100":
            return
        self._pull = 0
        if code not in (b"404", b"408") and not (code == b"409" and self._brought and "Max" in text):
            self._break(f"{code.decode(errors='replace')} {text}")
        self._arrived.set()

    def failed(self, error: BrokerUnavailable) -> None:
        self.broken = error
        self._arrived.set()

    def forbidden(self, subject: str, error: BrokerUnavailable) -> None:
        if self._name and subject.endswith(f".{self._name}"):
            self.failed(error)

    def _break(self, why: str) -> None:
        self.lost = True
        self.broken = BrokerUnavailable(
            f"NATS at {self.wire.address}: reading {self._stream} after {self.position}: {why}",
            stream=self._stream,
        )
        self._arrived.set()

    # --- what a reader calls

    async def read(self, topic: str, partition: int, limit: int, wait_s: float) -> list[Message | Garbage]:
        """As Reader.read, from `position`. Raises BrokerUnavailable (and is broken then)."""
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        while True:
            if self._buffer:
                return self._take(topic, partition, limit)
            if self.broken is not None:
                raise self.broken
            self._ask()
            now = clock()
            if wait_s <= 0 or now - self._checked_at >= _CHECK_S:
                coming = await self._is_coming()
                self._checked_at = now = clock()
                if self._buffer or self.broken is not None:
                    continue
                if coming:
                    await self._wait(self._jetstream.options.timeout_s)
                    if not self._buffer and self.broken is None and self._pull:
                        self._break("what its consumer has does not come")
                    continue
            if now >= until:
                return []
            await self._wait(min(until - now, _CHECK_S))

    async def _wait(self, limit_s: float) -> None:
        self._arrived.clear()
        try:
            async with asyncio.timeout(limit_s):
                await self._arrived.wait()
        except TimeoutError:
            pass  # the caller looks what time it is

    def _ask(self) -> None:
        """Have a pull out."""
        if self._pull or self.wire.lost is not None:
            return
        self._pulls += 1
        self._pull = self._pulls
        self._wanted = _PULL_RECORDS
        self._brought = False
        size = max(_PULL_BYTES, 2 * self.wire.max_payload)
        body = _encode({"batch": _PULL_RECORDS, "max_bytes": size, "expires": int(_PULL_S * 1e9)})
        subject = f"{self._jetstream.options.api}.CONSUMER.MSG.NEXT.{self._stream}.{self._name}"
        head = f"PUB {subject} {self._inbox}.{self._pull} {len(body)}\r\n"
        self.wire.send(head.encode() + body + b"\r\n")

    async def _is_coming(self) -> bool:
        """Whether the stream has something for us that has not come yet, deleted records not counted."""
        verb = f"CONSUMER.INFO.{self._stream}.{self._name}"
        try:
            info = _decode_info(await self._jetstream.call(verb, wire=self.wire))
        except ApiError as error:
            if error.code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                raise
            self._break("the server has lost its consumer")
            return False
        except BrokerUnavailable as error:
            self.broken = error
            return False
        return info.num_pending > 0 or info.delivered.consumer_seq > self._count

    def _take(self, topic: str, partition: int, limit: int) -> list[Message | Garbage]:
        buffer = self._buffer
        popleft = buffer.popleft
        found: list[Message | Garbage] = []
        for _ in range(min(limit, len(buffer))):
            sequence, headers, payload = popleft()
            found.append(decode(topic, partition, sequence, headers, payload))
        self.position = found[-1].offset
        if len(buffer) < _PULL_RECORDS and self.broken is None:
            self._ask()
        return found
