"""The real clock and the real ids; tests and simulations pass others."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import secrets
import time

from ensue.ports import Clock


class SystemClock:
    now = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def set_within(event: asyncio.Event, clock: Clock, seconds: float) -> None:
    """Wait until the event is set, or the time is over."""
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(clock.sleep(seconds))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()


class DatabaseClock:
    """The database's clock without asking it: ours, and how far that one was ahead when it was last told."""

    def __init__(self, ours: Clock) -> None:
        self._ours = ours
        self._ahead_s = 0.0

    def tells(self, now: float) -> None:
        """The database says what time it is, seconds since the epoch."""
        self._ahead_s = now - self._ours.now()

    def now(self) -> float:
        return self._ours.now() + self._ahead_s


class UniqueIds:
    """A random prefix of 64 bits a process, then a counter: unique, and ten times cheaper than uuid4."""

    def __init__(self, prefix: str | None = None) -> None:
        self._prefix = secrets.token_hex(8) if prefix is None else prefix
        self._count = itertools.count(1)

    def next(self) -> str:
        return f"{self._prefix}-{next(self._count):x}"


def rfc3339(seconds: float) -> str:
    """`2026-01-31T12:00:00.123456Z` of seconds since the epoch."""
    stamp = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return stamp.isoformat(timespec="microseconds").replace("+00:00", "Z")


def seconds_of(stamp: str, otherwise: float) -> float:
    """Seconds since the epoch of an RFC 3339 time; `otherwise` for what is none, as a stranger may send it."""
    try:
        moment = datetime.datetime.fromisoformat(stamp)
    except ValueError:
        return otherwise
    return otherwise if moment.tzinfo is None else moment.timestamp()
