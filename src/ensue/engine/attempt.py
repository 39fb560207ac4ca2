"""Which message ends its process: what is written before an attempt, and what the next worker makes of it. Pure rules.

A handler that ends its process (`os._exit`, a fault in an extension, no memory left, a hang that nothing can stop)
leaves no error that could be counted. So where a worker ended without giving its partition up, that is suspect: a row
says what is attempted before it is. A death in the middle of several messages makes them go one by one; only a
message that was alone in its process's handlers, several times in a row, is at fault. See docs/adr/0031.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: So often in a row the process must have ended while a message was alone. A kill by chance has to hit the same message
#: at each of its attempts to look like that.
DEATHS_MAX: Final = 3


class Attempt(msgspec.Struct, frozen=True):
    """What is known of a suspect partition. A target is a record, by its offset, or a dead letter, by its id."""

    target: str = ""
    """What is attempted; of several records the first one. Empty: nothing."""
    alone: bool = False
    """Nothing else is attempted in this process meanwhile."""
    revision: int = 0
    """Of a dead letter, which another attempt that ended would have moved."""
    single: bool = False
    """From now on one message at a time."""
    deaths: dict[str, int] = {}
    """target -> attempts in a row with which the process ended."""
    why: dict[str, str] = {}
    """target -> what the process could still say about its end."""

    def begun(self, target: str, *, alone: bool, revision: int = 0) -> Attempt:
        return msgspec.structs.replace(self, target=target, alone=alone, revision=revision)

    def found_dead(self) -> Attempt:
        """As whoever comes after finds it when the attempt did not end.

        >>> Attempt(target="7").found_dead().single
        True
        >>> Attempt(target="7", alone=True, deaths={"7": 1}).found_dead().deaths
        {'7': 2}
        """
        if not self.target:
            return self
        deaths = {**self.deaths, self.target: self.deaths.get(self.target, 0) + 1} if self.alone else self.deaths
        return msgspec.structs.replace(self, target="", alone=False, revision=0, single=True, deaths=deaths)

    def ended(self, target: str) -> Attempt:
        """An attempt of `target` came to its end, well or badly: nothing in a row any more.

        >>> Attempt(target="7", alone=True, deaths={"7": 2, "9": 1}).ended("7").deaths
        {'9': 1}
        """
        deaths = {each: count for each, count in self.deaths.items() if each != target}
        why = {each: text for each, text in self.why.items() if each != target}
        return msgspec.structs.replace(self, target="", alone=False, revision=0, deaths=deaths, why=why)

    def hung(self, target: str, why: str) -> Attempt:
        """The process is about to end because a handler of `target` does not return. What is attempted stays."""
        return msgspec.structs.replace(self, single=True, why={**self.why, target: why})

    def guilty(self, target: str) -> bool:
        return self.deaths.get(target, 0) >= DEATHS_MAX
