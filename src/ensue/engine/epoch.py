"""A new epoch for a store that was put back from an older copy: which of its records does the log hold already?

The copy is a beginning of the old life, and may have written more since. So compared in position order, outbox and log
agree up to some position and differ after it: what agrees was published, what differs is new and goes out under a new
source. (See `restored.py` for how such a store is noticed.)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterable, Mapping

from ensue.codec import decode_envelope
from ensue.engine.books import Books
from ensue.engine.hallmark import Hallmark, hallmark_of
from ensue.engine.lookup import each_between
from ensue.engine.restored import find_contradiction, last_of_source, record_at
from ensue.engine.withdrawn import to_send
from ensue.engine.witness import Witness, find_witness
from ensue.errors import UsageError
from ensue.message import LOST, TICK, Message, OutboxRecord
from ensue.ports import Broker, StepTransaction, Store

#: Records looked at in one go, from the end of a partition back.
_WINDOW = 1000
_CHUNK = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What the log holds of a store's outbox.

    source: of the epoch that ends. through: the last position that was published; what the store has after it (`left`
    records) goes out in the new epoch. missing: positions up to `through` that never reached the log, because the old
    life ended in the middle of an append: they go out once more in the old epoch, whose chain they belong to.
    diverged_at: first position, as far as was looked, at which the log has what this store did not write.
    witness: a subscriber that has applied what this store did not write.
    """

    source: str
    through: int
    missing: tuple[int, ...]
    left: int
    diverged_at: int | None
    witness: Witness | None = None


class Comparison:
    """Compares what a store has after `position` with what the log has, one record of the log at a time, in any order.

    own: position -> (topic, partition, message id). Pure; about 200 bytes for each record that the relay's own
    position does not cover, which are few unless the broker was down for long.
    """

    def __init__(self, position: int, own: Mapping[int, tuple[str, int, str]]) -> None:
        self._position = position
        self._own = own
        self._unseen = set(own)
        self._seen_through = position
        self.diverged_at: int | None = None

    def has(self, message: Message) -> bool:
        """Whether the store has this very record."""
        return self._own.get(message.position) == (message.topic, message.partition, message.id)

    def see(self, message: Message) -> None:
        """Take note of one record of this source."""
        position = message.position
        if position <= self._position:
            return  # known to be published
        own = self._own.get(position)
        if own is not None and own[:2] == (message.topic, message.partition):
            if message.type in (TICK, LOST):
                return  # names a position but no message: this store's, or the old life's
            if own[2] == message.id:
                self._unseen.discard(position)
                self._seen_through = max(self._seen_through, position)
                return
        if self.diverged_at is None or position < self.diverged_at:
            self.diverged_at = position

    @property
    def done(self) -> bool:
        """Whether more records cannot change the result."""
        first = min(self._unseen, default=None)
        return first is None or (self.diverged_at is not None and first >= self.diverged_at)

    def result(self, source: str, *, pruned: bool, decided: int | None = None) -> Published:
        """Return the result. pruned: the log has lost records to retention. decided: the operator says `through`.

        Raises UsageError when the log cannot tell, or contradicts itself; its text says how to decide.
        """
        last = max(self._own, default=self._position)
        if decided is not None:
            if not self._position <= decided <= last:
                raise UsageError(
                    f"{source}: published through {decided}, expected {self._position} (known to be published) "
                    f"to {last} (the last one in the outbox)"
                )
            return self._published(source, decided)
        through, diverged = self._seen_through, self.diverged_at
        if diverged is not None and diverged <= through:
            raise UsageError(
                f"{source}: the log holds another message than this store at position {diverged}, but the same one at "
                f"position {through}: two stores have published as {source}. Compare `ensue outbox list` with the "
                "log, and give --published-through with the last position that went out",
                diverged_at=diverged,
                found=through,
            )
        doubtful = [] if diverged is None else [each for each in self._unseen if through < each < diverged]
        if doubtful and pruned:
            raise UsageError(
                f"{source}: positions {min(doubtful)} to {max(doubtful)} are not in the log, whose oldest records are "
                "gone (retention): nobody can tell by it whether they were published. See `ensue outbox list "
                f"--after {through}`: give --published-through with the last position that was written before the "
                "copy was made",
                first=min(doubtful),
                last=max(doubtful),
            )
        return self._published(source, through)

    def _published(self, source: str, through: int) -> Published:
        limit = through if self.diverged_at is None else min(through, self.diverged_at - 1)
        return Published(
            source=source,
            through=through,
            missing=tuple(sorted(each for each in self._unseen if each <= limit)),
            left=sum(each > through for each in self._own),
            diverged_at=self.diverged_at,
        )


