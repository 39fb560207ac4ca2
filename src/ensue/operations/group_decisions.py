"""A group of failures, as a whole: what there is, to try it again with a brake, to give it up."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Sequence
from contextlib import aclosing

import msgspec

from ensue.deciding import Deciding
from ensue.engine.clock import SystemClock
from ensue.errors import UsageError
from ensue.message import DeadLetter, DeadLetterState, Partition
from ensue.operations.brake import judged, waves
from ensue.operations.groups import FAILED, Group, Grouping, cause_of, found_group, seen_of
from ensue.operations.letter_decisions import LetterDecided, Wanted, dead_ids, decide_all, decided, decider
from ensue.operations.letters import anybody_works, line_of
from ensue.operations.opening import Opened
from ensue.plan import Queue, queue_of
from ensue.ports import Clock

#: How often the letters are looked at, and how long nothing may happen to them, seconds.
_LOOK_S, PATIENCE_S = 0.2, 60.0
#: So many letters are released before it is looked whether one has failed; and so many looked at in a second.
_PORTION, _LOOKED_AT_PER_S = 100, 5_000

#: Asks again whether whoever began may go on; returns why not, empty: they may.
WhyNot = Callable[[], Awaitable[str]]

_Place = tuple[Partition, Queue]


class End(enum.StrEnum):
    """How a wave has ended."""

    THROUGH = "took effect"
    FAILED = "failed again"
    STILL = "nothing happens"
    NOT_ALLOWED = "not allowed any more"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a group's retry is. All but `left` is of the wave at hand."""

    wave: int
    """From 1."""
    waves: int
    released: int
    passed: int
    """Somebody else was quicker to decide."""
    behind: int
    """Letters of the same keys that follow on those."""
    settled: int
    """Of those released and those behind: they took effect."""
    pending: int
    failed: list[str]
    """Ids."""
    end: End | None
    """None: it goes on."""
    left: int
    """Letters that were not released yet: they are as they were."""
    why: str = ""
    """Of `not allowed any more`: what has become of who began it."""


async def groups(access: Opened) -> list[Group]:
    """What has failed, by its cause, the largest group first. All letters that failed are read for it."""
    grouping = Grouping()
    async with aclosing(access.books.letters_by_time(FAILED)) as found:
        async for each in found:
            grouping.add(each)
    return grouping.groups


async def group_ids(access: Opened, name: str) -> frozenset[str]:
    """Ids of the letters of a group that are dead now. Raises UsageError when there is no such group."""
    found_group(name, await groups(access))
    return await dead_ids(access, _of(name))


def check_confirmed(name: str, ids: Collection[str], count: int, seen: str = "") -> None:
    """Raise UsageError unless these letters of a group are those that somebody has confirmed. count: how many they saw.
    seen: and which, as `Group.seen` had it; empty: they do not say."""
    if len(ids) != count:
        raise UsageError(
            f"group {name} has {len(ids)} dead letters now, and {count} were confirmed: nothing is discarded; look at "
            "it again"
        )
    if seen and seen != seen_of(ids):
        raise UsageError(
            f"group {name} has {count} dead letters, but others than when it was looked at: nothing is discarded; look "
            "at it again"
        )


async def discard_group(
    access: Opened, name: str, by: Deciding, among: Collection[str] | None = None, *, why_not: WhyNot | None = None
) -> AsyncGenerator[LetterDecided, None]:
    """Give up every dead letter of a group, one by one. among: of these ids alone. why_not: is asked after each
    portion of them; raises UsageError with what it says."""
    of = _of(name)
    wanted = of if among is None else lambda letter: letter.id in among and of(letter)
    count = 0
    async with aclosing(decide_all(access, DeadLetterState.DISCARDED, by, name, wanted)) as decisions:
        async for each in decisions:
            yield each
            count += 1
            if why_not is not None and count % _PORTION == 0 and (why := await why_not()):
                raise UsageError(f"group {name}: no letter is discarded after {count}, which stay so: {why}")


