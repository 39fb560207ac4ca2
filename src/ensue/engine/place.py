"""Where a subscription stands in one partition: what it plans by, and what is stored after a plan. No I/O."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping, Sequence

import msgspec

from ensue.catch_up import passed_over, plan_catch_up
from ensue.engine.context import Context
from ensue.engine.dead_letters import DeadLetters
from ensue.engine.suspicion import Suspicion
from ensue.message import Checkpoint, Counters, DeadLetter, Garbage, Message, Partition
from ensue.plan import Plan, plan


class Place:
    """checkpoint: as it is stored, but for records without effect. unsaved: what was seen since: duplicates and unknown
    types need no commit. stored_offset: of what is stored.
    wanted: the event types that are handled, each with its `since`. others: sources that are of
    another life than what was applied of them. suspicion: that a message here has killed its process, until that is
    cleared."""

    def __init__(
        self, partition: Partition, context: Context, letters: DeadLetters, suspicion: Suspicion | None
    ) -> None:
        self.partition = partition
        self.suspicion = suspicion
        self.checkpoint = Checkpoint()
        self.stored_offset = 0
        self.unsaved = Counters()
        self.others: Collection[str] = ()
        self.wanted = context.dispatcher.definition.wanted(partition.topic)
        self._timed = any(isinstance(since, datetime.datetime) for since in self.wanted.values())
        self._context = context
        self._letters = letters

    def plan(self, records: Sequence[Message | Garbage]) -> Plan:
        """What to do with records that follow what the checkpoint has."""
        checkpoint = self.checkpoint
        context = self._context
        if checkpoint.catching_up is not None:
            return plan_catch_up(records, checkpoint, self.wanted, self._letters.blocked)
        return plan(
            records,
            checkpoint.watermarks,
            checkpoint.gaps,
            context.dispatcher.routes,
            self._letters.blocked,
            context.clock.now(),
            self._began_at,
            self._passed_over if checkpoint.began or self._timed else None,
            checkpoint.ids,
            self.others,
        )

    @property
    def _began_at(self) -> float:
        """Since when what a source has written is owed to this subscription: to a view, all of it."""
        return -math.inf if self._context.dispatcher.definition.is_view else self.checkpoint.counters.since

    def ended(self, todo: Plan) -> None:
        """The handlers of a plan have been called, and this process lives."""
        if self.suspicion is not None and todo.apply:
            self.suspicion.ended(str(todo.apply[0].offset), len(todo.apply))

    def _passed_over(self, message: Message) -> bool:
        return passed_over(message, self.wanted, self.checkpoint.began)

    def letters_of(self, todo: Plan, now: float) -> list[DeadLetter]:
        return self._letters.waiting_letters(todo, now)

    def following(
        self, todo: Plan, *, applied: int = 0, duplicates: int = 0, retries: int = 0, dead: int = 0
    ) -> Checkpoint:
        """The checkpoint after `todo`; the one in memory stays as it is until the commit."""
        checkpoint, unsaved = self.checkpoint, self.unsaved
        if todo.catches_up:
            counters = checkpoint.counters.plus(applied=applied, duplicates=duplicates, retries=retries, dead=dead)
            return msgspec.structs.replace(checkpoint, counters=counters, catching_up=todo.catching_up)
        gaps = checkpoint.gaps
        if todo.gaps:
            gaps = {**gaps, **{source: gap for source, gap in todo.gaps.items() if gap is not None}}
            for source, gap in todo.gaps.items():
                if gap is None:
                    gaps.pop(source, None)
        return Checkpoint(
            offset=todo.rewind if todo.rewind >= 0 else todo.offset or checkpoint.offset,
            revision=checkpoint.revision,
            watermarks={**checkpoint.watermarks, **todo.watermarks} if todo.watermarks else checkpoint.watermarks,
            gaps=gaps,
            counters=checkpoint.counters.plus(
                applied=applied,
                duplicates=unsaved.duplicates + todo.duplicates + duplicates,
                unknown=unsaved.unknown + todo.unknown,
                damaged=unsaved.damaged + todo.damaged,
                refused=len(todo.refused),
                garbage=len(todo.garbage),
                gaps_seen=todo.gaps_seen,
                gaps_healed=todo.gaps_healed,
                retries=retries,
                dead=dead,
            ),
            letters=checkpoint.letters,
            types=checkpoint.types,
            missed=checkpoint.missed,
            began=checkpoint.began,
            catching_up=checkpoint.catching_up,
            ids={**checkpoint.ids, **_kept(todo.ids)} if todo.ids else checkpoint.ids,
        )

    def moved(self, following: Checkpoint) -> None:
        self.checkpoint = following
        self.stored_offset = following.offset
        self.unsaved = Counters()

    def forward(self, todo: Plan) -> None:
        """Nothing to store but the offset: it is written with the next commit, and reading it again is harmless."""
        if todo.catches_up:
            self.checkpoint.catching_up = todo.catching_up
            return
        self.checkpoint.offset = todo.offset
        self.unsaved = self.unsaved.plus(duplicates=todo.duplicates, unknown=todo.unknown, damaged=todo.damaged)


#: Ensue's own ids have some 20 characters. A stranger's may be of any length, and is kept with each commit.
_ID_MAX = 100


def _kept(ids: Mapping[str, str]) -> dict[str, str]:
    return {source: name if len(name) <= _ID_MAX else "" for source, name in ids.items()}
