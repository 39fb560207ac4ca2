"""Who waits in this process until a subscription has come to the positions of a token.

One object for a service and a process. Each wait is a future in the heaps of its places, so that what has come to a
position wakes those at or below it and looks at nobody else. Where a consumer of this process reads a partition, it
tells after each commit; for the others one task looks at the stored checkpoints while anybody waits, for all of them
at once. See docs/adr/0045.
"""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

from ensue.engine.books import Books
from ensue.engine.clock import set_within
from ensue.engine.endings import ends_loop
from ensue.engine.standing import HOLDING, Kind, Obstacles, Standing, Verdict, obstacles_of
from ensue.errors import EnsueError, HeldBack, NotCaughtUp, RetryableError, TokenEnded, TooManyWaiters
from ensue.message import Partition
from ensue.ports import Clock
from ensue.texts import logger
from ensue.token import Part

log = logger("ensue.caught_up")

#: Between two looks at the checkpoints: a part of the time for which nothing has moved and nobody has come, within
#: bounds. So it adds that part at most to a wait, and a reader that is stuck costs twenty looks a second.
LOOK_FIRST_S, LOOK_MAX_S = 0.004, 0.05
_PART = 1 / 8


class _Wait:
    __slots__ = ("future", "left", "parts", "until")

    def __init__(self, future: asyncio.Future[None], parts: Sequence[Part], until: float) -> None:
        self.future = future
        self.parts = parts
        self.left = len(parts)
        self.until = until


class _Heap:
    """Waits for one source in one partition, the lowest position first. aside: those whose position is reached while a
    letter is in the way."""

    __slots__ = ("aside", "waits")

    def __init__(self) -> None:
        self.waits: list[tuple[int, int, _Wait]] = []
        self.aside: list[tuple[int, int, _Wait]] = []

    def sweep(self) -> None:
        """Forget those that have ended otherwise."""
        self.waits = [each for each in self.waits if not each[2].future.done()]
        self.aside = [each for each in self.aside if not each[2].future.done()]
        heapq.heapify(self.waits)


@dataclasses.dataclass(slots=True)
class _Letters:
    """As they were looked at last. revision: of the checkpoint then."""

    found: Mapping[str, Obstacles]
    revision: int
    at: float


