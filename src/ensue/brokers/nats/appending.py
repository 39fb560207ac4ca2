"""Appending: all records of a call are sent at once; the acknowledgements are counted, not awaited one by one.

The answer of each partition's records has a token of its own below the connection's one inbox. What comes back is
checked: from which stream, that it is no error and no duplicate, that none is missing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from ensue.brokers.nats.headers import encoder
from ensue.brokers.nats.topics import Stream
from ensue.brokers.nats.wire import Wire
from ensue.errors import BrokerUnavailable, EnsueError, RecordRefused, UsageError
from ensue.ports import Entry

#: What is handed to the connection at once.
_SLICE_BYTES = 1 << 20
#: JetStream's number for a record above the stream's max_msg_size.
_TOO_LARGE = 10054


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_decode = msgspec.json.Decoder(_Ack).decode


class StreamGone(Exception):
    """Nobody keeps the subject: the stream is not there (any more)."""


class Acks:
    """Counts the acknowledgements of one append to one partition."""

    def __init__(self, stream: Stream, count: int, tally: Tally) -> None:
        self.stream = stream
        self.left = count
        self.last = 0
        self._tally = tally

    def arrived(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if headers.startswith(b"NATS/1.0 503"):
            self._tally.fail(StreamGone(self.stream.name))
            return
        try:
            ack = _decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._tally.fail(UsageError(f"subject {self.stream.subject} is answered by something that is no JetStream"))
            return
        if ack.error is not None or ack.duplicate or ack.stream != self.stream.name:
            self._tally.fail(_refusal(self.stream, ack))
            return
        if ack.seq > self.last:
            self.last = ack.seq
        self.left -= 1
        self._tally.one()

    def failed(self, error: BrokerUnavailable) -> None:
        self._tally.fail(error)

    def forbidden(self, subject: str, error: BrokerUnavailable) -> None:
        if subject == self.stream.subject:
            self._tally.fail(RecordRefused(f"{error}: let the account of the broker's URL publish to it"))


def _refusal(stream: Stream, ack: _Ack) -> EnsueError:
    if ack.error is not None:
        description, number = ack.error.get("description", ""), ack.error.get("err_code", 0)
        text = f"stream {stream.name} took no record: {description} ({number})"
        if number == _TOO_LARGE:
            return RecordRefused(f"{text}: raise its max_msg_size, or publish a reference instead of the data")
        return BrokerUnavailable(text)
    if ack.duplicate:
        # We send no message id, so no server of ours may say this.
        return UsageError(
            f"stream {stream.name} took a record for a duplicate: it deduplicates by something of its own"
        )
    return UsageError(f"subject {stream.subject} is kept by stream {ack.stream}, expected {stream.name}")


class Tally:
    """All acknowledgements of one call."""

    def __init__(self, count: int) -> None:
        self.left = count
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def one(self) -> None:
        self.left -= 1
        if not self.left and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)
            self._done.exception()  # a cancelled append does not ask for it

    async def wait(self, wire: Wire, limit_s: float) -> None:
        """Return when all have come. Raises what failed; BrokerUnavailable when none comes for limit_s."""
        while not self._done.done():
            left = self.left
            await asyncio.wait((self._done,), timeout=limit_s)
            if not self._done.done() and self.left == left:
                await wire.answers_within(1.0)
                raise BrokerUnavailable(
                    f"NATS at {wire.address}: {left} records are not acknowledged within {limit_s:g} s; what of them "
                    "is in the log is known as duplicates when they are sent again",
                    address=wire.address,
                )
        self._done.result()


async def append(
    wire: Wire, source: str, batches: Iterable[tuple[Stream, int, Sequence[Entry]]], limit_s: float
) -> list[int]:
    """Send entries to (stream, partition)s; return the last sequence of each when all are acknowledged.

    Nothing is sent when one of them cannot be encoded. Raises StreamGone, BrokerUnavailable, RecordRefused, UsageError,
    BadMessage.
    """
    ready = [(stream, encoded(stream, wire, source, number, entries)) for stream, number, entries in batches]
    tally = Tally(sum(len(records) for _, records in ready))
    all_acks = [Acks(stream, len(records), tally) for stream, records in ready]
    tokens: list[bytes] = []
    try:
        for acks, (_, records) in zip(all_acks, ready, strict=True):
            token = wire.expect(acks)
            tokens.append(token)
            await _send(wire, f"HPUB {acks.stream.subject} {wire.inbox}.{token.decode()}".encode(), records, limit_s)
        await tally.wait(wire, limit_s)
    finally:
        for token in tokens:
            wire.answers.pop(token, None)
    return [acks.last for acks in all_acks]


def encoded(
    stream: Stream, wire: Wire, source: str, partition: int, entries: Sequence[Entry]
) -> list[tuple[bytes, bytes]]:
    """Headers and data of each entry. Raises RecordRefused when one is larger than the server takes."""
    encode = encoder(source, partition)
    records = [(encode(entry), entry.data) for entry in entries]
    largest = wire.max_payload
    for (headers, data), entry in zip(records, entries, strict=True):
        if len(headers) + len(data) > largest:
            raise RecordRefused(
                f"a record for {stream.subject} (position {entry.position}, key {entry.key[:60]!r}) has "
                f"{len(headers) + len(data)} bytes with its headers, and the NATS server takes {largest}: raise "
                "max_payload in its configuration, or publish a reference instead of the data",
                position=entry.position,
            )
    return records


async def _send(wire: Wire, begin: bytes, records: list[tuple[bytes, bytes]], limit_s: float) -> None:
    parts: list[bytes] = []
    size = 0
    for headers, data in records:
        header_size = len(headers)
        parts += (b"%s %d %d\r\n" % (begin, header_size, header_size + len(data)), headers, data, b"\r\n")
        size += header_size + len(data)
        if size > _SLICE_BYTES:
            wire.send(b"".join(parts))
            parts = []
            size = 0
            try:
                async with asyncio.timeout(limit_s):
                    await wire.drain()
            except TimeoutError as error:
                wire.abort()  # it takes nothing any more
                raise BrokerUnavailable(
                    f"NATS at {wire.address}: takes no data for {limit_s:g} s", address=wire.address
                ) from error
    if parts:
        wire.send(b"".join(parts))
