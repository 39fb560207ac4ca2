"""A bounded fold: the log from its beginning, by the ordinary consumer, up to certain positions, into a scratch store.

Nothing is published by it, no source is asked for anything, no topic is made or pruned. It may be ended at any moment
and goes on where it was, since the scratch store has a checkpoint of its own. See docs/adr/0048.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from ensue.config import Settings
from ensue.definition import ServiceDefinition
from ensue.engine.bounded_log import BoundedLog
from ensue.engine.runtime import Runtime
from ensue.errors import EnsueError, UsageError
from ensue.message import Checkpoint, DeadLetter, Partition
from ensue.ports import Broker, Store
from ensue.retry import Retry
from ensue.views.bounded import Bound, Where

if TYPE_CHECKING:
    from sqlalchemy import MetaData

#: A message that comes before its row waits for it; what fails for good is told from that at the end.
_PATIENT = Retry(attempts_max=1_000_000, first_delay_s=0.01, factor=2.0, delay_max_s=0.5, jitter=0.0)
#: So many attempts more has a message that fails when all is read.
_LAST_ATTEMPTS = 3
_LOOK_S = 0.2


class FoldFailed(EnsueError):
    """A fold cannot come to where it is to end; the text says what is missing, or what fails."""


def check_foldable(definition: ServiceDefinition) -> None:
    """Raise UsageError for a service whose handlers do more than keep its rows."""
    name = definition.name
    if definition.publishes is None and not definition.is_view:
        raise UsageError(f"service {name} may publish anything: declare it with publishes=[], or as a View")
    does = [each.__name__ for each in (*(definition.publishes or ()), *definition.calls)]
    does += [*definition.recurring, *dict.fromkeys(each for each, _ in definition.sagas)]
    does += [each[0].event.cls.__name__ for each in definition.handlers.values() if each[0].command is not None]
    if does:
        raise UsageError(
            f"service {name} does more than keep rows ({', '.join(does)}): only what publishes nothing is a function "
            "of its events, a View say"
        )


async def fold(
    definition: ServiceDefinition,
    into: Store,
    broker: Broker,
    settings: Settings,
    bounds: Mapping[Where, Bound],
    *,
    tables: MetaData | None = None,
    like: Mapping[Where, Checkpoint] | None = None,
    read: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Fold the log through `bounds` into a store, which is not open, and is closed again; one that holds an earlier
    part of it goes on.

    like: checkpoints of the one that it is compared with, which say since when it handles what. read: is told how many
    records of how many are read. Raises FoldFailed, and UsageError for what cannot be folded.
    """
    check_foldable(definition)
    runtime = _Folding(definition, into, broker, settings, bounds, tables)
    await into.open()
    try:
        await runtime.begin_like(like or {})
        await runtime.start()
        await runtime.through(read)
    finally:
        await runtime.stop()


class _Folding(Runtime):
    def __init__(
        self,
        definition: ServiceDefinition,
        store: Store,
        broker: Broker,
        settings: Settings,
        bounds: Mapping[Where, Bound],
        tables: MetaData | None,
    ) -> None:
        self._turned = asyncio.Event()
        super().__init__(definition, store, broker, settings, tables=tables, retry=_PATIENT, progress=self._turned.set)
        self._bounds = bounds
        self._log = BoundedLog(self.context.broker, bounds)
        self.broker = self._log
        self.context = dataclasses.replace(self.context, broker=self._log)

    async def begin_like(self, like: Mapping[Where, Checkpoint]) -> None:
        """What was handled only from some time on in the other one, is here too."""
        known = await self.context.books.checkpoints()
        changed: list[tuple[Partition, Checkpoint]] = []
        for (topic, number), each in like.items():
            partition = Partition(self.definition.name, topic, number)
            # The log from its beginning again: an earlier fold has passed over what lay beyond its end, and what it
            # has applied is known by its watermarks.
            found = known.get(partition, Checkpoint(types=each.types, began=each.began))
            changed.append((partition, msgspec.structs.replace(found, offset=0)))
        if changed:
            async with self.store.transaction() as transaction:
                await self.context.books.save_checkpoints(transaction, changed)

    async def through(self, read: Callable[[int, int], None]) -> None:
        """Return when every record up to the bounds is dealt with."""
        last: dict[str, int] | None = None
        while True:
            self._turned.clear()
            worker = self.worker
            if worker is None or worker.failed is not None:
                raise FoldFailed(f"the fold of {self.definition.name} cannot go on: {worker and worker.failed}")
            consumers = {
                (each.partition.topic, each.partition.number): each
                for each in worker.loops.consumers
                if (each.partition.topic, each.partition.number) in self._bounds
            }
            ends = self._log.ends
            read(sum(min(each.offset, ends[where]) for where, each in consumers.items()), sum(ends.values()))
            at_end = len(consumers) == len(self._bounds) and all(
                each.offset >= ends[where] for where, each in consumers.items()
            )
            if at_end:
                letters = await self.context.books.letters(limit=2**31 - 1)
                if not letters:
                    break
                # What waits behind another one of its key has had no attempt.
                tried = {each.id: each.attempts for each in letters if each.attempts}
                last = tried if last is None else last
                failed = [each for each in letters if each.attempts >= last.get(each.id, 0) + _LAST_ATTEMPTS]
                stuck = [each for each in letters if each.error_type and each.state.value == "dead"]
                if set(tried) <= set(last) and (stuck or (failed and len(failed) == len(tried))):
                    self._check({where: each.watermarks for where, each in consumers.items()})
                    raise _fails(self.definition.name, (stuck or failed)[0])
                if not set(tried) <= set(last):
                    last = tried
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._turned.wait()
            except TimeoutError:
                continue
        self._check({where: each.watermarks for where, each in consumers.items()})

    def _check(self, found: Mapping[Where, Mapping[str, int]]) -> None:
        lacking = [
            f"{topic}/{number}: {source} through position {found[topic, number].get(source, 0)} only, of {position}"
            for (topic, number), bound in sorted(self._bounds.items())
            for source, position in sorted(bound.through.items())
            if found[topic, number].get(source, 0) != position
        ]
        if lacking:
            raise FoldFailed(
                f"the log has not all that {self.definition.name} was made of any more, so that it cannot be folded "
                "from its beginning:\n" + "\n".join(lacking) + "\nTopics that feed views must keep their records "
                "(ENSUE_RETENTION_S, the broker's own retention)"
            )


def _fails(name: str, letter: DeadLetter) -> FoldFailed:
    return FoldFailed(
        f"the fold of {name} fails at {letter.partition.place}, position {letter.position} of {letter.source}, key "
        f"{letter.key}: {letter.error_type}: {letter.error.partition(chr(10))[0]}",
        source=letter.source,
        position=letter.position,
    )
