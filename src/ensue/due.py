"""When an event that is published later goes out."""

from __future__ import annotations

import datetime

from ensue.errors import UsageError


def due_at(now: datetime.datetime, after: datetime.timedelta | None, at: datetime.datetime | None) -> datetime.datetime:
    """When an event goes out, in UTC. now: the transaction's time. One of after and at is given. Raises UsageError."""
    if after is not None:
        if at is not None:
            raise UsageError("publish with after= and at=: an event goes out once, so give one of them")
        if after < datetime.timedelta():
            raise UsageError(f"publish with after={after}: give a time from now on, or leave it out")
        at = _time_after(now, after)
    assert at is not None
    if at.tzinfo is None:
        raise UsageError(
            f"publish with at={at.isoformat()}, which has no time zone and so may mean any of 24 hours: give "
            "datetime(..., tzinfo=UTC), or after="
        )
    return at.astimezone(datetime.UTC)


def _time_after(now: datetime.datetime, after: datetime.timedelta) -> datetime.datetime:
    try:
        return now + after
    except OverflowError:
        raise UsageError(f"publish with after={after}: that is beyond the year 9999") from None
