"""When a recurring step is due: an interval, or a cron expression in a time zone; and what becomes of runs that nobody
was there for. Pure rules over values.

Times are seconds since the epoch. Cron expressions are read, and followed through the days on which clocks are changed,
by cronsim, which does as Debian's cron does. See docs/adr/0039.
"""

from __future__ import annotations

import datetime
import math
import typing
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from ensue.errors import UsageError

Missed = Literal["once", "skip", "all"]
"""What becomes of due times that had passed before the run of the one before them began: one run makes up for all of
them, none does, or one for each."""

#: The shortest interval, in seconds: each run is a message, with its transactions and its place in the log.
EVERY_MIN_S = 0.001


class Run(msgspec.Struct, frozen=True):
    """A run of a recurring step, for a handler that asks for it: `async def clean_up(run: Run, step: Step)`."""

    due: datetime.datetime
    """For when it was due, in UTC; `step.now` is when it began. With missed="once" the first due time of all that it
    makes up for."""


class Schedule(msgspec.Struct, frozen=True, omit_defaults=True):
    """When a recurring step is due; made by `schedule_of`. Kept as JSON with the step's next run.

    cron, tz: an expression, and the zone whose clock it goes by; or else every_s: an interval in seconds.

    >>> hourly = Schedule(every_s=3600.0)
    >>> hourly.first(now=100.0), hourly.following(due=3700.0, now=3701.0), hourly.following(due=3700.0, now=20000.0)
    (3700.0, 7300.0, 21700.0)
    >>> Schedule(every_s=3600.0, missed="all").following(due=3700.0, now=20000.0)
    7300.0
    """

    cron: str = ""
    tz: str = "UTC"
    every_s: float = 0.0
    missed: Missed = "once"

    def first(self, now: float) -> float:
        """The first due time of a step that begins now."""
        return self._after(now)

    def following(self, due: float, now: float) -> float:
        """What is due next when the run of `due` begins now."""
        if self.missed == "all" or now <= due:
            return self._after(due)
        if self.every_s:
            return due + self.every_s * (math.floor((now - due) / self.every_s) + 1)
        return self._after(now)

    def passes_over(self, due: float, now: float) -> bool:
        """Whether the run of `due` does not take place any more: its successor is due already."""
        return self.missed == "skip" and self._after(due) <= now

    def _after(self, moment: float) -> float:
        if self.every_s:
            return moment + self.every_s
        from cronsim import CronSim

        start = datetime.datetime.fromtimestamp(moment, ZoneInfo(self.tz))
        # Asked in an hour that comes twice, it begins with what was due in the first of the two.
        found = (each.timestamp() for each in CronSim(self.cron, start))
        due = next((each for each in found if each > moment), None)
        if due is None:
            raise UsageError(f"{self}: not due again within 50 years of {start.isoformat()}")
        return due

    def __str__(self) -> str:
        if self.every_s:
            return f"every {datetime.timedelta(seconds=self.every_s)}"
        return f'"{self.cron}" {self.tz}'


def schedule_of(given: Any, tz: str | None, missed: Any, where: str, now: float) -> Schedule:
    """Check what was declared. where: how an error names it. Raises UsageError that says what to write instead."""
    if missed not in typing.get_args(Missed):
        raise UsageError(f'{where}: missed={missed!r}, expected "once", "skip" or "all"')
    if isinstance(given, datetime.timedelta):
        if given.total_seconds() < EVERY_MIN_S:
            raise UsageError(f"{where}: every {given}, expected at least {EVERY_MIN_S * 1000:g} ms")
        if tz is not None:
            raise UsageError(f"{where}: tz={tz!r} with an interval, which is the same in all zones: leave tz out")
        return Schedule(every_s=given.total_seconds(), missed=missed)
    if not isinstance(given, str):
        raise UsageError(
            f'{where}: every({given!r:.100}), expected a cron expression ("0 3 * * *") or a timedelta in brackets'
        )
    schedule = Schedule(cron=" ".join(given.split()), tz="UTC" if tz is None else tz, missed=missed)
    try:
        ZoneInfo(schedule.tz)
    except (ZoneInfoNotFoundError, ValueError, TypeError, OSError) as error:
        raise UsageError(f'{where}: tz={tz!r} is no time zone, such as "Europe/Berlin" or "UTC"') from error
    from cronsim import CronSimError

    try:
        schedule.first(now)
    except CronSimError as error:
        raise UsageError(
            f"{where}: {given!r} is no cron expression ({error}): five fields, minute, hour, day of the month, month, "
            'day of the week; "30 2 * * MON-FRI" is half past two on weekdays'
        ) from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    return schedule
