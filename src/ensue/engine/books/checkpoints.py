"""How far the subscription is, partition by partition, and what it has decided there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from ensue.engine.books.base import encode
from ensue.engine.books.decisions import Decisions
from ensue.engine.decisions import accepted, forgotten, rewound
from ensue.errors import CheckpointConflict, RowConflict
from ensue.message import CatchUp, Checkpoint, Counters, Gap, Missed, Partition
from ensue.ports import Row, StepTransaction
from ensue.tables import CHECKPOINTS


class _State(msgspec.Struct, omit_defaults=True):
    """What of a checkpoint is JSON."""

    watermarks: dict[str, int]
    gaps: dict[str, Gap]
    counters: Counters
    letters: int
    types: tuple[str, ...] | None = None
    missed: dict[str, Missed] = {}
    began: dict[str, int] = {}
    catching_up: CatchUp | None = None
    ids: dict[str, str] = {}


AlsoOfCheckpoint = Callable[[StepTransaction, Checkpoint, Checkpoint], Awaitable[None]] | None

_read_state = msgspec.json.Decoder(_State).decode


class Checkpoints(Decisions):
    """How far the subscription is, partition by partition."""

    async def checkpoint(self, partition: Partition) -> Checkpoint:
        """Return the checkpoint, or a new one (revision 0) when there is none."""
        rows = await self._store.rows().get(CHECKPOINTS, [partition.place])
        return _checkpoint(rows[0]) if rows else Checkpoint()

    async def checkpoints(self) -> dict[Partition, Checkpoint]:
        [by_id] = CHECKPOINTS.lookups
        return {self._partition(row[0]): _checkpoint(row) async for row in self._all(CHECKPOINTS, by_id)}

    async def checkpoints_of(self, partitions: Sequence[Partition]) -> dict[Partition, Checkpoint]:
        """Those of these partitions, by one question; new ones (revision 0) where there is none."""
        rows = await self._store.rows().get(CHECKPOINTS, [each.place for each in partitions])
        found = {row[0]: row for row in rows}
        return {each: _checkpoint(found[each.place]) if each.place in found else Checkpoint() for each in partitions}

    def in_row(self, row: Row) -> tuple[Partition, Checkpoint]:
        """What a row of CHECKPOINTS says, for who has read it otherwise."""
        return self._partition(row[0]), _checkpoint(row)

    async def save_checkpoint(self, transaction: StepTransaction, partition: Partition, checkpoint: Checkpoint) -> int:
        """As `save_checkpoints`, one alone."""
        [revision] = await self.save_checkpoints(transaction, [(partition, checkpoint)])
        return revision

    async def save_checkpoints(
        self, transaction: StepTransaction, checkpoints: Sequence[tuple[Partition, Checkpoint]]
    ) -> list[int]:
        """Save each if the stored revision is its own (0: if there is none), all in one statement; return the new ones.

        Raises CheckpointConflict otherwise (some stores: RowConflict at the commit), and then the transaction cannot
        commit any more, whatever becomes of the error. The values given stay as they are.
        """
        rows: list[Row] = []
        for partition, checkpoint in checkpoints:
            state = _State(
                checkpoint.watermarks, checkpoint.gaps, checkpoint.counters, checkpoint.letters, checkpoint.types,
                checkpoint.missed, checkpoint.began, checkpoint.catching_up, checkpoint.ids,
            )  # fmt: skip
            revision = self._next(checkpoint.revision)
            rows.append((partition.place, checkpoint.offset, revision, encode(state).decode()))
        known = [(row, each.revision) for row, (_, each) in zip(rows, checkpoints, strict=True) if each.revision]
        new = [row for row, (_, each) in zip(rows, checkpoints, strict=True) if not each.revision]
        try:
            if known:
                expected = [revision for _, revision in known]
                await transaction.update_rows(CHECKPOINTS, [row for row, _ in known], expect=expected)
            if new:
                await transaction.insert_rows(CHECKPOINTS, new)
        except RowConflict as error:
            if len(checkpoints) > 1:
                raise CheckpointConflict(
                    f"{self.subscription}: of the {len(checkpoints)} stored checkpoints of this step at least one is "
                    "not as expected any more: another worker moved it; do the partitions one by one",
                    subscription=self.subscription,
                ) from error
            [(partition, checkpoint)] = checkpoints
            raise checkpoint_moved(partition, checkpoint.revision) from error
        return [row[2] for row in rows]

    async def accept_loss(
        self,
        partition: Partition,
        source: str,
        also: Callable[[StepTransaction, Gap, Gap | None], Awaitable[None]] | None = None,
        shown: Gap | None = None,
    ) -> int:
        """An operator accepts a LOST gap: the watermark moves to its lost_through, which is returned; the gap goes, or
        is OPEN again when it needs more than that. The revision moves, so a running worker notices. also: what is done
        with the gap, and with what is left of it, in the same transaction. shown: the gap as the operator saw it.
        Raises UsageError when that gap is not LOST, or other positions are lost than was shown."""
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(CHECKPOINTS, [partition.place])
            checkpoint = _checkpoint(rows[0]) if rows else Checkpoint()
            gap = checkpoint.gaps.pop(source, None)
            left = accepted(partition, source, gap, shown)
            assert gap is not None
            if left is not None:
                checkpoint.gaps[source] = left
            checkpoint.watermarks[source] = gap.lost_through
            checkpoint.ids.pop(source, None)
            await self.save_checkpoint(transaction, partition, checkpoint)
            if also is not None:
                await also(transaction, gap, left)
        return gap.lost_through

    async def rewind(self, partition: Partition, source: str, position: int, also: AlsoOfCheckpoint = None) -> None:
        """An operator takes back how far a source was applied. What follows is asked for again. Raises UsageError."""
        await self.decide_on(partition, lambda found: rewound(partition, source, found, position), also)

    async def forget_gap(self, partition: Partition, source: str, also: AlsoOfCheckpoint = None) -> None:
        """An operator wants a source not to be asked any more. Its next record may show the gap anew. Raises
        UsageError when there is none."""
        await self.decide_on(partition, lambda found: forgotten(partition, source, found), also)

    async def decide_on(
        self, partition: Partition, decision: Callable[[Checkpoint], Checkpoint], also: AlsoOfCheckpoint = None
    ) -> None:
        """The revision moves, so a running worker notices. also: what is done with the checkpoint as it was and as it
        is then, in the same transaction."""
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(CHECKPOINTS, [partition.place])
            found = _checkpoint(rows[0]) if rows else Checkpoint()
            following = decision(found)
            await self.save_checkpoint(transaction, partition, following)
            if also is not None:
                await also(transaction, found, following)

    async def replay(
        self,
        partition: Partition,
        kind: str,
        known: Iterable[str],
        also: Callable[[StepTransaction], Awaitable[None]] | None = None,
    ) -> None:
        """An operator wants a type handled again from the log's beginning. The revision moves, so a running worker
        notices. known: the types that the service handles, for a checkpoint that does not say. also: what is done in
        the same transaction."""
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(CHECKPOINTS, [partition.place])
            if not rows:
                return  # nothing is read yet
            checkpoint = _checkpoint(rows[0])
            types = known if checkpoint.types is None else checkpoint.types
            checkpoint.types = tuple(sorted(each for each in types if each != kind))
            checkpoint.missed[kind] = Missed()
            running = checkpoint.catching_up
            if running is not None and kind in running.types:
                left = tuple(each for each in running.types if each != kind)
                checkpoint.catching_up = msgspec.structs.replace(running, types=left) if left else None
            await self.save_checkpoint(transaction, partition, checkpoint)
            if also is not None:
                await also(transaction)


def _checkpoint(row: Row) -> Checkpoint:
    _, offset, revision, state = row
    found = _read_state(state)
    return Checkpoint(
        offset, revision, found.watermarks, found.gaps, found.counters, found.letters, found.types, found.missed,
        found.began, found.catching_up, found.ids,
    )  # fmt: skip


def checkpoint_moved(partition: Partition, revision: int) -> CheckpointConflict:
    return CheckpointConflict(
        f"{partition}: the stored checkpoint is not of revision {revision} any more: another worker moved it; "
        "load it again and read on from there",
        subscription=partition.subscription,
        topic=partition.topic,
        partition=partition.number,
        expected_revision=revision,
    )
