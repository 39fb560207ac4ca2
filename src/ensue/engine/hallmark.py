"""Which message ids a store has made: only it can make them, so that a stranger's record is no evidence against it.

Each id ends with a mark: an eighth of a keyed hash (BLAKE2b, RFC 7693) of its first part and of the source. The key is
made by chance and kept in the store: a copy of the store has it too, and knows what the original has written after the
copy. See docs/adr/0035.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import Protocol

from ensue.codec import decode_envelope
from ensue.engine.books import HALLMARK, Books
from ensue.errors import RowConflict
from ensue.message import LOST, TICK, Message
from ensue.ports import Clock, Ids, Row, Store
from ensue.tables import RELAY

#: Of a mark, in hexadecimal digits. To hit one of a hash by chance takes 2^60 tries, each of which is a record.
_MARK = 16
#: A hash has so many: an id ends with one of them, and so many ids cost one hash.
_MARKS = 8
#: Of each half of the key: what every database holds in a whole number.
_HALF_BITS = 63
#: Records of the outbox that are looked at in one read.
_CHUNK = 1000


class Sourced(Protocol):
    """What has a source, as a store has."""

    @property
    def source(self) -> str: ...


class Hallmark:
    """Of one store. See `hallmark_of`."""

    def __init__(self, store: Sourced, key: bytes) -> None:
        self._store = store
        self._key = key

    def marks(self, text: str) -> list[str]:
        """Those of a text, for the source that the store is now."""
        source = self._store.source
        found = blake2b(f"{source}\n{text}".encode("utf-8", "surrogatepass"), key=self._key).hexdigest()
        return [found[start : start + _MARK] for start in range(0, _MARK * _MARKS, _MARK)]

    def mark(self, first: str, now: float) -> list[str]:
        """Several ids that the store makes now, of one text that nobody else has."""
        text = f"{first}.{int(now):x}"
        return [f"{text}.{mark}" for mark in self.marks(text)]

    def made(self, message_id: str) -> float | None:
        """When the store's source has made this id, seconds since the epoch; None: it has not."""
        first, _, mark = message_id.rpartition(".")
        if not first or not mark.isascii() or not any(compare_digest(mark, each) for each in self.marks(first)):
            return None
        return float(int(first.rpartition(".")[2], 16))

    def wrote(self, message: Message) -> bool:
        """Whether a record or tick of the log, with the store's source, was written by it or a copy of it."""
        if message.type == TICK:
            return message.id == self.tick(message.topic, message.partition, message.position)
        return message.type != LOST and self.made(message.id) is not None

    def tick(self, topic: str, partition: int, position: int) -> str:
        """The id of a tick: it says a position, so the hash covers that."""
        [mark, *_] = self.marks(f"{TICK}\n{topic}\n{partition}\n{position}")
        return f"tick.{mark}"


class HallmarkedIds:
    """Ids for what is published. `begin` before the first one."""

    def __init__(self, ids: Ids, clock: Clock) -> None:
        self._ids = ids
        self._clock = clock
        self._store: Store | None = None
        self._hallmark: Hallmark | None = None
        #: Those that are ready, and of which second and source they are.
        self._ready: list[str] = []
        self._of: tuple[int, str] = (0, "")

    async def begin(self, store: Store) -> None:
        self._store, self._hallmark = store, await hallmark_of(store)
        self.of_now()

    def of_now(self) -> Ids:
        """To be called by each transaction: its ids are of its time, and of what the store is then."""
        if self._store is None:
            return self  # where nothing is published none is asked for
        now = (int(self._clock.now()), self._store.source)
        if now != self._of:
            self._of, self._ready = now, []
        return self

    def next(self) -> str:
        try:
            return self._ready.pop()
        except IndexError:  # also when another thread was quicker
            return self._made()

    def _made(self) -> str:
        assert self._hallmark is not None
        ready = self._hallmark.mark(self._ids.next(), self._of[0])
        made = ready.pop()
        self._ready = ready
        return made


async def hallmark_of(store: Store) -> Hallmark:
    """The store's hallmark; its key is made when it is asked for first, by whoever comes first."""
    while len(rows := await store.rows().get(RELAY, HALLMARK)) < len(HALLMARK):
        try:
            async with store.transaction(upkeep=True) as transaction:
                await transaction.insert_rows(RELAY, halves_without(await transaction.load_rows(RELAY, HALLMARK)))
        except RowConflict:
            continue  # another process has made it
    return Hallmark(store, key_of(rows))


def halves_without(known: Sequence[Row]) -> list[Row]:
    """Rows of RELAY with the halves of a key that are not among these rows, made by chance."""
    names = {row[0] for row in known}
    return [(name, secrets.randbits(_HALF_BITS)) for name in HALLMARK if name not in names]


def key_of(rows: Sequence[Row]) -> bytes:
    """The key whose halves these rows of RELAY are."""
    halves = {row[0]: int(row[1]) for row in rows}
    return b"".join(halves[name].to_bytes(8, "big") for name in HALLMARK)


async def unknown_to(store: Store, hallmark: Hallmark, ids: Collection[str]) -> set[str]:
    """Those of these ids that a store has made and does not have: a copy of it has made them, or what it came from.

    Not one that is in its outbox, at whatever position somebody else has put it, nor one that is older than what
    retention took. Reads the whole outbox: only for ids that contradict it.
    """
    made = {each: when for each in ids if (when := hallmark.made(each)) is not None}
    if not made:
        return set()
    pruned = await Books(store, store.source.rpartition("/")[0]).pruned_before()
    unknown = {each for each, when in made.items() if pruned is None or when >= pruned}
    position = 0
    while unknown and (records := await store.outbox_after(position, _CHUNK)):
        unknown.difference_update(decode_envelope(each.envelope).id for each in records)
        position = records[-1].position
    return unknown
