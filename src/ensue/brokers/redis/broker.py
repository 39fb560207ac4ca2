"""The broker on Redis: a stream for each partition, a hash with the topics, a name by which one log is known."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from redis.exceptions import NoPermissionError, ResponseError

from ensue.brokers import check_partition, check_partitions, check_partitions_wanted
from ensue.brokers.reading import BaseBroker, LookingReader
from ensue.brokers.redis import scripts
from ensue.brokers.redis.client import Client
from ensue.brokers.redis.waiting import Waiting
from ensue.brokers.redis.wire import fields_of, message_of, message_of_bytes, pack, unpack_heads
from ensue.codec import PARTITIONS_MAX
from ensue.errors import BrokerUnavailable, RecordRefused, UsageError
from ensue.message import Bounds, Garbage, Message
from ensue.ports import Capabilities, Entry
from ensue.texts import logger

_log = logger("ensue.redis")

#: A read stops after this much data, so that 500 records of 10 MB do not come at once.
READ_BYTES_MAX = 8 * 1024 * 1024
#: Entries that one script of `prune` looks at: Redis serves nobody else meanwhile.
PRUNE_ENTRIES = 200


class RedisBroker(BaseBroker):
    """A log in Redis 7.0 or newer: `redis://user:password@host:6379/0`, `rediss://` for TLS.

    Options of the URL: `prefix` of all keys (for several systems on one database), `timeout_s` (5: how long to wait for
    an answer), and redis-py's own, e.g. `ssl_ca_certs`. Keys: `<prefix><topic>:<partition>`, a stream each;
    `<prefix>ensue:topics`, topic -> partitions; `<prefix>ensue:log`, the log's name. Not for Redis Cluster.

    An append is one script: all of it or nothing. Redis forgets what it has not written down, after a kill the last
    second (`appendfsync everysec`) or everything (no persistence): subscribers then see a gap in the chain, and get the
    records again from the outbox of the sender. capabilities.power_loss_safe is known once it is open: true with
    `appendonly yes` and `appendfsync always`, where the server lets us ask.
    now: the clock of retention, epoch seconds.
    """

    capabilities = Capabilities(sessions=False, power_loss_safe=False)

    def __init__(self, url: str, *, now: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._client = Client(url)
        prefix = self._client.prefix
        self._prefix = prefix
        self._topics_key = f"{prefix}ensue:topics"
        self._name_key = f"{prefix}ensue:log"
        self._now = now
        self._waiting: Waiting | None = None
        self._counts: dict[str, int] = {}
        self._name: bytes | None = None
        #: Grows when the log is found to be another one.
        self._generation = 0

    async def exists(self) -> bool:
        if self._client.is_open:
            return bool(await self._client.call("HLEN", self._topics_key))
        await self._client.open()
        try:
            return bool(await self._client.call("HLEN", self._topics_key))
        finally:
            await self._client.close()

    async def open(self) -> None:
        """Raises BrokerUnavailable after timeout_s, UsageError on refused credentials or a Redis before 7.0."""
        if self._client.is_open:
            return
        await self._client.open()
        try:
            self.capabilities = await self._find_capabilities()
        except BaseException:
            await self._client.close()
            raise
        self._waiting = Waiting(self._client, self._name_key, self._seen_name)

    async def close(self) -> None:
        await self._close_readers()
        waiting, self._waiting = self._waiting, None
        self._counts, self._name = {}, None
        try:
            if waiting is not None:
                await waiting.close()
        finally:
            await self._client.close()

    async def _find_capabilities(self) -> Capabilities:
        """Whether each write is on the disk before it is acknowledged. A server that does not say is not trusted."""
        try:
            flat = await self._client.call("CONFIG", "GET", "append*", "save", "maxmemory", "maxmemory-policy")
        except BrokerUnavailable as error:
            if isinstance(error.__cause__, ResponseError):  # the account may not ask, or the service hides it
                return self.capabilities
            raise
        settings = {bytes(name): bytes(value) for name, value in _pairs(flat)}
        policy = settings.get(b"maxmemory-policy", b"").decode()
        if policy.startswith("allkeys") and settings.get(b"maxmemory", b"0") != b"0":
            raise UsageError(
                f"redis at {self._client.place} has maxmemory-policy {policy}: when its memory is full it would delete "
                "whole partitions of the log. Set maxmemory-policy noeviction, or one of volatile-*"
            )
        if settings.get(b"appendonly") == b"no" and not settings.get(b"save"):
            _log.warning(
                "redis at %s writes nothing to disk: a restart empties the log, and what the outboxes no longer have "
                "is lost then. Set appendonly yes",
                self._client.place,
            )
        syncs = settings.get(b"appendonly") == b"yes" and settings.get(b"appendfsync") == b"always"
        return dataclasses.replace(self.capabilities, power_loss_safe=syncs)

    # --- topics

    async def ensure_topic(self, topic: str, partitions: int) -> None:
        check_partitions_wanted(topic, partitions)
        arguments = (topic, partitions, secrets.token_hex(8))
        found, name = await self._client.run(scripts.ENSURE, (self._topics_key, self._name_key), arguments)
        count = _count(found)
        if not count:
            raise UsageError(
                f"redis at {self._client.place}: the hash {self._topics_key} has {bytes(found)[:40]!r} for topic "
                f"{topic}, expected a number of partitions: somebody else wrote that; delete the field",
                topic=topic,
            )
        check_partitions(topic, partitions, count)
        self._counts[topic] = count
        self._seen_name(name)

    async def partitions(self, topic: str) -> int:
        return _count(await self._client.call("HGET", self._topics_key, topic))

    async def topics(self) -> Mapping[str, int]:
        found = await self._client.call("HGETALL", self._topics_key)
        counts = {bytes(topic).decode(errors="replace"): _count(count) for topic, count in _pairs(found)}
        return {topic: count for topic, count in counts.items() if count}

    # --- append

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        keys = [await self._key(*where) for where in batches]
        appended = str(int(self._now() * 1000))
        heads = []
        data: list[bytes] = []
        for (_, number), entries in batches.items():
            partition = str(number)
            heads.append([fields_of(each, source, partition, appended) for each in entries])
            data += [each.data for each in entries]
        try:
            lasts = await self._client.run(scripts.APPEND, keys, (pack(heads), *data))
        except BrokerUnavailable as error:
            if _is_refusal(error.__cause__):
                raise RecordRefused(
                    f"{error}: the account may not write to {', '.join(keys)}, or one is no stream"
                ) from error
            raise
        return [_offset(last) for last in lasts]

    # --- read

    def reader(self, topic: str, partition: int, after: int) -> RedisReader:
        return RedisReader(self, topic, partition, after)

    async def _fetch(self, topic: str, partition: int, key: str, after: int, limit: int) -> Sequence[Message | Garbage]:
        out = await self._client.run(scripts.READ, (key,), (after, limit, READ_BYTES_MAX))
        if not out:
            return []
        try:
            heads = unpack_heads(out[0])
        except (UnicodeDecodeError, msgspec.DecodeError):  # bytes that are no text: one by one, to find out whose
            raw = await self._client.call("XRANGE", key, f"(0-{after}", "+", "COUNT", out[2])
            return [message_of_bytes(topic, partition, id_, fields) for id_, fields in raw]
        found: list[Message | Garbage] = []
        begin, bodies = 0, out[1]
        for head in heads:
            size = int(head.pop())
            offset = int(head.pop())
            found.append(message_of(topic, partition, offset, head, bodies[begin : begin + size]))
            begin += size
        return found

    async def bounds(self, topic: str, partition: int) -> Bounds:
        first, last = await self._client.run(scripts.BOUNDS, (await self._key(topic, partition),))
        return Bounds(int(first) if first else int(last) + 1, int(last))

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        """As the port says; in scripts of 200 entries, so that Redis serves others in between."""
        key = await self._key(topic, partition)
        before = int(before_s * 1000)
        pruned = 0
        while pruned < limit:
            chunk = min(PRUNE_ENTRIES, limit - pruned)
            count = int(await self._client.run(scripts.PRUNE, (key,), (before, chunk)))
            pruned += count
            if count < chunk:
                break
        return pruned

    # --- partitions, and which log this is

    async def _key(self, topic: str, partition: int) -> str:
        count = self._counts.get(topic)
        if count is None:
            count = await self.partitions(topic)
            if count:
                self._counts[topic] = count
        if not self._client.is_open:
            raise self._client.not_open()
        check_partition(topic, partition, count)
        return f"{self._prefix}{topic}:{partition}"

    def _seen_name(self, name: bytes | None) -> None:
        """Compare the log's name with the one known; another one, or none, and each reader's next read tells of it."""
        known, self._name = self._name, name
        if known is None or name == known:
            return
        self._generation += 1
        self._counts = {}
        if self._waiting is not None:
            self._waiting.wake_all()


class RedisReader(LookingReader[RedisBroker]):
    def __init__(self, broker: RedisBroker, topic: str, partition: int, after: int) -> None:
        super().__init__(broker, topic, partition, after)
        self._generation = broker._generation
        self._key = ""

    async def _look(self, limit: int) -> Sequence[Message | Garbage]:
        broker = self._broker
        if self._generation != broker._generation:
            self._generation = broker._generation
            raise BrokerUnavailable(
                f"redis at {broker._client.place} was emptied or replaced by another log: subscribers read it from "
                "its start, and what it does not hold is asked for again"
            )
        self._key = await broker._key(self.topic, self.partition)
        return await broker._fetch(self.topic, self.partition, self._key, self.after, limit)

    async def _woken(self, seconds: float) -> None:
        if self._broker._waiting is not None:
            await self._broker._waiting.wait(self._key, self.after, seconds)


def _pairs(flat: Any) -> list[tuple[Any, Any]]:
    """Name and value in turn, or a mapping where redis-py has made one of it."""
    return list(flat.items()) if isinstance(flat, dict) else list(zip(flat[::2], flat[1::2], strict=True))


def _is_refusal(error: BaseException | None) -> bool:
    """Whether Redis would say the same each time: no permission for a key, or a key that is no stream."""
    if isinstance(error, NoPermissionError):
        return True
    return isinstance(error, ResponseError) and str(error).startswith("WRONGTYPE")


def _count(found: bytes | int | None) -> int:
    """The number of partitions that is written for a topic; 0: there is none, or a stranger wrote it."""
    text = b"%d" % found if isinstance(found, int) else found or b""
    return int(text) if text.isdigit() and len(text) < 5 and int(text) <= PARTITIONS_MAX else 0


def _offset(id_: bytes) -> int:
    return int(id_.partition(b"-")[2])
