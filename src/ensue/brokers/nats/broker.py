"""The Broker port on NATS JetStream: what belongs together, and the errors of the parts as the port has them."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Mapping, Sequence

from ensue.brokers.nats.appending import StreamGone, append
from ensue.brokers.nats.jetstream import STREAM_NOT_FOUND, ApiError, JetStream
from ensue.brokers.nats.link import Link
from ensue.brokers.nats.options import parse_nats_url
from ensue.brokers.nats.reading import Cursor
from ensue.brokers.nats.topics import Stream, Topics
from ensue.brokers.reading import BaseBroker, BaseReader
from ensue.errors import BrokerUnavailable
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry, TopicTerms


class NatsBroker(BaseBroker):
    """`nats://host:4222`, `tls://…`, several hosts separated by commas; for the options see NatsOptions.

    NATS acknowledges before it syncs (sync_interval, 2 minutes unless configured): a crash of the operating system may
    take acknowledged records away, a kill of the server does not. `?synced=true` says that it runs with
    `sync_interval: always`. An append that fails in the middle of a change of leaders may leave holes behind it; they
    are gaps of the chain, closed when the batch is sent again.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._options = parse_nats_url(url)
        self.capabilities = Capabilities(
            sessions=False,
            survives_restart=self._options.storage == "file" or self._options.replicas > 1,
            power_loss_safe=self._options.synced and self._options.storage == "file",
        )
        self._link = Link(self._options)
        self._jetstream = JetStream(self._link, self._options)
        self._topics = Topics(self._jetstream)

    async def exists(self) -> bool:
        if self._link.is_open:
            return bool(await self.topics())
        link = Link(self._options)
        await link.open()
        try:
            return bool(await Topics(JetStream(link, self._options)).all())
        finally:
            await link.close()

    async def open(self) -> None:
        """Raises BrokerUnavailable within timeout_s, or when the server has no JetStream."""
        if self._link.is_open:
            return
        await self._link.open()
        try:
            await self._jetstream.call("INFO")
        except ApiError as error:
            await self._link.close()
            raise BrokerUnavailable(f"{error}: is JetStream enabled for this account?") from error
        except BaseException:
            await self._link.close()
            raise

    async def close(self) -> None:
        await self._close_readers()
        self._topics = Topics(self._jetstream)  # the next open may find another server
        await self._link.close()

    # --- topics

    async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms:
        terms = await self._topics.ensure(topic, partitions)
        return terms.stricter(TopicTerms(record_bytes_max=(await self._link.wire()).max_payload))

    async def partitions(self, topic: str) -> int:
        return await self._topics.partitions(topic)

    async def topics(self) -> Mapping[str, int]:
        return await self._topics.all()

    # --- append

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        ready = [
            (await self._topics.find(topic, number), number, entries) for (topic, number), entries in batches.items()
        ]
        wire = await self._link.wire()
        try:
            return await append(wire, source, ready, self._options.timeout_s)
        except StreamGone as error:
            name = str(error)
            lost = next(where for where, (stream, _, _) in zip(batches, ready, strict=True) if stream.name == name)
            raise self._topics.gone(*lost) from error

    # --- read

    def reader(self, topic: str, partition: int, after: int) -> NatsReader:
        return NatsReader(self, topic, partition, after)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        stream = await self._topics.find(topic, partition)
        info = await self._jetstream.stream_info(stream.name)
        if info is None:
            raise self._topics.gone(topic, partition)
        return info.state.bounds

    # --- retention

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        stream = await self._topics.find(topic, partition)
        info = await self._jetstream.stream_info(stream.name, deleted=True)
        if info is None:
            raise self._topics.gone(topic, partition)
        state = info.state
        if not state.messages or limit < 1:
            return 0
        first, last = state.bounds
        through = _last_of(first, last, sorted(state.deleted), limit)
        keep_from = await self._first_young(stream, first, through, before_s)
        return await self._jetstream.purge(stream.name, keep_from) if keep_from > first else 0

    async def _first_young(self, stream: Stream, first: int, through: int, before_s: float) -> int:
        """The first sequence in [first, through + 1] that is not to be deleted, by halving: times grow with it."""
        low, high = first, through + 1
        while low < high:
            # Mostly all is old, or all is young: look at the ends first.
            middle = through if high == through + 1 and low == first else (low + high) // 2
            found = await self._jetstream.stored_at(stream.name, stream.subject, middle)
            if found is None or found[0] > through:
                high = middle  # only holes from here on
            elif found[1] < before_s:
                low = found[0] + 1
            else:
                high = middle
        return low


class NatsReader(BaseReader[NatsBroker]):
    """Has a consumer of the server's; another one from its place on when that one is lost."""

    _cursor: Cursor | None = None

    async def _read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        clock = asyncio.get_running_loop().time
        until = clock() + wait_s
        anew = False
        while True:
            stream = await self._broker._topics.find(self.topic, self.partition)
            try:
                cursor = await self._standing(stream)
                return await cursor.read(self.topic, self.partition, limit, max(until - clock(), 0.0))
            except ApiError as error:
                if error.code == STREAM_NOT_FOUND:
                    raise self._broker._topics.gone(self.topic, self.partition) from error
                raise BrokerUnavailable(f"{stream.name} cannot be read: {error}") from error
            except BrokerUnavailable:
                # A server forgets a consumer that nobody pulled from for long, and with a node of a cluster.
                if anew or self._cursor is None or not self._cursor.lost:
                    raise
                anew = True

    async def _standing(self, stream: Stream) -> Cursor:
        """The cursor, or another one in its place when it is broken, or its server is to stop and another was found."""
        wire = await self._broker._link.wire()
        if self._cursor is None or self._cursor.broken is not None or self._cursor.wire is not wire:
            self._let_go()
            cursor = Cursor(wire, self._broker._jetstream, stream.name, self.after)
            await cursor.open()
            self._cursor = cursor
        return self._cursor

    def _let_go(self) -> None:
        cursor, self._cursor = self._cursor, None
        if cursor is not None:
            cursor.close()


def _last_of(first: int, last: int, deleted: Sequence[int], limit: int) -> int:
    """The sequence of the `limit`-th record from `first` on, or `last`.

    >>> _last_of(5, 20, [6, 7], 3), _last_of(5, 20, [], 3), _last_of(5, 6, [], 3)
    (9, 7, 6)
    """
    through = first + limit - 1
    while True:
        grown = first + limit - 1 + bisect_right(deleted, through)
        if grown == through:
            return min(through, last)
        through = grown
