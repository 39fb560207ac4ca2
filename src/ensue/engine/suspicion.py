"""A suspect partition: before each attempt a row says what is attempted, until its worker has come past the place."""

from __future__ import annotations

from ensue.engine.attempt import DEATHS_MAX, Attempt
from ensue.engine.context import Context
from ensue.errors import HandlerKilled
from ensue.message import Checkpoint, Partition


class Suspicion:
    """What a consumer knows about the ends of the workers before it. See `Attempt`."""

    def __init__(self, partition: Partition, context: Context) -> None:
        self.partition = partition
        self._context = context
        self._attempt: Attempt | None = None
        self._written = False
        self._passed = 0

    async def begin(self, checkpoint: Checkpoint) -> None:
        """Find out how the last attempt ended. Later, when the loop begins anew: note that it has ended."""
        books = self._context.books
        if self._attempt is None:
            stored = await books.attempt(self.partition)
            self._written = stored != Attempt()
            ended = await self._has_ended(stored, checkpoint)
            self._attempt = stored.ended(stored.target) if ended else stored.found_dead()
        else:
            await self.no_death()

    async def no_death(self) -> None:
        """Whatever was attempted has ended without an end of the process."""
        if self._attempt is not None and self._attempt.target:
            await self._write(self._attempt.ended(self._attempt.target))

    async def _has_ended(self, stored: Attempt, checkpoint: Checkpoint) -> bool:
        if stored.target.isdigit():
            reading = checkpoint if checkpoint.catching_up is None else checkpoint.catching_up
            return reading.offset >= int(stored.target)
        letter = await self._context.books.letter(stored.target) if stored.target else None
        return letter is None or letter.revision != stored.revision

    @property
    def single(self) -> bool:
        """Whether to go on one message at a time."""
        return self._known.single

    @property
    def _known(self) -> Attempt:
        assert self._attempt is not None  # begin comes first
        return self._attempt

    def acquit(self, target: str, handler: str) -> None:
        """Raise HandlerKilled when `target` is known to end its process."""
        if self._known.guilty(target):
            why = self._known.why.get(target, "it ended by itself, by a fault, by a signal, or for lack of memory")
            by = f"handler {handler}" if handler else "a handler"
            raise HandlerKilled(
                f"killed the process: {DEATHS_MAX} processes in a row ended while {by} had this message, and nothing "
                f"else, at hand; of the last one is known: {why}. Repair the handler, then retry the letter",
                handler=handler,
                deaths=self._known.deaths[target],
            )

    def begun(self, target: str, *, alone: bool, revision: int = 0) -> Attempt:
        """What to write before `target` is attempted."""
        self._attempt, self._written = self._known.begun(target, alone=alone, revision=revision), True
        return self._attempt

    def ended(self, target: str, count: int) -> None:
        """An attempt of `target` and so many messages has ended, well or badly."""
        self._attempt = self._known.ended(target)
        self._passed += count

    @property
    def passed(self) -> bool:
        """Whether as many messages have ended as the dead worker can have had at hand."""
        return self._passed >= self._context.config.batch_records_max

    async def forget(self) -> None:
        """Nothing is suspect any more."""
        if self._written:
            await self._context.books.forget_attempt(self.partition)

    async def _write(self, attempt: Attempt) -> None:
        await self._context.books.save_attempts([(self.partition, attempt)])
        self._attempt = attempt