async def find_published(
    store: Store, broker: Broker, declared: Iterable[str] = (), decided: int | None = None
) -> Published:
    """Search the log for what the store's outbox holds after the relay's position. Changes nothing.

    declared: topics that the service publishes to, besides those of its outbox. decided: see `Comparison.result`.
    Goes from the end of each partition back, until nothing is open or the beginning is reached: a record sent again
    may stand anywhere, so only the beginning proves that one is missing.
    Raises UsageError, too, when a subscriber has applied what the store did not write, and nobody can tell from which
    position on the store has written anew.
    """
    books = Books(store, store.source.rpartition("/")[0])
    position = await books.relay_position()
    heads = await store.outbox_heads()
    if position > max(heads.values(), default=position):
        position = 0  # stored by a relay of the life that is lost: it says nothing of what this one has written
    witness = await find_witness(store, broker)
    if witness is not None and decided is not None:
        position = min(position, decided)  # what was sent since was taken for what it is not
    comparison = Comparison(position, await _own(store, position))
    topics = await broker.topics()
    mine = {*declared, *(topic for topic, _ in heads)}
    places = {topic: topics[topic] for topic in mine if topic in topics}
    pruned = await _search(broker, places, store.source, await hallmark_of(store), comparison)
    found = comparison.result(store.source, pruned=pruned, decided=decided)
    if witness is None:
        return found
    told = (
        decided is not None
        or found.diverged_at is not None
        or await find_contradiction(store, broker, declared) is not None
        # A relay waited here when the log knew nothing of it, and it has sent nothing since.
        or (await books.relay_waits() == position and await _holds_no_events(broker, places, store.source))
    )
    if not told:
        raise UsageError(
            f"{witness}. So this store was put back from a copy, but the log does not tell from which position on it "
            "has written anew, and it may have sent some of that. See `ensue outbox list`: give --published-through "
            "with the last position that was written before the copy was made",
            source=store.source,
        )
    return dataclasses.replace(found, witness=witness)


async def _holds_no_events(broker: Broker, places: Mapping[str, int], source: str) -> bool:
    for topic, partitions in places.items():
        for number in range(partitions):
            last, _ = await last_of_source(broker, topic, number, source)
            if last is not None and last.type != TICK:
                return False
    return True


Also = Callable[[StepTransaction, str], Awaitable[None]]


async def begin_epoch(store: Store, broker: Broker, found: Published, also: Also | None = None) -> str:
    """Complete the old epoch in the log, then begin the new one. Returns the new source.

    Killed in between, the same search finds what is left to do. No worker of the service may run meanwhile.
    also: what is done with the new source, in the transaction after the one that begins it: that is the store's own.
    Raises UsageError when another process has ended the old epoch first: of two at once one begins, the other is told.
    """
    await _check_goes_on(store, found)  # before anything is sent: the store itself looks once more as it writes
    books = Books(store, found.source.rpartition("/")[0])
    for start in range(0, len(found.missing), _CHUNK):
        batches: dict[tuple[str, int], list[OutboxRecord]] = {}
        for position in found.missing[start : start + _CHUNK]:
            record = await record_at(store, position)
            if record is not None:
                batches.setdefault((record.topic, record.partition), []).append(record)
        for topic, _ in batches:
            if not await broker.partitions(topic):
                raise UsageError(f"{found.source}: topic {topic} is not in the log: start the broker that held it")
        going = {where: await to_send(books, records) for where, records in batches.items()}
        await broker.append_many(found.source, going)
    source = await store.new_epoch(found.through, ends=found.source)
    # What the new epoch has is unsent from there on; a crash before this line makes status count what was sent before.

    async def note(transaction: StepTransaction) -> None:
        if also is not None:
            await also(transaction, source)

    await Books(store, source.rpartition("/")[0]).save_relay_position(source, found.through, note)
    return source


async def _check_goes_on(store: Store, found: Published) -> None:
    """Raise UsageError when the epoch that is to end has ended by another process."""
    await store.outbox_after(found.through, 1)  # by which a store learns of it
    if store.source != found.source:
        raise UsageError(f"{found.source} has ended meanwhile, this store is {store.source} now: look again")


async def _own(store: Store, position: int) -> dict[int, tuple[str, int, str]]:
    own: dict[int, tuple[str, int, str]] = {}
    while records := await store.outbox_after(position, _CHUNK):
        for each in records:
            own[each.position] = (each.topic, each.partition, decode_envelope(each.envelope).id)
        position = records[-1].position
    return own


async def _search(
    broker: Broker, topics: Mapping[str, int], source: str, hallmark: Hallmark, comparison: Comparison
) -> bool:
    """Show the log to `comparison`, all partitions side by side, but for what others wrote in the source's name; return
    whether retention has taken a part of it."""
    open_windows: dict[tuple[str, int], tuple[int, int]] = {}
    for topic, partitions in topics.items():
        for number in range(partitions):
            open_windows[topic, number] = await broker.bounds(topic, number)
    pruned = any(first > 1 for first, _ in open_windows.values())
    while open_windows and not comparison.done:
        for (topic, number), (first, end) in list(open_windows.items()):
            begin = max(end - _WINDOW, first - 1)
            if begin >= end:
                del open_windows[topic, number]
                continue
            async for record in each_between(broker, topic, number, begin, end):
                if not isinstance(record, Message) or record.source != source:
                    continue
                if comparison.has(record) or hallmark.wrote(record):
                    comparison.see(record)
            open_windows[topic, number] = (first, begin)
    return pruned
