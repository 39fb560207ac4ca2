"""Outside effects of sagas: functions that are called in no transaction, many at a time, each at least once.

Whoever has committed that one is to be attempted hands it over here. A timer that is set in the same transaction brings
it again after its limit, so nothing is lost with a process; one that begins late has it set anew before. What comes of
it is a record for its saga, in one small transaction; the saga cancels the timer when it takes that in, and a timer
that has gone off since comes behind it. See docs/adr/0042.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import msgspec

from ensue import logs
from ensue.engine.context import Context
from ensue.engine.reason import message_of, trace_of
from ensue.engine.timers import put
from ensue.errors import RetryableError, UsageError
from ensue.failure import failure_in
from ensue.ports import StepTransaction
from ensue.saga.instance import instance_of
from ensue.saga.journal import Refusal
from ensue.saga.outside import OutsideRun
from ensue.saga.undo import delay_s
from ensue.saga.wake import Wake, write_wake
from ensue.step import Step
from ensue.tables import SAGAS, TIMERS
from ensue.texts import Lines, logger, plain
from ensue.tracing import Attempted, Carrier, traced

log = logger("ensue.sagas")

T = TypeVar("T")

#: How long one that was cancelled is waited for.
_GIVE_UP_S: Final = 2.0
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 5.0
#: One that begins within this after its timer was set has its whole limit: the pause after it is a second at least.
_SOON_S: Final = 0.5


class OutsideRuns:
    """The outside effects that one process attempts; at most `outside_max` of the service at once, in order."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._at_work = context.dispatcher.sagas.at_work
        self._todo: deque[OutsideRun] = deque()
        self._late: set[tuple[str, int, int]] = set()  # those that had to wait for their turn, or for the commit
        self._running: dict[asyncio.Task[None], OutsideRun] = {}
        self._ending = False
        context.dispatcher.sagas.begin = self.begin

    @property
    def busy(self) -> int:
        """How many are at work or wait for their turn."""
        return len(self._running) + len(self._todo)

    def begin(self, runs: Sequence[OutsideRun]) -> None:
        """Attempt these, as soon as there is room for them."""
        self._todo += runs
        self._at_work.update(each.name for each in runs)
        now = self._context.clock.monotonic()
        self._late.update(each.name for each in runs if each.since is None or now - each.since > _SOON_S)
        self._fill()
        self._late.update(each.name for each in self._todo)

    def _fill(self) -> None:
        while self._todo and not self._ending and len(self._running) < self._context.dispatcher.definition.outside_max:
            run = self._todo.popleft()
            task = asyncio.create_task(self._attempt(run), name=f"ensue outside {run.key}")
            self._running[task] = run
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        run = self._running.pop(task)
        self._at_work.discard(run.name)
        self._late.discard(run.name)
        if task.cancelled():
            self._todo.append(run)
        elif (error := task.exception()) is not None:
            said = "%s: %s was called, and what came of it is not kept; it is called again"
            log.error(said, run.key, run.function.where, exc_info=error)
        self._fill()
        self._context.progress()

    @property
    def tasks(self) -> list[asyncio.Task[None]]:
        return list(self._running)

    def stop(self) -> None:
        """Begin no more."""
        self._ending = True

    async def give_back(self, give_up_s: float) -> None:
        """After a stop: have those that were cancelled, or had no turn, begun by whoever works next. Else their timers
        bring them, after their limits."""
        left, self._todo = list(self._todo), deque()
        self._at_work.clear()
        if not left:
            return
        told = [(each, Wake("again", number=each.number, attempt=each.attempt)) for each in left]
        try:
            async with asyncio.timeout(give_up_s):
                await self._write(told)
        except (RetryableError, TimeoutError) as error:
            log.info(
                "%s: %d outside effects begin again after their limits (%s)", self._context.service, len(left), error
            )

    # --------------------------------------------------------------------------------------------------- one attempt

    async def _attempt(self, run: OutsideRun) -> None:
        faults = self._context.faults
        logs.at_hand.set(run.correlation_id)  # of this task, and of what it calls
        if run.name in self._late and not await self._insist(run, lambda: self._postponed(run)):
            return
        trace = self._context.tracing.outside(
            run.function.name, run.key, run.attempt, run.correlation_id, Carrier(run.traceparent)
        )
        faults.point("outside.begun")
        with traced(trace):
            wake = await self._came_to(run, trace)
        faults.point("outside.called")
        if wake.kind == "broke":
            log.warning("%s: %s failed at attempt %d: %s", run.key, run.function.where, run.attempt, Lines(wake.reason))
        try:
            await self._tell(run, wake, trace)
        except UsageError as error:  # what it returned is more than a record carries
            await self._tell(run, self._broke(run, error), trace)

    async def _came_to(self, run: OutsideRun, trace: Attempted | None) -> Wake:
        call = asyncio.create_task(_called(run), name=f"ensue outside {run.key} call")
        try:
            await asyncio.wait((call,), timeout=run.limit_s)
            if not call.done():
                call.cancel()
                await asyncio.wait((call,), timeout=_GIVE_UP_S)
        except asyncio.CancelledError:  # a stop
            call.cancel()
            raise
        error: BaseException | None
        if not call.done() or call.cancelled():
            late = f"it did not return within its limit of {run.limit_s:g} s"
            error = TimeoutError(late if call.done() else f"{late}, and goes on although it was cancelled")
        else:
            error = call.exception()
            try:
                if error is None:
                    data = msgspec.Raw(run.function.write_value(call.result()))
                    return Wake("came", number=run.number, data=data)
                failure = failure_in(error)
                if failure is not None:
                    return Wake("came", number=run.number, attempt=run.attempt, refusal=Refusal.of(failure))
            except UsageError as unfit:
                error = unfit
        if trace is not None:
            trace.failed(error)
        return self._broke(run, error)

    def _broke(self, run: OutsideRun, error: BaseException) -> Wake:
        values = self._context.config.show_values
        said = f"{type(error).__qualname__}: {message_of(error, values=values)}\n{trace_of(error, values=values)}"
        return Wake(
            "broke", number=run.number, attempt=run.attempt, reason="\n".join(map(plain, said.rstrip().split("\n")))
        )

    async def _postponed(self, run: OutsideRun) -> bool:
        """Have the timer of an attempt that begins late go off after its limit, whichever process then has the saga.
        False: it is not to be made: it was given up meanwhile, or its timer is on its way."""
        context = self._context
        async with context.store.transaction() as transaction:
            rows = await transaction.load_rows(SAGAS, [run.saga])
            saga = instance_of(rows[0]) if rows else None
            effect = None if saga is None else saga.outside.get(run.number)
            if saga is None or effect is None or (effect.attempt, effect.state) != (run.attempt, "begun"):
                log.info("%s: attempt %d was given up before it had its turn", run.key, run.attempt)
                return False
            for timer in await transaction.load_rows(TIMERS, [saga.timers[run.number]]):
                later = {"due_at": transaction.now + run.limit_s + delay_s(run.attempt)}
                columns = zip(TIMERS.columns, timer, strict=True)
                await transaction.update_rows(TIMERS, [tuple(later.get(name, value) for name, value in columns)])
                context.faults.point("outside.late")
                return True
            await self._add(transaction, [(run, Wake("again", number=run.number, attempt=run.attempt))])
            return False

    async def _tell(self, run: OutsideRun, wake: Wake, trace: Attempted | None) -> None:
        await self._insist(run, lambda: self._write([(run, wake)], trace))

    async def _insist(self, run: OutsideRun, act: Callable[[], Awaitable[T]]) -> T:
        """Until the database takes it: what was done is not to be forgotten because that is away for a while."""
        pause = _PAUSE_FIRST_S
        while True:
            try:
                return await act()
            except RetryableError as error:
                log.warning("%s: what comes of it cannot be kept: %s; again in %.2f s", run.key, error, pause)
            await self._context.clock.sleep(pause)
            pause = min(pause * 2, _PAUSE_MAX_S)

    async def _write(self, told: Sequence[tuple[OutsideRun, Wake]], trace: Attempted | None = None) -> None:
        context = self._context
        async with context.store.transaction() as transaction:
            await self._add(transaction, told, trace)
            context.faults.point("outside.written")
        context.faults.point("outside.committed")

    async def _add(
        self,
        transaction: StepTransaction,
        told: Sequence[tuple[OutsideRun, Wake]],
        trace: Attempted | None = None,
    ) -> None:
        outgoing = self._context.dispatcher.outgoing(transaction)
        outgoing.trace = trace
        for run, wake in told:
            step = Step(transaction, outgoing, None, run.correlation_id, run.traceparent)
            step.wake(run.saga, write_wake(wake))
        await put(transaction, outgoing.close())


async def _called(run: OutsideRun) -> object:
    try:
        return await run.function.call(run.data, run.key)
    except SystemExit as error:  # it would end the event loop
        raise RuntimeError(f"{run.function.where} raised SystemExit({error.code})") from error
