"""Publishing with confirmations that are counted: one future for a batch, whatever the order of the answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq.channel import Channel, Line, Listener
from ensue.errors import BrokerUnavailable

#: So much is handed to the transport at once; then others get their turn.
_WRITE_BYTES = 256 * 1024


class _Batch:
    __slots__ = ("done", "missing", "written")

    def __init__(self, done: asyncio.Future[None]) -> None:
        self.done = done
        self.missing = 0
        self.written = False  # all of it; before that nothing missing means nothing


class Publisher(Listener):
    """Publishes on one channel, in order. Several tasks may publish at once; each batch keeps its order."""

    def __init__(
        self, line: Line, channel: Channel, timeout_s: float, place: str, on_lost: Callable[[str], None]
    ) -> None:
        self._line = line
        self._channel = channel
        self._timeout_s = timeout_s
        self._place = place
        self._on_lost = on_lost
        self._tag = 0
        #: Confirmation tag -> batch, in the order of sending.
        self._unconfirmed: dict[int, _Batch] = {}
        self._progress = 0
        channel.listener = self

    @property
    def is_open(self) -> bool:
        return self._channel.is_open

    async def begin(self) -> None:
        await self._channel.call(frames.CONFIRM_SELECT, b"\x00", frames.CONFIRM_SELECT_OK)

    async def publish(self, messages: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """Publish (arguments, properties, body) in order; return when all are confirmed.

        Waits while the server has blocked publishing. Raises BrokerUnavailable when that lasts for timeout_s, when one
        is not confirmed, or when no confirmation at all comes for timeout_s.
        """
        await self._line.drain()
        batch = _Batch(asyncio.get_running_loop().create_future())
        parts: list[bytes] = []
        size = 0
        number, frame_max = self._channel.number, self._line.frame_max
        for arguments, head, body in messages:
            part = frames.message_frames(number, arguments, head, body, frame_max)
            parts.append(part)
            size += len(part)
            if size >= _WRITE_BYTES:
                self._write(batch, parts)
                parts, size = [], 0
                await self._line.drain()
        self._write(batch, parts)
        batch.written = True
        if batch.missing:
            await self._confirmed(batch)

    def _write(self, batch: _Batch, parts: list[bytes]) -> None:
        """Number and send in one go, or neither."""
        if batch.done.done():
            batch.done.result()  # it has failed meanwhile: the rest would leave a hole
        if not parts:
            return
        self._channel.check()
        self._line.write(b"".join(parts))
        for tag in range(self._tag + 1, self._tag + len(parts) + 1):
            self._unconfirmed[tag] = batch
        self._tag += len(parts)
        batch.missing += len(parts)

    async def _confirmed(self, batch: _Batch) -> None:
        while True:
            progress = self._progress
            await asyncio.wait((batch.done,), timeout=self._timeout_s)
            if batch.done.done():
                return batch.done.result()
            if progress == self._progress:
                raise BrokerUnavailable(
                    f"rabbitmq at {self._place} confirmed nothing for {self._timeout_s:g} s: {batch.missing} records "
                    f"of a batch may or may not be in the log{self._line.blocked and ': ' + self._line.blocked}"
                )

    # --- what comes in

    def confirmed(self, tag: int, multiple: bool, good: bool) -> None:
        self._progress += 1
        unconfirmed = self._unconfirmed
        if multiple:
            tags = []
            for each in unconfirmed:
                if each > tag:
                    break
                tags.append(each)
        else:
            tags = [tag] if tag in unconfirmed else []
        if not good:
            text = f"rabbitmq at {self._place} refused {len(tags)} records"
            self._end({unconfirmed[each] for each in tags}, BrokerUnavailable(text))
        for each in tags:
            batch = unconfirmed.pop(each)
            batch.missing -= 1
            if not batch.missing and batch.written and not batch.done.done():
                batch.done.set_result(None)

    def returned(self, queue: str) -> None:
        """A message that found no queue is confirmed after this all the same, so its batch is one of those open now."""
        self._end(
            set(self._unconfirmed.values()),
            BrokerUnavailable(
                f"rabbitmq at {self._place} has no stream {queue} any more: it is made again, and what it lost is sent "
                "again when subscribers ask",
                queue=queue,
            ),
        )
        self._on_lost(queue)

    def failed(self, error: BrokerUnavailable) -> None:
        batches, self._unconfirmed = set(self._unconfirmed.values()), {}
        self._end(batches, error)

    def _end(self, batches: Iterable[_Batch], error: BrokerUnavailable) -> None:
        for batch in batches:
            if not batch.done.done():
                batch.done.set_exception(error.again())
                # Whoever waited may have been cancelled: then nobody asks for it, and that is no defect.
                batch.done.exception()
