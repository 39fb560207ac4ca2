"""Events that are published later: to look at, and to take back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from ensue.codec import decode_envelope
from ensue.deciding import Deciding
from ensue.engine.timers import place_of, timer_of
from ensue.errors import UsageError
from ensue.message import SAGA, Timer
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json
from ensue.ports import Row, RowReader
from ensue.tables import RECURRING, TIMERS

[_BY_TIME] = TIMERS.lookups
[_STEPS] = RECURRING.lookups
_STEPS_MAX = 10_000
#: Rows read in one query: of the largest events they are some tens of megabytes.
_AT_ONCE = 64
_NAMED_MAX = 10

Due = tuple[float, int, str]
"""When a timer is due, its number among those of its transaction, its id: the order of timers."""


class TimerLine(msgspec.Struct, kw_only=True):
    """One event that waits."""

    id: str
    due_at: float
    """Seconds since the epoch."""
    topic: str
    partition: int
    key: str
    recurring: str | None
    """The recurring step whose next run it is."""
    headers: dict[str, Any]
    data: Any


async def timers(access: Opened, after: str | None, limit: int) -> tuple[list[TimerLine], int]:
    """Up to `limit` of what waits, in the order in which it is due, and how many there are in all. after: an id, behind
    which to begin. Raises UsageError when that is not there any more."""
    found, there, _ = await timer_page(
        access, None if after is None else await _place(access.store.rows(), after), limit
    )
    return found, there


async def timer_page(
    access: Opened, after: Due | None, limit: int, bytes_max: int | None = None
) -> tuple[list[TimerLine], int, Due | None]:
    """As `timers`, behind a place at which there need not be anything any more; and the place of the last one of a full
    page, behind which the next one begins. bytes_max: of their data; it is full with fewer when they have more, with
    one at least."""
    reader = access.store.rows()
    rows, full = await _rows(reader, after or (), limit, bytes_max)
    there = await reader.count(TIMERS, _BY_TIME, ())
    steps = await _steps(reader)
    following = place_of(rows[-1]) if rows and full else None
    return [_line(timer_of(row), steps) for row in rows], there, following


async def _rows(
    reader: RowReader, after: Sequence[object], limit: int, bytes_max: int | None
) -> tuple[list[Row], bool]:
    """Up to `limit` rows, and whether there may be more."""
    found: list[Row] = []
    left = bytes_max
    while len(found) < limit:
        wanted = min(_AT_ONCE, limit - len(found))
        rows = await reader.find(TIMERS, _BY_TIME, (), after=after, limit=wanted)
        for row in rows:
            if left is not None:
                left -= len(timer_of(row).data)
                if left < 0 and found:
                    return found, True
            found.append(row)
        if len(rows) < wanted:
            return found, False
        after = place_of(rows[-1])
    return found, True


async def refuse_runs(access: Opened, ids: Sequence[str]) -> None:
    """Raise UsageError when one of them is the next run of a recurring step."""
    steps = await _steps(access.store.rows())
    if runs := [each for each in ids if each in steps]:
        raise UsageError(
            f"timer {runs[0]} is the next run of the recurring step {steps[runs[0]]} of {access.service.name}, and "
            "would be armed anew: take the step out of the code, or change its schedule; nothing was cancelled"
        )


async def cancel(access: Opened, ids: Sequence[str], by: Deciding) -> list[Timer]:
    """Take events back that are not published yet: all of these, or none; return them in this order. Raises UsageError
    when one of them is not there, is a recurring step's, or a saga waits for it."""
    await refuse_runs(access, ids)
    name = access.service.name
    async with access.store.transaction() as transaction:
        found = {row[0]: timer_of(row) for row in await transaction.load_rows(TIMERS, ids)}
        if gone := [each for each in ids if each not in found]:
            raise UsageError(
                f"no timer {', '.join(gone[:_NAMED_MAX])} of {name}: it has gone out, was taken back, or never was "
                f"(ensue timers list {access.target}); nothing was cancelled"
            )
        types = {each: decode_envelope(found[each].envelope).type for each in ids}
        if woken := [found[each] for each in ids if types[each] == SAGA]:
            raise UsageError(
                f"timer {woken[0].id} wakes the saga {woken[0].key} of {name}, which would wait for ever: ensue sagas "
                f"cancel {access.target} {woken[0].key} has it undone; nothing was cancelled"
            )
        await transaction.delete_rows(TIMERS, ids)
        for each in ids:
            before = {"type": types[each], "due_at": found[each].due_at}
            await access.books.record(transaction, by, "timers cancel", each, before, None)
    return [found[each] for each in ids]


async def _place(reader: RowReader, timer: str) -> Due:
    rows: Sequence[Row] = await reader.get(TIMERS, [timer])
    if not rows:
        raise UsageError(f"--after {timer}: no such timer any more; begin anew, without --after")
    return place_of(rows[0])


async def _steps(reader: RowReader) -> Mapping[str, str]:
    """The recurring steps by the ids of their next runs."""
    return {row[2]: row[0] for row in await reader.find(RECURRING, _STEPS, (), limit=_STEPS_MAX)}


def _line(timer: Timer, steps: Mapping[str, str]) -> TimerLine:
    return TimerLine(
        id=timer.id, due_at=timer.due_at, topic=timer.topic, partition=timer.partition, key=timer.key,
        recurring=steps.get(timer.id), headers=msgspec.to_builtins(decode_envelope(timer.envelope)),
        data=read_json(timer.data),
    )  # fmt: skip
