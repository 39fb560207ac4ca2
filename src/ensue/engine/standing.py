"""Where a subscription stands in one partition, as far as it matters to who waits for a position there. Pure."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from ensue.message import Checkpoint, DeadLetter, DeadLetterState
from ensue.signatures import owner_of

#: Letters in these states have not taken effect, and may.
HOLDING = (DeadLetterState.RETRYING, DeadLetterState.DEAD, DeadLetterState.WAITING, DeadLetterState.RELEASED)


class Kind(enum.Enum):
    REACHED = "reached"
    BEHIND = "behind"
    SET_ASIDE = "set aside"  # the watermark is there, but a letter is tried again by itself, or waits behind one
    HELD_BACK = "held back"  # by a letter on which somebody has to decide
    ENDED = "ended"  # it belongs to a history that will not come there any more


class Verdict(NamedTuple):
    """cause: id of the letter, or the source that came after this one."""

    kind: Kind
    cause: str = ""


class Obstacles(NamedTuple):
    """Of one source: the lowest positions of letters, each with its id. dead: of those that wait for a person."""

    dead: tuple[int, str] | None = None
    any: tuple[int, str] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Standing:
    """watermarks: by source, in the order of first contact; none passes what is read again for new types. gaps: sources
    of which something is missing. obstacles: by source."""

    watermarks: Mapping[str, int]
    gaps: Collection[str] = ()
    obstacles: Mapping[str, Obstacles] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, checkpoint: Checkpoint, obstacles: Mapping[str, Obstacles]) -> Standing:
        watermarks = checkpoint.watermarks
        if (again := checkpoint.catching_up) is not None:
            watermarks = {each: min(at, again.watermarks.get(each, 0)) for each, at in watermarks.items()}
        return cls(watermarks, checkpoint.gaps, obstacles)

    def verdict(self, source: str, position: int) -> Verdict:
        """What it means for who waits for this position.

        A watermark passes what is set aside, so a letter at or below the position counts more than the watermark: what
        was written may be that letter, or wait behind it.
        """
        obstacles = self.obstacles.get(source, Obstacles())
        if obstacles.dead is not None and obstacles.dead[0] <= position:
            return Verdict(Kind.HELD_BACK, obstacles.dead[1])
        if self.watermarks.get(source, 0) >= position:
            if obstacles.any is not None and obstacles.any[0] <= position:
                return Verdict(Kind.SET_ASIDE, obstacles.any[1])
            return Verdict(Kind.REACHED)
        successor = self._successor(source)
        return Verdict(Kind.ENDED, successor) if successor else Verdict(Kind.BEHIND)

    def _successor(self, source: str) -> str:
        """A later epoch of the same service that has come past this one here; empty: there is none.

        In a partition's log all of an epoch comes before all of the next, whose positions go on where that has ended.
        Both are asked for: what was lost and sent again may have let this source be met after its successor.
        """
        reached = self.watermarks.get(source)
        if reached is None or source in self.gaps:
            return ""  # not met yet, or some of it still comes
        owner, met = owner_of(source), False
        for other, watermark in self.watermarks.items():
            if other == source:
                met = True
            elif met and watermark > reached and owner_of(other) == owner:
                return other
        return ""


def obstacles_of(letters: Iterable[DeadLetter]) -> dict[str, Obstacles]:
    found: dict[str, Obstacles] = {}
    for each in letters:
        if each.position and each.state in HOLDING:
            at = (each.position, each.id)
            dead, lowest = found.get(each.source, Obstacles())
            if each.state is DeadLetterState.DEAD:
                dead = at if dead is None else min(dead, at)
            found[each.source] = Obstacles(dead, at if lowest is None else min(lowest, at))
    return found
