"""Messages set aside: dead letters, those that wait behind one, and those that were refused."""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from ensue.engine.books.base import FIRST_PAGE, AlsoOfIds, next_page
from ensue.engine.books.checkpoints import Checkpoints, checkpoint_moved
from ensue.engine.decisions import check_decision
from ensue.errors import CheckpointConflict, RowConflict
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Partition
from ensue.ports import Row, StepTransaction
from ensue.tables import LETTERS

_BY_PLACE, BY_STATE = LETTERS.lookups
#: So many records that were not signed are kept of each partition.
REFUSED_MAX = 100
_STATE = LETTERS.columns.index("state")

Aside = tuple[float, Partition, int]
"""When a letter was set aside, in which partition, and its number there: the order of letters."""


class Letters(Checkpoints):
    """Messages set aside; each is counted in its partition's checkpoint."""

    async def add_letters(
        self, transaction: StepTransaction, checkpoint: Checkpoint, letters: Sequence[DeadLetter]
    ) -> None:
        """Keep the letters, in order; give them the next numbers of their partition's `checkpoint`, which the caller
        saves in the same transaction: so a number is given once, however often this is done again.

        What was refused has one of REFUSED_MAX places, below 0, by its offset: it takes that of an older one.
        """
        for letter in letters:
            if letter.state is DeadLetterState.REFUSED:
                letter.number = -1 - letter.offset % REFUSED_MAX
            else:
                checkpoint.letters += 1
                letter.number = checkpoint.letters
            letter.revision = 1
        if refused := {each.id: each for each in letters if each.number < 0}:
            letters = [each for each in letters if refused.get(each.id, each) is each]
            await transaction.delete_rows(LETTERS, sorted(refused))
        try:
            await transaction.insert_rows(LETTERS, [_row_of(letter) for letter in letters])
        except RowConflict as error:
            raise checkpoint_moved(letters[0].partition, checkpoint.revision) from error

    async def change_letter(self, transaction: StepTransaction, letter: DeadLetter) -> None:
        """Store a letter that was loaded. Raises CheckpointConflict when it is gone, or somebody changed it since."""
        expected, letter.revision = letter.revision, letter.revision + 1
        try:
            await transaction.update_rows(LETTERS, [_row_of(letter)], expect=[expected])
        except RowConflict as error:
            raise _letter_gone(letter) from error

    async def remove_letter(self, transaction: StepTransaction, letter: DeadLetter) -> None:
        """Remove a letter that took effect. Raises CheckpointConflict as `change_letter` does."""
        try:
            await transaction.delete_rows(LETTERS, [letter.id], expect=[letter.revision])
        except RowConflict as error:
            raise _letter_gone(letter) from error

    async def letters(
        self, partition: Partition | None = None, states: Sequence[DeadLetterState] = (), limit: int = 1000
    ) -> list[DeadLetter]:
        """Dead letters in the order of setting aside; all partitions and states unless told."""
        found: list[DeadLetter] = []
        for state in states or DeadLetterState:
            equal = [state.value] if partition is None else [partition.place, state.value]
            lookup = BY_STATE if partition is None else _BY_PLACE
            found += [self._letter(row) async for row in self._all(LETTERS, lookup, equal, limit)]
        if partition is None:
            found.sort(key=_time_of)
        else:
            found.sort(key=lambda letter: letter.number)
        return found[:limit]

    async def letters_by_time(
        self, states: Sequence[DeadLetterState], after: Aside | None = None
    ) -> AsyncGenerator[DeadLetter, None]:
        """Letters of all partitions in the order of setting aside, read in pages: there may be many. after: begin
        behind this one, which need not be there any more."""
        heads: list[tuple[Aside, int, DeadLetter]] = []
        streams = [self._by_time(state, after) for state in states]
        for at, stream in enumerate(streams):
            async for each in stream:
                heapq.heappush(heads, (_time_of(each), at, each))
                break
        while heads:
            _, at, letter = heads[0]
            yield letter
            following = await anext(streams[at], None)
            if following is None:
                heapq.heappop(heads)
            else:
                heapq.heapreplace(heads, (_time_of(following), at, following))

    async def _by_time(self, state: DeadLetterState, after: Aside | None) -> AsyncGenerator[DeadLetter, None]:
        """The store orders those of one moment by their names, in which 10 comes before 2."""
        moment: list[DeadLetter] = []
        async for row in self._all(LETTERS, BY_STATE, [state.value], since=() if after is None else after[:1]):
            letter = self._letter(row)
            if after is not None and _time_of(letter) <= after:
                continue
            if moment and letter.parked_at != moment[0].parked_at:
                for each in sorted(moment, key=_time_of):
                    yield each
                moment = []
            moment.append(letter)
        for each in sorted(moment, key=_time_of):
            yield each

    async def prune_letters(self, before_s: float, limit: int, also: AlsoOfIds | None = None) -> int:
        """Delete up to `limit` letters that were set aside before `before_s`, and of which nothing comes any more: the
        discarded ones, then the refused ones. Return how many; 0: there is none. also: what is done with their ids in
        the same transaction."""
        for state in (DeadLetterState.DISCARDED, DeadLetterState.REFUSED):
            if count := await self._prune(LETTERS, before_s, limit, BY_STATE, [state.value], also):
                return count
        return 0

    async def letter(self, letter_id: str) -> DeadLetter | None:
        rows = await self._store.rows().get(LETTERS, [letter_id])
        return self._letter(rows[0]) if rows else None

    async def letter_states(self, ids: Collection[str]) -> dict[str, DeadLetterState]:
        """In which state each of these letters is; of those that are not there, no entry. Their data are not kept in
        memory meanwhile: there may be many."""
        found: dict[str, DeadLetterState] = {}
        reader, wanted = self._store.rows(), list(ids)
        begin, page = 0, FIRST_PAGE
        while begin < len(wanted):
            rows = await reader.get(LETTERS, wanted[begin : begin + page])
            found |= {row[0]: DeadLetterState(row[_STATE]) for row in rows}
            begin, page = begin + page, next_page(rows, page)
        return found

    async def last_letter(self, partition: Partition) -> int:
        """The highest number among a partition's letters; 0: there is none."""
        found = 0
        for state in DeadLetterState:
            async for row in self._all(LETTERS, _BY_PLACE, [partition.place, state.value]):
                found = max(found, self._letter(row).number)
        return found

    async def letter_totals(self) -> dict[DeadLetterState, int]:
        """How many letters there are of each state; where there is none, no entry."""
        reader = self._store.rows()
        counts = {state: await reader.count(LETTERS, BY_STATE, [state.value]) for state in DeadLetterState}
        return {state: count for state, count in counts.items() if count}

    async def letter_counts(self) -> dict[tuple[Partition, DeadLetterState], int]:
        """How many letters of each state each partition has; where there is none, no entry."""
        reader = self._store.rows()
        found: dict[tuple[Partition, DeadLetterState], int] = {}
        totals = await self.letter_totals()
        for partition in await self.checkpoints() if totals else ():
            for state in totals:
                if count := await reader.count(LETTERS, _BY_PLACE, [partition.place, state.value]):
                    found[partition, state] = count
        return found

    async def decide(
        self,
        letter_id: str,
        state: DeadLetterState,
        also: Callable[[StepTransaction, DeadLetter], Awaitable[None]] | None = None,
        change: Callable[[DeadLetter], DeadLetter] | None = None,
    ) -> DeadLetter:
        """An operator's decision on a DEAD (or RETRYING) letter: RELEASED or DISCARDED. also: what is done with it, as
        it was until then, in the same transaction. change: what is made of it besides.

        Raises UsageError that says what was found when there is no such letter or it cannot be decided; one without
        a source is no message (Garbage) and can only be DISCARDED.
        """
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(LETTERS, [letter_id])
            letter = check_decision(letter_id, self._letter(rows[0]) if rows else None, state)
            was = letter
            letter = msgspec.structs.replace(was if change is None else change(was), state=state)
            await self.change_letter(transaction, letter)
            if also is not None:
                await also(transaction, was)
        return letter

    def letter_in_row(self, row: Row) -> DeadLetter:
        """What a row of LETTERS says, for who has read it otherwise."""
        return self._letter(row)

    def _letter(self, row: Row) -> DeadLetter:
        values: Mapping[str, Any] = dict(zip(LETTERS.columns, row, strict=True))
        return DeadLetter(
            self._partition(values["place"]), values["log_offset"], _text(values["source"]), values["position"],
            values["previous"], _text(values["record_key"]), bytes(values["envelope"]), bytes(values["data"]),
            DeadLetterState(values["state"]), values["attempts"], values["due_at"], values["error_type"],
            values["error"], values["parked_at"], values["number"], values["revision"],
        )  # fmt: skip


def _time_of(letter: DeadLetter) -> Aside:
    return letter.parked_at, letter.partition, letter.number


def _row_of(letter: DeadLetter) -> Row:
    """In the order of `LETTERS`."""
    return (
        letter.id, letter.partition.place, letter.number, letter.state.value, letter.revision, letter.offset,
        letter.source.encode("utf-8", "surrogatepass"), letter.position, letter.previous,
        letter.key.encode("utf-8", "surrogatepass"), letter.envelope, letter.data, letter.attempts, letter.due_at,
        _storable(letter.error_type), _storable(letter.error), letter.parked_at,
    )  # fmt: skip


def _text(raw: bytes) -> str:
    return bytes(raw).decode("utf-8", "surrogatepass")


def _storable(text: str) -> str:
    """The text of an error may hold anything, also half a character or a zero that no database takes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _letter_gone(letter: DeadLetter) -> CheckpointConflict:
    return CheckpointConflict(
        f"dead letter {letter.id} is not as it was any more: another worker put it through, or an operator decided; "
        "load the letters again",
        id=letter.id,
    )
