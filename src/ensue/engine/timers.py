"""Events that are published later: they wait in a table, and move into the outbox when they are due.

One transaction takes an event out of the table and puts it into the outbox, so it goes out once in effect, whoever dies
meanwhile and however many try; a step that cancels it deletes the same row. What is due is told by the database's
clock. See docs/adr/0038.
"""

from __future__ import annotations

from collections.abc import Sequence

from ensue.engine.clock import set_within
from ensue.engine.context import Context
from ensue.engine.loop import Loop
from ensue.message import OutboxRecord, Timer
from ensue.ports import Row, StepTransaction, Store
from ensue.tables import TIMERS
from ensue.texts import logger

[_BY_TIME] = TIMERS.lookups
_DUE = TIMERS.columns.index("due_at")


async def put(transaction: StepTransaction, published: Sequence[OutboxRecord]) -> bool:
    """Write what steps of a transaction have published: into the outbox, or among the timers.

    True: set `Context.timer_set` once this is committed.
    """
    rows: list[Row] = []
    records = published
    if Timer in map(type, published):
        records = [each for each in published if not isinstance(each, Timer)]
        found = [each for each in published if isinstance(each, Timer)]
        # A step may cancel what it has published itself, or a neighbour in its transaction has; never the reverse.
        timers = {each.id: row_of(each, number) for number, each in enumerate(found) if not each.cancelled}
        cancelled = {each.id for each in found if each.cancelled}
        rows = [row for name, row in timers.items() if name not in cancelled]
        if rows:
            await transaction.insert_rows(TIMERS, rows)
        if ids := sorted(cancelled - timers.keys()):
            await transaction.delete_rows(TIMERS, ids)
    if records:
        await transaction.outbox_add(records)
    return bool(rows)


def row_of(timer: Timer, ordinal: int) -> Row:
    """Its row in `TIMERS`. ordinal: among those of one transaction."""
    return (
        timer.id, timer.due_at, ordinal, timer.topic, timer.partition, timer.key.encode(), timer.envelope, timer.data
    )  # fmt: skip


def timer_of(row: Row) -> Timer:
    """What a row of `TIMERS` says."""
    name, due_at, _, topic, number, key, envelope, data = row
    return Timer(topic, number, bytes(key).decode(), bytes(envelope), bytes(data), id=name, due_at=due_at)


def place_of(row: Row) -> tuple[float, int, str]:
    """What goes out first: as `_BY_TIME` has it."""
    return row[_DUE], row[_DUE + 1], row[0]


def _due(timer: Timer) -> OutboxRecord:
    return OutboxRecord(timer.topic, timer.partition, timer.key, timer.envelope, timer.data)


async def first_due(store: Store) -> float:
    """When the first of all that wait is due, seconds since the epoch; inf: nothing waits."""
    first = await store.rows().find(TIMERS, _BY_TIME, (), limit=1)
    return float(first[0][_DUE]) if first else float("inf")


class Timers(Loop):
    """Moves what is due into the outbox. One runs in a service; two do no harm."""

    log = logger("ensue.timers")

    def __init__(self, context: Context) -> None:
        super().__init__(f"timers of {context.service}", context)
        self._kept = context.store.capabilities.transactions and context.store.capabilities.publishes

    async def _turn(self) -> None:
        """Move one batch, or wait for one to be due. What another process sets meanwhile is seen within
        poll_interval_s."""
        self._context.timer_set.clear()  # before looking: what comes after it ends the next wait
        wait_s = self._context.config.poll_interval_s
        if self._kept:
            due_s = await self._due_s()
            if due_s <= 0:
                await self.move()
                return
            wait_s = min(wait_s, due_s)
        await self._stop.cuts(set_within(self._context.timer_set, self._context.clock, wait_s))

    async def _due_s(self) -> float:
        """In how many seconds the next one is due, by the database's clock: one row is read, however many wait."""
        store = self._context.store
        due = await first_due(store)
        return due - await store.now() if due < float("inf") else due

    async def move(self) -> int:
        """Move what is due, up to a batch; return how many."""
        store, faults = self._context.store, self._context.faults
        rows = await store.rows().find(TIMERS, _BY_TIME, (), limit=self._context.config.batch_records_max)
        faults.point("timers.read")
        async with store.transaction() as transaction:
            names = [row[0] for row in rows if row[_DUE] <= transaction.now]
            # Locked: what another worker has moved, or a step has cancelled since, is not there.
            found = sorted(await transaction.load_rows(TIMERS, names), key=place_of)
            if found:
                await transaction.delete_rows(TIMERS, [row[0] for row in found])
                await transaction.outbox_add([_due(timer_of(row)) for row in found])
                faults.point("timers.moved")
        faults.point("timers.committed")
        self._context.progress()
        return len(found)
