"""The life of a view's versions: one row, and what may be done with it, as a table. No I/O.

A version is fed when it is active, previous or building, so that swap and rollback are one row each, and never lose or
repeat anything. What an operator asks for is refused where the table has no line for it. See docs/adr/0044.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ensue.errors import UsageError


class State(enum.StrEnum):
    NEW = "new"  # no version was ever active
    LIVE = "live"
    BUILDING = "building"  # a further version is being built
    PAUSED = "paused"  # it is not fed just now


class Action(enum.StrEnum):
    BEGIN = "rebuild"
    PAUSE = "pause"
    RESUME = "resume"
    SWAP = "swap"
    ROLLBACK = "rollback"
    DROP = "drop"  # what was active before
    ABANDON = "drop what is building"


NEXT: Final = {
    (State.NEW, Action.BEGIN): State.LIVE,
    (State.LIVE, Action.BEGIN): State.BUILDING,
    (State.BUILDING, Action.PAUSE): State.PAUSED,
    (State.BUILDING, Action.RESUME): State.BUILDING,  # with another rate
    (State.PAUSED, Action.RESUME): State.BUILDING,
    (State.BUILDING, Action.SWAP): State.LIVE,
    **{(each, Action.ROLLBACK): each for each in (State.LIVE, State.BUILDING, State.PAUSED)},
    **{(each, Action.DROP): each for each in (State.LIVE, State.BUILDING, State.PAUSED)},
    **{(each, Action.ABANDON): State.LIVE for each in (State.BUILDING, State.PAUSED)},
}


class Accepted(msgspec.Struct, frozen=True):
    """What a version goes on without, because somebody said so: positions (after, through] of a source."""

    version: int
    topic: str
    partition: int
    source: str
    after: int
    through: int
    by: str
    at: float


class ViewRow(msgspec.Struct, frozen=True):
    """One view. Versions are numbers from 1, 0: none. rate: events per second that one process takes for the building
    version, 0: as fast as it can. started_at: when the last build began, swapped_at: when the active version became
    it, seconds since the epoch. by: who decided last. accepted: is never forgotten. revision: of the row."""

    name: str
    active: int = 0
    previous: int = 0
    building: int = 0
    state: State = State.NEW
    rate: float = 0.0
    started_at: float = 0.0
    swapped_at: float = 0.0
    by: str = ""
    accepted: tuple[Accepted, ...] = ()
    revision: int = 0

    @property
    def fed(self) -> tuple[int, ...]:
        """The versions whose processes feed them, the active one first."""
        return tuple(each for each in (self.active, self.previous, self.building) if each)

    def accepted_of(self, version: int) -> tuple[Accepted, ...]:
        return tuple(each for each in self.accepted if each.version == version)


Rule = Callable[[ViewRow, float], ViewRow]
"""What an action makes of a row, and when: seconds since the epoch. Raises UsageError."""


def begin(version: int, by: str, rate: float = 0.0) -> Rule:
    """Build a version from the log's beginning. The first one of all is active at once."""

    def rule(row: ViewRow, now: float) -> ViewRow:
        if version in row.fed:
            what = "active" if version == row.active else "the previous one" if version == row.previous else "building"
            raise _refused(
                row, Action.BEGIN, f"version {version} is {what} already: what folds otherwise has another version="
            )
        if row.state is State.NEW:
            return _to(row, Action.BEGIN, active=version, started_at=now, swapped_at=now, by=by)
        return _to(row, Action.BEGIN, building=version, started_at=now, by=by, rate=_checked(row, rate))

    return rule


def pause(by: str) -> Rule:
    return lambda row, now: _to(row, Action.PAUSE, by=by)


def resume(by: str, rate: float | None = None) -> Rule:
    """rate: None: as it was."""

    def rule(row: ViewRow, now: float) -> ViewRow:
        return _to(row, Action.RESUME, by=by, rate=row.rate if rate is None else _checked(row, rate))

    return rule


def swap(version: int, by: str) -> Rule:
    """Queries go to `version` from now on, which was seen to be ready."""

    def rule(row: ViewRow, now: float) -> ViewRow:
        if row.building != version:
            raise _refused(row, Action.SWAP, f"version {version} {_not_building(row, version)}")
        if row.previous:
            raise _refused(row, Action.SWAP, f"version {row.previous} is still there to go back to: drop it first")
        return _to(row, Action.SWAP, active=version, previous=row.active, building=0, rate=0.0, swapped_at=now, by=by)

    return rule


def _not_building(row: ViewRow, version: int) -> str:
    if version == row.active:
        return "is active already"
    if version == row.previous:
        return "is the one that was asked before: `ensue views rollback` goes back to it"
    return "is not built: `ensue views rebuild` builds it"


def rollback(by: str, to: int = 0) -> Rule:
    """Queries go back to the version before, which was seen to be as far as the active one; that becomes previous. to:
    the version that is meant; 0: whichever it is. Who says it and asks twice does not go there and back."""

    def rule(row: ViewRow, now: float) -> ViewRow:
        if not row.previous:
            raise _refused(row, Action.ROLLBACK, "there is no version to go back to")
        if to not in (0, row.previous):
            raise _refused(row, Action.ROLLBACK, f"version {to} is not the one to go back to, {row.previous} is")
        return _to(row, Action.ROLLBACK, active=row.previous, previous=row.active, swapped_at=now, by=by)

    return rule


def drop(version: int, by: str) -> Rule:
    """Feed a version no more; then its place may be removed. One that is not fed is dropped already."""

    def rule(row: ViewRow, now: float) -> ViewRow:
        if version == row.active:
            raise _refused(row, Action.DROP, f"version {version} is active: swap to another one, or roll back, first")
        if version == row.building:
            return _to(row, Action.ABANDON, building=0, rate=0.0, by=by)
        if version == row.previous:
            return _to(row, Action.DROP, previous=0, by=by)
        return row

    return rule


def accept(missing: tuple[Accepted, ...]) -> Rule:
    """Note what a version goes on without."""
    return lambda row, now: msgspec.structs.replace(row, accepted=(*row.accepted, *missing), by=missing[-1].by)


def carry(from_version: int, version: int) -> Rule:
    """What a version goes on without, the one that is made of its rows goes on without too: whoever decided it."""

    def rule(row: ViewRow, now: float) -> ViewRow:
        carried = tuple(msgspec.structs.replace(each, version=version) for each in row.accepted_of(from_version))
        new = tuple(each for each in carried if each not in row.accepted)
        return msgspec.structs.replace(row, accepted=(*row.accepted, *new))

    return rule


def _to(row: ViewRow, action: Action, **changes: Any) -> ViewRow:
    following = NEXT.get((row.state, action))
    if following is None:
        raise _refused(
            row, action, "that is possible when it is " + " or ".join(each for each, what in NEXT if what is action)
        )
    return msgspec.structs.replace(row, state=following, **changes)


def _checked(row: ViewRow, rate: float) -> float:
    if not rate >= 0:
        raise UsageError(f"view {row.name}: a rate of {rate}, expected events per second; 0: as fast as it can")
    return rate


def _refused(row: ViewRow, action: Action, why: str) -> UsageError:
    stands = ", ".join(
        f"{name} {version}"
        for name, version in (("active", row.active), ("previous", row.previous), ("building", row.building))
        if version
    )
    return UsageError(
        f"view {row.name} is {row.state} ({stands or 'no version yet'}): {action}: {why}",
        view=row.name,
        state=row.state,
    )