class CaughtUp:
    """limit: how many may wait at once. refresh_s: at least so often everything that is waited for is looked at.
    forgets: the store may come back with less, so that what was seen before says nothing."""

    def __init__(
        self, service: str, books: Books, clock: Clock, limit: int, refresh_s: float, *, forgets: bool = False
    ) -> None:
        self._service = service
        self._books = books
        self._clock = clock
        self._limit = limit
        self._refresh_s = refresh_s
        self._forgets = forgets
        self._heaps: dict[Partition, dict[str, _Heap]] = {}
        self._standings: dict[Partition, Standing] = {}  # as last looked at or told, of what is waited for
        self._fed: dict[Partition, Callable[[], Standing]] = {}
        self._deadlines: list[tuple[float, int, _Wait]] = []
        self._letters: dict[Partition, _Letters] = {}
        self._numbers = itertools.count()
        self._waiting = 0
        self._gone = 0  # waits that have ended and are in a heap still
        self._ended = False
        self._asked = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._trouble: RetryableError | None = None

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    # ------------------------------------------------------------------------------------------------- who waits

    async def wait(self, parts: Iterable[Part], timeout_s: float) -> None:
        """Return when all parts are reached. Raises HeldBack, NotCaughtUp, TokenEnded, TooManyWaiters."""
        left = [each for each in parts if not self._reached_here(each)]
        if not left:
            return
        if self._ended:
            raise self._stopped()
        if self._waiting >= self._limit:
            raise TooManyWaiters(
                f"service {self._service}: {self._waiting} requests wait for tokens in this process, expected at most "
                f"{self._limit} (ENSUE_WAITERS_MAX): is a partition of it stuck? `ensue status` tells",
                service=self._service,
                limit=self._limit,
            )
        wait = _Wait(asyncio.get_running_loop().create_future(), left, self._clock.monotonic() + timeout_s)
        self._waiting += 1
        try:
            for part in left:
                heap = self._heaps.setdefault(self._place(part), {}).setdefault(part.source, _Heap())
                heapq.heappush(heap.waits, (part.position, next(self._numbers), wait))
            heapq.heappush(self._deadlines, (wait.until, next(self._numbers), wait))
            if self._looking is None or self._looking.done():
                self._looking = asyncio.create_task(self._look_while_waited(), name=f"ensue {self._service} caught up")
            self._asked.set()
            await wait.future
        finally:
            self._waiting -= 1
            wait.future.cancel()
            self._gone += 1
            if self._gone > 64 and self._gone > 2 * self._waiting:
                self._sweep()
        if wait.left:  # its time is over
            raise self._late(wait, timeout_s)

    def _reached_here(self, part: Part) -> bool:
        """Whether this process knows that it is reached. What was looked at before may say so: a watermark only grows,
        and a letter is there before the watermark has come past it. Raises what its consumer knows to be in the way."""
        place = self._place(part)
        feed = self._fed.get(place)
        if feed is not None:
            verdict = feed().verdict(part.source, part.position)
            if verdict.kind in (Kind.HELD_BACK, Kind.ENDED):
                raise self._refusal(part, verdict)
            return verdict.kind is Kind.REACHED
        known = None if self._forgets else self._standings.get(place)
        return known is not None and known.verdict(part.source, part.position).kind is Kind.REACHED

    def _place(self, part: Part) -> Partition:
        return Partition(self._service, part.topic, part.partition)

    def _late(self, wait: _Wait, timeout_s: float) -> EnsueError:
        behind: list[dict[str, object]] = []
        for part in wait.parts:
            place = self._place(part)
            standing = self._fed[place]() if place in self._fed else self._standings.get(place, Standing({}))
            verdict = standing.verdict(part.source, part.position)
            if verdict.kind is Kind.SET_ASIDE:
                return self._held_back(part, verdict.cause, "which is tried again, or waits behind another one")
            reached = standing.watermarks.get(part.source, 0)
            if reached < part.position:
                behind.append(
                    {
                        "source": part.source, "topic": part.topic, "partition": part.partition,
                        "wanted": part.position, "reached": reached, "lag": part.position - reached,
                    }
                )  # fmt: skip
        said = ", ".join(
            f"{each['topic']}/{each['partition']} of {each['source']}: wanted {each['wanted']}, reached "
            f"{each['reached']}"
            for each in behind[:3]
        )
        trouble = f". Its database did not answer: {self._trouble}" if self._trouble is not None else ""
        error = NotCaughtUp(
            f"service {self._service} has not caught up within {timeout_s:g} s: {said}"
            + (" and more" if len(behind) > 3 else "")
            + f". It goes on by itself; `ensue status` tells whether a worker reads there{trouble}",
            service=self._service,
            timeout_s=timeout_s,
            behind=tuple(behind),
        )
        error.__cause__ = self._trouble
        return error

    def _refusal(self, part: Part, verdict: Verdict) -> EnsueError:
        """For what will not be reached by itself."""
        if verdict.kind is Kind.HELD_BACK:
            return self._held_back(part, verdict.cause, "which waits for somebody to decide")
        return TokenEnded(
            f"a token names {part.source}, of which service {self._service} has not seen position {part.position} in "
            f"{part.topic}/{part.partition}, and {verdict.cause} has come after it: what was written is perhaps lost. "
            "Look, and ask without the token",
            source=part.source,
            successor=verdict.cause,
        )

    def _held_back(self, part: Part, letter: str, what: str) -> HeldBack:
        return HeldBack(
            f"service {self._service} is held back by letter {letter}, {what}: position {part.position} of "
            f"{part.source} in {part.topic}/{part.partition} has perhaps not taken effect. "
            f"`ensue dead-letters show MODULE:{self._service} {letter}` tells more",
            service=self._service,
            letter=letter,
        )

    def _stopped(self) -> RetryableError:
        return RetryableError(
            f"service {self._service} stops, so nobody waits for its tokens here: ask another process"
        )

    # ----------------------------------------------------------------------------------------------- who tells

    def feeds(self, place: Partition, standing: Callable[[], Standing]) -> None:
        """A consumer of this process reads the partition from now on, and calls `tells` whenever it has moved."""
        self._fed[place] = standing
        self.tells(place)

    def leaves(self, place: Partition) -> None:
        """It does not any more. Safe to repeat."""
        if self._fed.pop(place, None) is not None:
            self._asked.set()

    def tells(self, place: Partition) -> None:
        if place in self._heaps:
            self._moved(place, self._fed[place]())

    def _moved(self, place: Partition, standing: Standing) -> bool:
        """Wake whom it concerns; return whether a watermark has moved."""
        before, self._standings[place] = self._standings.get(place), standing
        heaps = self._heaps.get(place, {})
        for source, heap in list(heaps.items()):
            again, heap.aside = heap.aside, []
            for entry in again:
                if not self._judge(heap, entry, source, place, standing):
                    heapq.heappush(heap.waits, entry)  # the watermark went back: an operator rewound it
            while heap.waits and self._judge(heap, heap.waits[0], source, place, standing):
                heapq.heappop(heap.waits)
            self._fail_behind_dead(heap, source, place, standing)
            if not heap.waits and not heap.aside:
                del heaps[source]
        if not heaps:
            self._heaps.pop(place, None)
        return before is None or before.watermarks != standing.watermarks

    def _judge(
        self, heap: _Heap, entry: tuple[int, int, _Wait], source: str, place: Partition, standing: Standing
    ) -> bool:
        """Whether this one of a heap is dealt with; if the first is not, none behind it is."""
        position, _, wait = entry
        if wait.future.done():
            return True
        verdict = standing.verdict(source, position)
        kind = verdict.kind
        if kind is Kind.BEHIND:
            return False
        if kind is Kind.SET_ASIDE:
            heap.aside.append(entry)
        elif kind is Kind.REACHED:
            wait.left -= 1
            if not wait.left:
                wait.future.set_result(None)
        else:
            wait.future.set_exception(self._refusal(Part(source, place.topic, place.number, position), verdict))
        return True

    def _fail_behind_dead(self, heap: _Heap, source: str, place: Partition, standing: Standing) -> None:
        """A dead letter lies ahead of the watermark's way to them: no need to wait until it is met."""
        dead = standing.obstacles[source].dead if source in standing.obstacles else None
        if dead is not None:
            for position, _, wait in heap.waits:
                if position >= dead[0] and not wait.future.done():
                    part = Part(source, place.topic, place.number, position)
                    wait.future.set_exception(self._refusal(part, Verdict(Kind.HELD_BACK, dead[1])))

    # ------------------------------------------------------------------------------------------------ who looks

    async def _look_while_waited(self) -> None:
        quiet_since = looked_at_all = self._clock.monotonic()
        while self._waiting:
            now = self._clock.monotonic()
            if self._asked.is_set():
                self._asked.clear()
                quiet_since = now
            look_at_all = now - looked_at_all >= self._refresh_s
            looked_at_all = now if look_at_all else looked_at_all
            places = [each for each in self._heaps if look_at_all or each not in self._fed]
            try:
                moved = await self._look(places) if places else False
                self._trouble = None
            except RetryableError as error:
                moved, self._trouble = False, error
            except BaseException as error:
                if ends_loop(error):
                    raise
                log.exception("%s: nobody can be told how far it is", self._service)
                self._fail(error)
                return
            self._expire()
            quiet_since = now if moved else quiet_since
            quiet_s = self._clock.monotonic() - quiet_since
            await self._pause(min(max(quiet_s * _PART, LOOK_FIRST_S), LOOK_MAX_S))

    async def _pause(self, pause: float) -> None:
        """Until the next look: at once for who asks now, together with whoever asks within the shortest pause."""
        unfed = any(each not in self._fed for each in self._heaps)
        until = self._clock.monotonic() + (pause if unfed else self._refresh_s)
        if self._deadlines:
            until = min(until, self._deadlines[0][0])
        await self._clock.sleep(min(max(until - self._clock.monotonic(), 0.0), LOOK_FIRST_S))
        if (left := until - self._clock.monotonic()) > 0:
            await set_within(self._asked, self._clock, left)

    async def _look(self, places: Sequence[Partition]) -> bool:
        """Look at all these places at once; return whether anything has moved."""
        now, moved = self._clock.monotonic(), False
        checkpoints = await self._books.checkpoints_of(places)
        for place in places:
            checkpoint = checkpoints[place]
            obstacles: Mapping[str, Obstacles] = {}
            if checkpoint.letters:  # it has had some
                known = self._letters.get(place)
                fresh = known is not None and known.revision == checkpoint.revision
                if known is None or not fresh or now - known.at >= self._refresh_s:
                    found = obstacles_of(await self._books.letters(place, HOLDING, 2**31 - 1))
                    known = self._letters[place] = _Letters(found, checkpoint.revision, now)
                obstacles = known.found
            moved = self._moved(place, Standing.of(checkpoint, obstacles)) or moved
        return moved

    def _expire(self) -> None:
        now = self._clock.monotonic()
        while self._deadlines and (self._deadlines[0][0] <= now or self._deadlines[0][2].future.done()):
            _, _, wait = heapq.heappop(self._deadlines)
            if not wait.future.done():
                wait.future.set_result(None)  # with parts left, which says that it is late

    def _sweep(self) -> None:
        self._gone = 0
        for place, heaps in list(self._heaps.items()):
            for source, heap in list(heaps.items()):
                heap.sweep()
                if not heap.waits and not heap.aside:
                    del heaps[source]
            if not heaps:
                del self._heaps[place]
        self._deadlines = [each for each in self._deadlines if not each[2].future.done()]
        heapq.heapify(self._deadlines)

    def _fail(self, error: BaseException) -> None:
        for heaps in self._heaps.values():
            for heap in heaps.values():
                for _, _, wait in (*heap.waits, *heap.aside):
                    if not wait.future.done():
                        wait.future.set_exception(error.again() if isinstance(error, EnsueError) else error)

    def begin(self) -> None:
        """What was known says nothing: a view's place may have been removed, and made anew, since the end."""
        self._ended = False
        self._standings.clear()
        self._letters.clear()

    async def end(self) -> None:
        """Have all give up, and return when nobody looks into the database any more."""
        self._ended = True
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        self._fail(self._stopped())
        self._sweep()
