"""The versions of one view: where each lives, how far it is, and what an operator decides. For every face."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ensue.engine.books import Books
from ensue.engine.books.views import ViewBook
from ensue.engine.seeding import Seed
from ensue.engine.worker import is_gone
from ensue.errors import CheckpointConflict, UsageError
from ensue.message import Bounds, DeadLetterState, Partition
from ensue.ports import Broker, Clock, Place, Store
from ensue.views import states
from ensue.views.progress import Progress, progress
from ensue.views.ready import Kind, Obstacle, Standing, Where, lines, obstacles, without
from ensue.views.states import Accepted, State, ViewRow

_SET_ASIDE = (
    DeadLetterState.DEAD, DeadLetterState.RETRYING, DeadLetterState.RELEASED, DeadLetterState.WAITING,
)  # fmt: skip
#: So many letters are named.
_LETTERS_MAX = 20
#: How often what is waited for is looked at, and how long workers are waited for, in lives of a lease.
_LOOK_S, _STOP_LEASES = 0.1, 5


@dataclasses.dataclass(frozen=True, slots=True)
class _Kept:
    """Books by their version, whose stores `stack` closes."""

    stack: AsyncExitStack
    books: dict[int, Books] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Versions:
    """name: of the view. book: of its row. place_of, store_at: the place of a version, and a store in it that is not
    open. topics: what its code reads, with `partitions` each. seed: what the code's version begins with. kept: stores
    that stay open, see `looking`."""

    name: str
    book: ViewBook
    place_of: Callable[[int], Place]
    store_at: Callable[[Place], Store]
    topics: Collection[str]
    partitions: int
    lease_ttl_s: float
    clock: Clock
    seed: Seed | None = None
    kept: _Kept | None = None

    @property
    def wanted(self) -> list[Where]:
        return [(topic, number) for topic in self.topics for number in range(self.partitions)]

    def subscription(self, version: int) -> str:
        return f"{self.name}@{version}"

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Versions]:
        """The same, for one who looks again and again: what a look has opened stays open until the end of this block.
        On PostgreSQL each opening is a log-in, which is more than the look itself."""
        async with AsyncExitStack() as stack:
            yield dataclasses.replace(self, kept=_Kept(stack))

    @asynccontextmanager
    async def opened(self, version: int) -> AsyncIterator[Books | None]:
        """The books of a version; None: it has no store."""
        if self.kept is None:
            async with AsyncExitStack() as stack:
                yield await self._open(version, stack)
            return
        if version not in self.kept.books and (books := await self._open(version, self.kept.stack)) is not None:
            self.kept.books[version] = books
        yield self.kept.books.get(version)

    async def _open(self, version: int, stack: AsyncExitStack) -> Books | None:
        store = self.store_at(self.place_of(version))
        if not await store.exists():
            return None
        await store.open()
        stack.push_async_callback(store.close)
        return Books(store, self.subscription(version))

    # ------------------------------------------------------------------------------------------------- how it stands

    async def standing(self, version: int) -> Standing:
        async with self.opened(version) as books:
            if books is None:
                return Standing({})
            found = await books.checkpoints()
            letters = await books.letters(None, _SET_ASIDE)
        return Standing({(each.topic, each.number): found[each] for each in found}, letters[:_LETTERS_MAX])

    async def progress(self, version: int, broker: Broker) -> Progress:
        checkpoints = (await self.standing(version)).checkpoints
        return progress(checkpoints, await bounds_of(broker, self.wanted), self.wanted, self.clock.monotonic())

    async def obstacles(self, version: int, broker: Broker) -> list[Obstacle]:
        """What keeps a version from becoming the active one; nothing: it is ready."""
        row = await self.book.row()
        # The active one last: what it applies meanwhile, the other one would be said to lack.
        active = None if row.active in (0, version) else await self.standing(row.active)
        other = await self.standing(version)
        new = [] if active is None else [each for each in self.wanted if each not in active.checkpoints]
        ends = {where: bounds.last for where, bounds in (await bounds_of(broker, new)).items()}
        return obstacles(active, other, self.wanted, ends, row.accepted_of(version))

    async def seeded_from(self, version: int) -> int:
        """The version of whose rows it began; 0: it began from the log, or has not begun."""
        async with self.opened(version) as books:
            return 0 if books is None else await books.seeded_from()

    async def workers(self, version: int) -> list[str]:
        """The living workers that feed a version."""
        async with self.opened(version) as books:
            return [] if books is None else [each for each in (await books.leases()).workers if not is_gone(each)]

    # --------------------------------------------------------------------------------------------------- decisions

    async def rebuild(self, version: int, by: str, rate: float = 0.0) -> ViewRow:
        """Begin to build a version: its processes feed it from now on. One that is building already goes on."""
        row = await self.book.row()
        if row.building == version:
            return row
        if row.state is not State.NEW and self.seed is not None and version == self.seed.version:
            await self.seed.check(row)
        if (
            row.state is not State.NEW
            and version not in row.fed
            and await self.store_at(self.place_of(version)).exists()
        ):
            # It was dropped, and its place is still there: a build begins with nothing.
            await self._remove(version)
        return await self.book.change(states.begin(version, by, rate))

    async def swap(self, version: int, by: str, broker: Broker) -> ViewRow:
        """Have queries answered by a version that is ready. Raises UsageError that names what it lacks."""
        row = await self.book.row()
        states.swap(version, by)(row, 0.0)  # refused for what it is, before what it lacks
        await self._check(version, broker, "swap")
        return await self.book.change(states.swap(version, by))

    async def rollback(self, by: str, broker: Broker, to: int = 0) -> ViewRow:
        """Have queries answered by the version before. to: the version that is meant, 0: whichever that is. Raises
        UsageError when it is another one, and when it is not fed and has fallen behind."""
        row = await self.book.row()
        states.rollback(by, to)(row, 0.0)
        if not await self.workers(row.previous):
            await self._check(row.previous, broker, "rollback")
        return await self.book.change(states.rollback(by, row.previous))

    async def _check(self, version: int, broker: Broker, action: str) -> None:
        found = await self.obstacles(version, broker)
        if not found:
            return
        incomplete = any(each.kind is Kind.INCOMPLETE for each in found)
        workers = await self.workers(version)
        todo = "" if workers else f"\nno worker feeds version {version}: start it, with the code of that version"
        todo += (
            "\nto go on without what is missing, for ever: ensue views swap --accept-missing" * incomplete
            + "\nwhat is only behind comes by itself: try again, or swap --wait" * (bool(workers) and not incomplete)
        )
        raise UsageError(
            f"view {self.name}: {action} to version {version} is refused, it is not ready:\n"
            + "\n".join(lines(found))
            + todo,
            view=self.name,
            version=version,
            obstacles=found,
        )

    async def missing(self, version: int, broker: Broker) -> list[Obstacle]:
        """What a version lacks and may never get, for `accept_missing`."""
        return [each for each in await self.obstacles(version, broker) if each.kind is Kind.INCOMPLETE]

    async def accept_missing(self, version: int, by: str, broker: Broker, shown: Sequence[Obstacle]) -> list[Accepted]:
        """A version goes on without what is not to be had: first that is noted in the row, for ever, then done.

        shown: what `missing` returned, and somebody saw. Raises UsageError when it is another by now: what came since
        then nobody has agreed to go on without, and what is asked for again may have come.
        """
        missing = await self.missing(version, broker)
        if [_what(each) for each in missing] != [_what(each) for each in shown]:
            raise UsageError(
                f"view {self.name}: what version {version} lacks is not what was shown any more, "
                f"and nothing is accepted; it lacks now: {'; '.join(lines(missing)) or 'nothing'}. Look at it again",
                view=self.name,
                version=version,
            )
        if not missing:
            return []
        accepted: list[Accepted] = []

        def note(row: ViewRow, now: float) -> ViewRow:
            accepted[:] = [
                Accepted(version, each.topic, each.partition, each.source, each.after, each.through, by, now)
                for each in missing
            ]
            known = {(each.topic, each.partition, each.source, each.through) for each in row.accepted_of(version)}
            new = tuple(
                each for each in accepted if (each.topic, each.partition, each.source, each.through) not in known
            )
            return states.accept(new)(row, now) if new else row

        await self.book.change(note)
        async with self.opened(version) as books:
            if books is None:
                raise UsageError(f"view {self.name}: version {version} has no store")
            for each in accepted:
                await self._without(books, Partition(self.subscription(version), each.topic, each.partition), each)
        return accepted

    async def _without(self, books: Books, partition: Partition, missing: Accepted) -> None:
        while True:
            try:
                await books.decide_on(partition, lambda found: without(found, missing.source, missing.through))
                return
            except CheckpointConflict:
                continue  # the worker has gone on meanwhile

    async def drop(self, version: int, by: str, *, force: bool = False) -> ViewRow:
        """Feed a version no more, and remove its place; safe to repeat, also after a crash in between.

        Its workers are waited for, since they would go on writing. force: they are known not to run.
        """
        row = await self.book.change(states.drop(version, by))
        if not force:
            await self._until_stopped(version)
        await self._remove(version)
        return row

    async def _until_stopped(self, version: int) -> None:
        until = self.clock.monotonic() + _STOP_LEASES * self.lease_ttl_s
        while workers := await self.workers(version):
            if self.clock.monotonic() > until:
                raise UsageError(
                    f"view {self.name}: version {version} is fed no more, and its place is still there, since "
                    f"{', '.join(workers)} did not stop: stop them, and drop it again; --force: I know that none runs"
                )
            await asyncio.sleep(_LOOK_S)

    async def _remove(self, version: int) -> None:
        place = self.place_of(version)
        store = self.store_at(place)
        if await store.exists():  # else it is gone, or half of it is
            await store.open()  # raises when it is another service's
            await store.close()
        if version in (await self.book.row()).fed:
            raise UsageError(f"view {self.name}: version {version} is fed again: its place stays")
        await place.remove()


def _what(missing: Obstacle) -> tuple[str, int, str, int, int]:
    return missing.topic, missing.partition, missing.source, missing.after, missing.through


async def bounds_of(broker: Broker, wanted: Collection[Where]) -> dict[Where, Bounds]:
    """What the log holds; nothing of a topic that is not there yet."""
    known = await broker.topics() if wanted else {}
    return {
        (topic, number): await broker.bounds(topic, number) for topic, number in wanted if number < known.get(topic, 0)
    }