async def retry_group(
    access: Opened,
    name: str,
    by: Deciding,
    *,
    clock: Clock | None = None,
    patience_s: float = PATIENCE_S,
    why_not: WhyNot | None = None,
) -> AsyncGenerator[Progress, None]:
    """Try a group's dead letters again in waves: 1, then 10, then 100, then the rest. After each wave it waits until
    all of it, and what waits behind it, has taken effect; the first that fails anew ends it, and so does a wave to
    which nothing happens for patience_s seconds. What was not released then is as it was. why_not: is asked before
    each wave but the first, and in a large one before each portion; what it says ends it.

    Yields how far it is, whenever that changes, and at last a Progress whose `end` says why it is the last.
    Raises UsageError when there is no such group, it is no messages, or no worker lives that could try anything.
    """
    clock = clock or SystemClock()
    found_group(name, await groups(access))
    places = await _chosen(access, name)
    if not await anybody_works(access):
        raise UsageError(
            f"no worker of {access.service.name} lives, so nobody tries anything, and it could not be seen whether it "
            f"fails again: start one (ensue run {access.target})"
        )
    behind = await _behind(access, set(places.values()))
    decide = await decider(access, DeadLetterState.RELEASED, by, name)
    all_waves, left = waves(list(places)), len(places)
    for number, wave in enumerate(all_waves, 1):
        watch = _Watch(access, len(all_waves), number)
        end: End | None = None
        # A large wave goes out in portions: what fails at once keeps the others back.
        for begin in range(0, len(wave), _PORTION):
            if why_not is not None and (number > 1 or begin) and (why := await why_not()):
                yield watch.progress(End.NOT_ALLOWED, left, why)
                return
            for each in wave[begin : begin + _PORTION]:
                left -= 1
                watch.released(each, await decided(decide, each), behind[places[each]])
            end = await watch.look(patience_s)
            if end is End.FAILED:
                break
            yield watch.progress(None, left)
        since = clock.monotonic()
        while end is None:
            await clock.sleep(max(_LOOK_S, len(watch.pending) / _LOOKED_AT_PER_S))
            before = len(watch.pending)
            end = await watch.look(patience_s - (clock.monotonic() - since))
            if end is None and len(watch.pending) < before:
                since = clock.monotonic()
                yield watch.progress(None, left)
        yield watch.progress(end, left)
        if end is not End.THROUGH:
            return


class _Watch:
    """What becomes of one wave. pending: ids, of those released and those behind them."""

    def __init__(self, access: Opened, waves: int, number: int) -> None:
        self._access, self._waves, self._number = access, waves, number
        self._released = self._passed = self._behind = self._settled = 0
        self._failed: set[str] = set()
        self.pending: set[str] = set()

    def released(self, letter_id: str, decided: bool, behind: Sequence[str]) -> None:
        if not decided:
            self._passed += 1
            return
        self._released += 1
        self._behind += len(behind)
        self.pending.update((letter_id, *behind))

    async def look(self, patience_s: float) -> End | None:
        """Look at what is pending; patience_s: how much longer it may be."""
        seen = judged(self.pending, await self._access.books.letter_states(self.pending))
        self._settled += len(seen.settled)
        self._failed |= seen.failed
        moved, self.pending = len(seen.pending) < len(self.pending), set(seen.pending)
        if self._failed:
            return End.FAILED
        if not self.pending:
            return End.THROUGH
        return None if moved or patience_s > 0 else End.STILL

    def progress(self, end: End | None, left: int, why: str = "") -> Progress:
        return Progress(
            wave=self._number, waves=self._waves, released=self._released, passed=self._passed, behind=self._behind,
            settled=self._settled, pending=len(self.pending), failed=sorted(self._failed), end=end, left=left,
            why=why,
        )  # fmt: skip


def _of(name: str) -> Wanted:
    def wanted(letter: DeadLetter) -> bool:
        return cause_of(letter.error_type, letter.error).name == name

    return wanted


async def _chosen(access: Opened, name: str) -> dict[str, _Place]:
    """The dead letters of a group in the order of setting aside, by their ids. Raises UsageError for what is none."""
    found: dict[str, _Place] = {}
    async with aclosing(access.books.letters_by_time([DeadLetterState.DEAD])) as letters:
        async for each in letters:
            if not _of(name)(each):
                continue
            if line_of(each).garbage:
                raise UsageError(f"group {name} is no messages: no handler can take them, they can only be discarded")
            found[each.id] = _place(each)
    return found


async def _behind(access: Opened, heads: Collection[_Place]) -> dict[_Place, list[str]]:
    """Ids of the letters that wait behind others, by their queue."""
    found: dict[_Place, list[str]] = defaultdict(list)
    async with aclosing(access.books.letters_by_time([DeadLetterState.WAITING])) as letters:
        async for each in letters:
            if _place(each) in heads:
                found[_place(each)].append(each.id)
    return found


def _place(letter: DeadLetter) -> _Place:
    return letter.partition, queue_of(letter)
