"""At a start the first runs of recurring steps are armed, and the database is told what is declared by now."""

from __future__ import annotations

from ensue.engine.context import Context
from ensue.engine.recurring import row_of, write_schedule
from ensue.engine.timers import put
from ensue.errors import StoreConflict
from ensue.message import Timer
from ensue.ports import Row, StepTransaction
from ensue.tables import RECURRING, TIMERS
from ensue.texts import logger

log = logger("ensue.timers")

[_ALL] = RECURRING.lookups
#: More than any service has.
_STEPS_MAX = 10_000
#: So much may two processes differ in what they take for the database's time.
_CLOCKS_S = 60.0


async def arm(context: Context) -> None:
    """Arm what is new, what has another schedule, and what was lost; drop what is not declared any more."""
    declared = context.dispatcher.recurring.schedules
    while True:
        known = [row[0] for row in await context.store.rows().find(RECURRING, _ALL, (), limit=_STEPS_MAX)]
        if not known and not declared:
            return
        try:
            async with context.store.transaction() as transaction:
                armed = await _arm(context, transaction, sorted({*known, *declared}))
                context.faults.point("recurring.armed")
        except StoreConflict as error:
            log.info("%s: %s; looking again", context.service, error)  # another process starts as well
            continue
        context.faults.point("recurring.committed")
        if armed:
            context.timer_set.set()
        return


async def _arm(context: Context, transaction: StepTransaction, names: list[str]) -> bool:
    recurring, now = context.dispatcher.recurring, transaction.now
    rows = {row[0]: row for row in await transaction.load_rows(RECURRING, names)}
    waiting = {row[0] for row in await transaction.load_rows(TIMERS, [row[2] for row in rows.values()])}
    new: list[Row] = []
    changed: list[Row] = []
    armed: list[Timer] = []
    gone = [name for name in rows if name not in recurring.schedules]
    dropped: list[str] = [rows[name][2] for name in gone]
    for name, schedule in recurring.schedules.items():
        text = write_schedule(schedule)
        if name not in rows:
            armed.append(recurring.timer(name, schedule.first(now)))
            new.append(row_of(name, text, armed[-1], now))
            log.info("%s: recurring step %s, %s, begins", context.service, name, schedule)
            continue
        _, known, timer, due_at, since = rows[name]
        waits = timer in waiting  # and is locked, so that nobody moves it
        if (known != text and waits and due_at > now) or _is_lost(waits, due_at, now, context.config.retention_s):
            dropped.append(timer)
            armed.append(recurring.timer(name, schedule.first(now)))
            changed.append(row_of(name, text, armed[-1], since))
        elif known != text:  # its run is due, or on its way, and arms the next one by this
            changed.append((name, text, timer, due_at, since))
        if known != text:
            log.info("%s: recurring step %s is run by %s from now on", context.service, name, schedule)
    for name in gone:
        log.info("%s: recurring step %s is not declared any more and is dropped", context.service, name)
    await transaction.delete_rows(RECURRING, gone)
    await transaction.delete_rows(TIMERS, dropped)
    if new:
        await transaction.insert_rows(RECURRING, new)
    if changed:
        await transaction.update_rows(RECURRING, changed)
    return await put(transaction, armed)


def _is_lost(waits: bool, due_at: float, now: float, retention_s: float) -> bool:
    """Whether the next run of a step cannot come any more: somebody has taken the timer away before it was due, or the
    message has left outbox and log."""
    return not waits and (due_at > now + _CLOCKS_S or due_at < now - retention_s)
