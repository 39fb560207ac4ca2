"""A process that only prepares something gives way to those that answer somebody. See docs/adr/0058."""

from __future__ import annotations

import os
from typing import Final

#: As of nice(1): enough that whoever answers a query gets the processor at once when it wakes up.
NICE: Final = 10


def give_way(nice: int) -> None:
    """Take less of the processor when others want it, as of nice(1), until this process ends: it cannot take that back.
    0: as before."""
    if nice:
        os.nice(nice)  # beyond 19 it is 19
