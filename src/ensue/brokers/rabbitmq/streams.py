"""Where streams begin and end, and the readers on them.

AMQP 0.9.1 has no question for the last offset of a stream (the message count of a declare lags by seconds). So we read:
`x-stream-offset: last` delivers the last chunk, of at least one record, since each stream begins with a marker of ours;
and what the server had begun to send has come when it answers the next call on that channel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ensue.brokers.rabbitmq.connection import Connection
from ensue.brokers.rabbitmq.reader import Probe, Reader
from ensue.errors import BrokerUnavailable

#: Without a record after this long, a stream is taken to be empty (a stranger made it) and gets a marker.
_FIRST_DELIVERY_S = 0.5
#: How far back one look goes, in records.
_WINDOW = 1000
_EVERYTHING = 65_535
#: How long the beginning is remembered. Only retention moves it.
_FIRST_KNOWN_S = 5.0


class Streams:
    def __init__(self, connection: Connection, publish_marker: Callable[[str], Awaitable[None]]) -> None:
        self._connection = connection
        self._publish_marker = publish_marker
        self._readers: dict[str, set[Reader]] = {}
        self._lasts: dict[str, int] = {}
        self._seen: dict[str, int] = {}  # the last place that `last` saw, a marker's too
        self._firsts: dict[str, tuple[int, float]] = {}
        self._appended: set[str] = set()

    # --- readers

    async def reader(self, queue: str, place: int, prefetch: int) -> Reader:
        """A new reader from `place` on."""
        if not any(each.is_open for each in self._readers.get(queue, ())):
            self._lasts.pop(queue, None)  # nobody would have told us that the stream became another one
        reader = Reader(await self._connection.channel(), queue)
        try:
            await reader.begin(place, prefetch)
        except BaseException:
            reader.close()
            raise
        self._readers.setdefault(queue, set()).add(reader)
        return reader

    def drop(self, reader: Reader) -> None:
        reader.close()
        self._readers.get(reader.queue, set()).discard(reader)

    def forget(self, queue: str) -> None:
        """The stream is gone. Its readers are told by the server; what they saw is not in a stream of the same name."""
        self._readers.pop(queue, None)
        self._lasts.pop(queue, None)
        self._firsts.pop(queue, None)

    # --- the end

    def appended(self, queue: str) -> None:
        self._appended.add(queue)

    def known_last(self, queue: str) -> int:
        """The last place known to hold a record, -1 when none is known."""
        return max(self._lasts.get(queue, -1), *(each.last for each in self._readers.get(queue, ())), -1)

    async def last(self, queue: str) -> int:
        """The last place that holds a record, -1 for an empty stream."""
        # A reader that has taken all it was sent is told of every append at once.
        follows = any(each.at_the_end for each in self._readers.get(queue, ()))
        if follows and queue in self._lasts and queue not in self._appended:
            return self.known_last(queue)
        self._appended.discard(queue)
        try:
            probe = await self._probe_end(queue)
        except BaseException:
            self._appended.add(queue)
            raise
        probe.close()
        last = probe.last
        begin = probe.lowest
        while last < 0 and begin > 0:  # markers only, but there is something before them
            begin = max(begin - _WINDOW, 0)
            earlier = await self._look(queue, begin, through=probe.seen)
            last, begin = earlier.last, min(begin, earlier.lowest)
            if last < 0 and earlier.lowest > begin:
                last = probe.seen  # retention took what was before; the place itself was given
        live = [each.last for each in self._readers.get(queue, ()) if each.is_open]
        self._lasts[queue] = last = max(last, *live, -1)
        self._seen[queue] = probe.seen
        return last

    async def _probe_end(self, queue: str) -> Probe:
        """Return a probe that has seen the last chunk, still open."""
        probe = Probe(await self._connection.channel(), queue)
        try:
            await probe.begin("last", _EVERYTHING)
            if not await probe.wait(_FIRST_DELIVERY_S):
                await self._publish_marker(queue)
                if not await probe.wait(self._connection.timeout_s):
                    raise BrokerUnavailable(
                        f"rabbitmq at {self._connection.place} does not say where the stream {queue} ends"
                    )
            probe.check()
            await probe.synchronise()
        except BaseException:
            probe.close()
            raise
        return probe

    async def _look(self, queue: str, place: int | str, *, through: int) -> Probe:
        """Return a closed probe that has read from `place` until it has seen `through`, which exists."""
        probe = Probe(await self._connection.channel(), queue)
        try:
            await probe.begin(place, _EVERYTHING)
            async with asyncio.timeout(self._connection.timeout_s):
                await probe.until(through)
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"rabbitmq at {self._connection.place} did not send {queue} up to place {through}"
            ) from error
        finally:
            probe.close()
        return probe

    # --- the beginning

    async def first(self, queue: str, last: int) -> int:
        """The first place that holds a record; last + 1 when none does. last: from `last`."""
        now = asyncio.get_running_loop().time()
        known, when = self._firsts.get(queue, (0, -_FIRST_KNOWN_S))
        if now - when < _FIRST_KNOWN_S and known <= last:
            return known
        if last < 0:
            return 0
        probe = Probe(await self._connection.channel(), queue)
        try:
            await probe.begin("first", 100)
            async with asyncio.timeout(self._connection.timeout_s):
                first = await probe.first(self._seen.get(queue, last))
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"rabbitmq at {self._connection.place} does not say where the stream {queue} begins"
            ) from error
        finally:
            probe.close()
        if first is None:
            return last + 1  # retention took all but markers
        self._firsts[queue] = (first, now)
        return first

    # --- one message

    async def find(self, queue: str, token: bytes) -> int:
        """Return the place of the message with this id. Others may have appended behind it meanwhile."""
        probe = await self._probe_end(queue)
        probe.close()
        begin = probe.lowest
        window = _WINDOW
        while (found := probe.place_of(token)) is None and begin > 0:
            begin, window = max(begin - window, 0), window * 2
            probe = await self._look(queue, begin, through=probe.seen)
        if found is None and probe.lowest > 0:
            return probe.seen  # dropped by the log's retention already
        if found is None:
            raise BrokerUnavailable(
                f"rabbitmq at {self._connection.place} confirmed records of {queue} that are not in the stream"
            )
        return found
