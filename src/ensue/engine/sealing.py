"""The broker as the engine sees it: what is appended is sealed, and what is read is whole and of whom it says.

One place for every broker, between the relay and the log and between the log and all who read it. See docs/adr/0036.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ensue.codec import garbage
from ensue.message import Bounds, Flaw, Garbage, Message
from ensue.ports import Broker, Entry, Reader, TopicTerms
from ensue.seal import all_sealed, damage, signed_bytes
from ensue.signatures import Trust
from ensue.texts import logger

log = logger("ensue.log")

#: What is kept of the data of a record that its source did not sign.
_REFUSED_BYTES_MAX = 4_096


class SealedBroker(Broker):
    """See the port. service: who appends, and signs if it has a key."""

    def __init__(self, broker: Broker, service: str, trust: Trust) -> None:
        trust.check(service)
        self._broker = broker
        self._trust = trust
        self._sign = trust.signer(service)
        self.capabilities = broker.capabilities

    async def exists(self) -> bool:
        return await self._broker.exists()

    async def open(self) -> None:
        await self._broker.open()

    async def close(self) -> None:
        await self._broker.close()

    async def ensure_topic(self, topic: str, partitions: int) -> TopicTerms | None:
        return await self._broker.ensure_topic(topic, partitions)

    async def partitions(self, topic: str) -> int:
        return await self._broker.partitions(topic)

    async def topics(self) -> Mapping[str, int]:
        return await self._broker.topics()

    async def append(self, topic: str, partition: int, source: str, entries: Sequence[Entry]) -> int:
        return await self._broker.append(
            topic, partition, source, all_sealed(topic, partition, source, entries, self._sign)
        )

    async def append_many(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> None:
        sign = self._sign
        await self._broker.append_many(
            source,
            {where: all_sealed(*where, source, entries, sign) for where, entries in batches.items()},
        )

    def reader(self, topic: str, partition: int, after: int) -> Reader:
        return SealedReader(self._broker.reader(topic, partition, after), self._trust)

    async def bounds(self, topic: str, partition: int) -> Bounds:
        return await self._broker.bounds(topic, partition)

    async def prune(self, topic: str, partition: int, before_s: float, limit: int) -> int:
        return await self._broker.prune(topic, partition, before_s, limit)


class SealedReader(Reader):
    """See the port. What is not whole, or not signed as `trust` wants it, comes as Garbage that says so."""

    def __init__(self, reader: Reader, trust: Trust) -> None:
        self._reader = reader
        self._trust = trust

    @property
    def after(self) -> int:
        return self._reader.after

    async def read(self, limit: int, wait_s: float) -> Sequence[Message | Garbage]:
        return checked(await self._reader.read(limit, wait_s), self._trust)

    async def close(self) -> None:
        await self._reader.close()


def checked(records: Sequence[Message | Garbage], trust: Trust) -> Sequence[Message | Garbage]:
    """Return the records, with Garbage in the place of those that do not hold; log the first of each kind."""
    found: list[Message | Garbage] | None = None
    flawed: dict[Flaw, list[Garbage]] = {}
    for index, record in enumerate(records):
        if isinstance(record, Garbage):
            if record.flaw is not Flaw.STRANGE:
                flawed.setdefault(record.flaw, []).append(record)
            continue
        if reason := damage(record):
            flaw, data = Flaw.DAMAGED, record.data
        elif trust.signed and (reason := trust.refusal(record, signed_bytes)):
            flaw, data = Flaw.REFUSED, record.data[:_REFUSED_BYTES_MAX]
        else:
            continue
        reason = f"{record.type} with id {record.id} of {record.source}: {reason}"
        bad = garbage(record.topic, record.partition, record.offset, record.key, reason, data)
        bad = msgspec.structs.replace(bad, flaw=flaw)
        flawed.setdefault(flaw, []).append(bad)
        found = list(records) if found is None else found
        found[index] = bad
    for flaw, bads in flawed.items():
        first, then = bads[0], "passed over, and asked for again" if flaw is Flaw.DAMAGED else "nothing comes of them"
        log.warning(
            "%s/%d: %d record(s) of %d are %s, the first at offset %d (%s): %s",
            first.topic, first.partition, len(bads), len(records), flaw, first.offset, first.reason, then,
        )  # fmt: skip
    return records if found is None else found
