"""Ensue's own state as rows: checkpoints, dead letters, claims, answers, leases, the relay's position.

Ensue is the first user of its own store port: what it remembers lies in tables (`ensue.tables`) that are read and
written like a user's entities, in the transaction of the step that it belongs to. So each of these is written once and
holds on every store. See docs/adr/0028.
"""

from __future__ import annotations

import hashlib
import heapq
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from ensue.engine.attempt import Attempt
from ensue.engine.decisions import accepted, check_decision, forgotten, rewound
from ensue.engine.leases import Held
from ensue.engine.schema import SCHEMA, Fill, Numbers, Schema
from ensue.errors import CheckpointConflict, IdempotencyConflict, RowConflict, StoreBehind
from ensue.message import (
    CatchUp,
    Checkpoint,
    Counters,
    DeadLetter,
    DeadLetterState,
    Gap,
    HeldPartition,
    LeaseTable,
    Missed,
    Partition,
    StoredResponse,
    Told,
)
from ensue.ports import Lookup, Row, StepTransaction, Store, Table
from ensue.tables import ANSWERS, CHECKPOINTS, CLAIMS, LEASES, LETTERS, RELAY, TIMERS

#: Rows of RELAY with the two halves of the store's key, see `ensue.engine.seal`.
SEAL = ("seal 1", "seal 2")
_BY_PLACE, _BY_STATE = LETTERS.lookups
_ONE_ROW = "leases"
_NUMBERS = "schema"
#: So many records that were not signed are kept of each partition.
REFUSED_MAX = 100
_HELD = "held"
#: Rows read in one query, where there may be many.
_PAGE = 500
#: Answers hold whole bodies: fewer of them are looked at in one go.
_ANSWERS_PAGE = 100


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


_encode = msgspec.json.Encoder().encode
_read_state = msgspec.json.Decoder(_State).decode
_read_numbers = msgspec.json.Decoder(Numbers).decode
_read_held = msgspec.json.Decoder(Held).decode
_read_held_partitions = msgspec.json.Decoder(list[HeldPartition]).decode
_read_attempt = msgspec.json.Decoder(Attempt).decode
_read_headers = msgspec.json.Decoder(dict[str, str]).decode


class _Base:
    """The state of one subscription, which is a service, in the service's own store. random: for revisions. schema:
    what this process works with."""

    def __init__(self, store: Store, subscription: str, random: Random | None = None, schema: Schema = SCHEMA) -> None:
        self._store = store
        self.subscription = subscription
        self._random = random or Random()
        self.schema = schema

    def _next(self, revision: int) -> int:
        """Return a greater revision, by a step that chance takes: a database that was put back from an older copy and
        went on from there must not come to a number again under which somebody still knows another history."""
        return revision + 1 + self._random.getrandbits(24)

    async def _all(
        self, table: Table, lookup: Lookup, equal: Sequence[Any] = (), limit: int | None = None
    ) -> AsyncIterator[Row]:
        """The rows of one place of a lookup, page by page."""
        reader = self._store.rows()
        columns = [table.columns.index(name) for name in lookup.order]
        after: Sequence[Any] = ()
        left = limit
        while left is None or left > 0:
            page = _PAGE if left is None else min(_PAGE, left)
            rows = await reader.find(table, lookup, equal, after=after, limit=page)
            for row in rows:
                yield row
            if len(rows) < page:
                return
            after = [rows[-1][at] for at in columns]
            left = None if left is None else left - page

    async def _prune(self, table: Table, before_s: float, limit: int, lookup: Lookup, equal: Sequence[Any] = ()) -> int:
        at = table.columns.index(lookup.order[0])
        rows = await self._store.rows().find(table, lookup, equal, limit=limit)
        old = [row[0] for row in rows if row[at] < before_s]
        if old:
            async with self._store.transaction(upkeep=True) as transaction:
                await transaction.delete_rows(table, old)
        return len(old)

    async def _write(self, transaction: StepTransaction, name: str, found: Row | None, state: object) -> None:
        """Write a row of LEASES as it is to be after `found`. Raises RowConflict when it is not that any more."""
        revision = found[1] if found else 0
        row = (name, self._next(revision), _encode(state).decode())
        if found:
            await transaction.update_rows(LEASES, [row], expect=[revision])
        else:
            await transaction.insert_rows(LEASES, [row])

    def _partition(self, place: str) -> Partition:
        topic, _, number = place.rpartition("/")
        return Partition(self.subscription, topic, int(number))


class Checkpoints(_Base):
    """How far the subscription is, partition by partition."""

    async def checkpoint(self, partition: Partition) -> Checkpoint:
        """Return the checkpoint, or a new one (revision 0) when there is none."""
        rows = await self._store.rows().get(CHECKPOINTS, [partition.place])
        return _checkpoint(rows[0]) if rows else Checkpoint()

    async def checkpoints(self) -> dict[Partition, Checkpoint]:
        [by_id] = CHECKPOINTS.lookups
        return {self._partition(row[0]): _checkpoint(row) async for row in self._all(CHECKPOINTS, by_id)}

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
            rows.append((partition.place, checkpoint.offset, revision, _encode(state).decode()))
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
            raise _checkpoint_moved(partition, checkpoint.revision) from error
        return [row[2] for row in rows]

    async def accept_loss(self, partition: Partition, source: str) -> int:
        """An operator accepts a LOST gap: the watermark moves to its lost_through, which is returned; the gap goes, or
        is OPEN again when it needs more than that. The revision moves, so a running worker notices.
        Raises UsageError when that gap is not LOST."""
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(CHECKPOINTS, [partition.place])
            checkpoint = _checkpoint(rows[0]) if rows else Checkpoint()
            gap = checkpoint.gaps.pop(source, None)
            left = accepted(partition, source, gap)
            assert gap is not None
            if left is not None:
                checkpoint.gaps[source] = left
            checkpoint.watermarks[source] = gap.lost_through
            checkpoint.ids.pop(source, None)
            await self.save_checkpoint(transaction, partition, checkpoint)
        return gap.lost_through

    async def rewind(self, partition: Partition, source: str, position: int) -> None:
        """An operator takes back how far a source was applied. What follows is asked for again. Raises UsageError."""
        await self._decide_on(partition, lambda found: rewound(partition, source, found, position))

    async def forget_gap(self, partition: Partition, source: str) -> None:
        """An operator wants a source not to be asked any more. Its next record may show the gap anew. Raises
        UsageError when there is none."""
        await self._decide_on(partition, lambda found: forgotten(partition, source, found))

    async def _decide_on(self, partition: Partition, decision: Callable[[Checkpoint], Checkpoint]) -> None:
        """The revision moves, so a running worker notices."""
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(CHECKPOINTS, [partition.place])
            following = decision(_checkpoint(rows[0]) if rows else Checkpoint())
            await self.save_checkpoint(transaction, partition, following)

    async def replay(self, partition: Partition, kind: str, known: Iterable[str]) -> None:
        """An operator wants a type handled again from the log's beginning. The revision moves, so a running worker
        notices. known: the types that the service handles, for a checkpoint that does not say."""
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
            raise _checkpoint_moved(letters[0].partition, checkpoint.revision) from error

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
            lookup = _BY_STATE if partition is None else _BY_PLACE
            found += [self._letter(row) async for row in self._all(LETTERS, lookup, equal, limit)]
        if partition is None:
            found.sort(key=_time_of)
        else:
            found.sort(key=lambda letter: letter.number)
        return found[:limit]

    async def letters_by_time(self, states: Sequence[DeadLetterState]) -> AsyncGenerator[DeadLetter, None]:
        """Letters of all partitions in the order of setting aside, read in pages: there may be many."""
        heads: list[tuple[tuple[float, Partition, int], int, DeadLetter]] = []
        streams = [self._by_time(state) for state in states]
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

    async def _by_time(self, state: DeadLetterState) -> AsyncGenerator[DeadLetter, None]:
        """The store orders those of one moment by their names, in which 10 comes before 2."""
        moment: list[DeadLetter] = []
        async for row in self._all(LETTERS, _BY_STATE, [state.value]):
            letter = self._letter(row)
            if moment and letter.parked_at != moment[0].parked_at:
                for each in sorted(moment, key=_time_of):
                    yield each
                moment = []
            moment.append(letter)
        for each in sorted(moment, key=_time_of):
            yield each

    async def prune_letters(self, before_s: float, limit: int) -> int:
        """Delete up to `limit` discarded letters that were set aside before `before_s`; return how many."""
        return await self._prune(LETTERS, before_s, limit, _BY_STATE, [DeadLetterState.DISCARDED.value])

    async def letter(self, letter_id: str) -> DeadLetter | None:
        rows = await self._store.rows().get(LETTERS, [letter_id])
        return self._letter(rows[0]) if rows else None

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
        counts = {state: await reader.count(LETTERS, _BY_STATE, [state.value]) for state in DeadLetterState}
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

    async def decide(self, letter_id: str, state: DeadLetterState) -> DeadLetter:
        """An operator's decision on a DEAD (or RETRYING) letter: RELEASED or DISCARDED.

        Raises UsageError that says what was found when there is no such letter or it cannot be decided; one without
        a source is no message (Garbage) and can only be DISCARDED.
        """
        async with self._store.transaction() as transaction:
            rows = await transaction.load_rows(LETTERS, [letter_id])
            letter = check_decision(letter_id, self._letter(rows[0]) if rows else None, state)
            letter.state = state
            await self.change_letter(transaction, letter)
        return letter

    def _letter(self, row: Row) -> DeadLetter:
        values: Mapping[str, Any] = dict(zip(LETTERS.columns, row, strict=True))
        return DeadLetter(
            self._partition(values["place"]), values["log_offset"], _text(values["source"]), values["position"],
            values["previous"], _text(values["record_key"]), bytes(values["envelope"]), bytes(values["data"]),
            DeadLetterState(values["state"]), values["attempts"], values["due_at"], values["error_type"],
            values["error"], values["parked_at"], values["number"], values["revision"],
        )  # fmt: skip


class Once(_Base):
    """What has happened once already: messages without a chain, requests with an Idempotency-Key."""

    async def claim(self, transaction: StepTransaction, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Claim (source, id) pairs of messages without a chain; return those claimed for the first time.

        A rollback gives the claims back. Raises CheckpointConflict when another worker claims one at the same time.
        """
        wanted = {_digest(self.subscription, *message): message for message in messages}
        known = {row[0] for row in await transaction.load_rows(CLAIMS, sorted(wanted))}
        fresh = sorted(digest for digest in wanted if digest not in known)
        try:
            await transaction.insert_rows(CLAIMS, [(digest, transaction.now) for digest in fresh])
        except RowConflict as error:
            raise CheckpointConflict(
                f"{self.subscription}: another worker claimed the same messages at the same time; read them again"
            ) from error
        return {wanted[digest] for digest in fresh}

    async def answer(self, transaction: StepTransaction, key: str) -> StoredResponse | None:
        """The answer that was given for this Idempotency-Key."""
        rows = await transaction.load_rows(ANSWERS, [_digest(key)])
        if not rows:
            return None
        _, key, fingerprint, status, headers, body, _ = rows[0]
        return StoredResponse(key, fingerprint, status, _read_headers(headers), bytes(body))

    async def keep_answer(self, transaction: StepTransaction, response: StoredResponse) -> None:
        """Keep the answer to an Idempotency-Key. A second one of a key raises IdempotencyConflict; a
        store that looks at the commit raises RetryableError there."""
        row = (
            _digest(response.key), response.key, response.fingerprint, response.status,
            _encode(response.headers).decode(), response.body, transaction.now,
        )  # fmt: skip
        try:
            await transaction.insert_rows(ANSWERS, [row])
        except RowConflict as error:
            raise IdempotencyConflict(
                f"Idempotency-Key {response.key!r} was answered meanwhile: try again, and that answer is given",
                key=response.key,
            ) from error

    async def prune_claims(self, before_s: float, limit: int) -> int:
        """Forget up to `limit` claims made before `before_s` (epoch seconds); return how many."""
        return await self._prune(CLAIMS, before_s, limit, CLAIMS.lookups[0])

    async def prune_answers(self, before_s: float, limit: int) -> int:
        """Forget up to `limit` answers kept before `before_s` (epoch seconds); return how many."""
        return await self._prune(ANSWERS, before_s, min(limit, _ANSWERS_PAGE), ANSWERS.lookups[0])


class Workers(_Base):
    """Who lives and works on what."""

    async def heartbeat(
        self,
        worker: str,
        ttl_s: float,
        acquire: Sequence[str] = (),
        release: Sequence[str] = (),
        handles: Mapping[str, Sequence[str]] | None = None,
        *,
        cleared: Sequence[str] = (),
        busy: tuple[float, str] | None = None,
        log: str = "",
        relay: Sequence[str] = (),
    ) -> LeaseTable:
        """See `Held.beat`. Of two workers that acquire one lease at once, exactly one gets it. log: its log's name.
        relay: why its relay does not send."""
        told = Told(self.schema.number, log, tuple(relay))
        return await self._change_leases(
            lambda held, now: held.beat(
                worker, now, ttl_s, acquire, release, handles, cleared=cleared, busy=busy, told=told
            )
        )

    async def resign(self, *workers: str) -> LeaseTable:
        """Give up everything that these workers hold: a graceful stop."""
        return await self._change_leases(lambda held, now: held.without(workers.__contains__))

    async def bury(self, *workers: str) -> LeaseTable:
        """As `resign`, for workers that are known to be dead or to hang: what they held is suspect."""
        return await self._change_leases(lambda held, now: held.without(workers.__contains__, suspect=True))

    async def leases(self) -> LeaseTable:
        """Who lives and holds what now, for whoever only looks: nothing is taken and nobody is made to live."""
        rows = await self._store.rows().get(LEASES, [_ONE_ROW])
        return (_read_held(rows[0][2]) if rows else Held()).table(await self._store.now())

    async def _change_leases(self, change: Callable[[Held, float], Held]) -> LeaseTable:
        """Read, change, write; again when somebody else was quicker, who has then done what was to be done.

        Raises StoreOutdated, and writes nothing, when this process must not work on the tables; StoreBehind when they
        want to be upgraded first.
        """
        while True:
            try:
                async with self._store.transaction(upkeep=True) as transaction:
                    rows = {row[0]: row for row in await transaction.load_rows(LEASES, [_ONE_ROW, _NUMBERS])}
                    numbers = _numbers(rows.get(_NUMBERS))
                    self.schema.check(self.subscription, numbers)
                    if self.schema.next(numbers) is not None:
                        raise StoreBehind(
                            f"{self.subscription}: Ensue's tables are of schema {numbers.schema} again, this process "
                            f"had brought them to {self.schema.number}: it does so once more"
                        )
                    row = rows.get(_ONE_ROW)
                    held = change(_read_held(row[2]) if row else Held(), transaction.now)
                    await self._write(transaction, _ONE_ROW, row, held)
                    return held.table(transaction.now)
            except RowConflict:
                continue

    async def has_worked(self) -> bool:
        """Whether a worker has ever lived on these tables."""
        return bool(await self._store.rows().get(LEASES, [_ONE_ROW]))

    async def numbers(self) -> Numbers:
        """What the database says of Ensue's tables."""
        rows = await self._store.rows().get(LEASES, [_NUMBERS])
        return _numbers(rows[0] if rows else None)

    async def renumber(self, found: Numbers, following: Numbers, fill: Fill | None = None) -> bool:
        """Write the numbers if they still are `found`, and with them, and before them, what `fill` writes; return
        whether they were."""
        try:
            async with self._store.transaction(upkeep=True) as transaction:
                if fill is not None:
                    await fill(
                        transaction
                    )  # first: where rows are written one by one, the numbers speak for the others
                rows = await transaction.load_rows(LEASES, [_NUMBERS])
                row = rows[0] if rows else None
                if _numbers(row) != found:
                    raise RowConflict("another process upgrades these tables")
                await self._write(transaction, _NUMBERS, row, following)
        except RowConflict:
            return False
        return True

    async def attempt(self, partition: Partition) -> Attempt:
        """What was written before the last attempt of a suspect partition; an empty one when nothing was."""
        rows = await self._store.rows().get(LEASES, [partition.place])
        return _read_attempt(rows[0][2]) if rows else Attempt()

    async def save_attempts(self, attempts: Sequence[tuple[Partition, Attempt]]) -> None:
        """Write down what is attempted now, all or nothing, before it begins. Raises RowConflict when another worker
        writes the same at the same time."""
        async with self._store.transaction(upkeep=True) as transaction:
            known = {row[0]: row[1] for row in await transaction.load_rows(LEASES, [at.place for at, _ in attempts])}
            rows = [
                (at.place, self._next(known.get(at.place, 0)), _encode(attempt).decode()) for at, attempt in attempts
            ]
            if old := [row for row in rows if row[0] in known]:
                await transaction.update_rows(LEASES, old, expect=[known[row[0]] for row in old])
            if new := [row for row in rows if row[0] not in known]:
                await transaction.insert_rows(LEASES, new)

    async def forget_attempt(self, partition: Partition) -> None:
        async with self._store.transaction(upkeep=True) as transaction:
            await transaction.delete_rows(LEASES, [partition.place])


class Relays(_Base):
    """How far the relay is, and what it holds."""

    async def tell_held(self, held: Sequence[HeldPartition]) -> None:
        """Tell which partitions the relay holds, for whoever asks in another process."""
        async with self._store.transaction(upkeep=True) as transaction:
            rows = await transaction.load_rows(LEASES, [_HELD])
            if rows or held:
                await self._write(transaction, _HELD, rows[0] if rows else None, list(held))

    async def held(self) -> list[HeldPartition]:
        """Partitions that the relay holds, as it told last."""
        rows = await self._store.rows().get(LEASES, [_HELD])
        return _read_held_partitions(rows[0][2]) if rows else []

    async def relay_position(self) -> int:
        """Position through which everything of the store's source is known to be in the log. May lag: sending again is
        harmless. 0 in a new epoch."""
        rows = await self._store.rows().get(RELAY, [self._store.source])
        return int(rows[0][1]) if rows else 0

    async def pruned_before(self) -> float | None:
        """All records that retention took out of this source's outbox were written before this time, seconds since the
        epoch; None: it took none."""
        rows = await self._store.rows().get(RELAY, [_pruned(self._store.source)])
        return rows[0][1] / 1e6 if rows else None

    async def note_pruning(self, before_s: float) -> None:
        """Retention is about to take away what was written before this time."""
        await self.save_relay_position(_pruned(self._store.source), math.ceil(before_s * 1e6))

    async def relay_waits(self) -> int | None:
        """The relay's position when it first began with a log that knew nothing of its source, if nothing was unsent
        then and nothing was sent since; -1: something was; None: it never began so."""
        rows = await self._store.rows().get(RELAY, [_waits(self._store.source)])
        return int(rows[0][1]) if rows else None

    async def note_waiting(self, position: int, head: int) -> None:
        """The relay begins so at `position`, with records up to `head` in the outbox.

        A second beginning there says nothing new of what was unsent at the first one. And what was sent once, and lost
        again, nobody can tell from what the copy had.
        """
        known = await self.relay_waits()
        if known is None or (known >= 0 and known != position):
            await self._set(_waits(self._store.source), position if head <= position else -1)

    async def note_sending(self) -> None:
        """From here on the relay sends: see `relay_waits`."""
        await self._set(_waits(self._store.source), -1)

    async def _set(self, name: str, value: int) -> None:
        async with self._store.transaction(upkeep=True) as transaction:
            known = await transaction.load_rows(RELAY, [name])
            await (transaction.update_rows if known else transaction.insert_rows)(RELAY, [(name, value)])

    async def save_relay_position(self, source: str, position: int) -> None:
        """Store that position; never moves backwards."""
        async with self._store.transaction(upkeep=True) as transaction:
            rows = await transaction.load_rows(RELAY, [source])
            if not rows:
                await transaction.insert_rows(RELAY, [(source, position)])
            elif rows[0][1] < position:
                await transaction.update_rows(RELAY, [(source, position)])


class Books(Letters, Once, Workers, Relays):
    """All of it. What takes a transaction is written with the step; everything else opens its own."""

    async def kept(self, dropped_before: float) -> AsyncIterator[tuple[Table, Row]]:
        """All rows but those that say who works on what: for another database that goes on as this one.

        dropped_before: the records that do not go along were written before that time, seconds since the epoch.
        """
        for table in (CHECKPOINTS, CLAIMS, ANSWERS, TIMERS):
            [lookup] = table.lookups
            async for row in self._all(table, lookup):
                yield table, row
        for state in DeadLetterState:
            async for row in self._all(LETTERS, _BY_STATE, [state.value]):
                yield LETTERS, row
        source = self._store.source
        for name, value in await self._store.rows().get(RELAY, [source, _pruned(source), _waits(source), *SEAL]):
            yield RELAY, (name, max(value, math.ceil(dropped_before * 1e6)) if name == _pruned(source) else value)


def _time_of(letter: DeadLetter) -> tuple[float, Partition, int]:
    return letter.parked_at, letter.partition, letter.number


def _numbers(row: Row | None) -> Numbers:
    return Numbers() if row is None else _read_numbers(row[2])


def _checkpoint(row: Row) -> Checkpoint:
    _, offset, revision, state = row
    found = _read_state(state)
    return Checkpoint(
        offset, revision, found.watermarks, found.gaps, found.counters, found.letters, found.types, found.missed,
        found.began, found.catching_up, found.ids,
    )  # fmt: skip


def _pruned(source: str) -> str:
    """The id of the row that says up to when a source's records were taken away."""
    return f"{source} pruned before"


def _waits(source: str) -> str:
    """The id of the row that says where the relay of a source waits to be told what was applied."""
    return f"{source} waits at"


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


def _digest(*parts: str) -> str:
    """Of texts of any length, kept apart."""
    encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
    return hashlib.sha256(b"".join(b"%d:%s" % (len(each), each) for each in encoded)).hexdigest()


def _checkpoint_moved(partition: Partition, revision: int) -> CheckpointConflict:
    return CheckpointConflict(
        f"{partition}: the stored checkpoint is not of revision {revision} any more: another worker moved it; "
        "load it again and read on from there",
        subscription=partition.subscription,
        topic=partition.topic,
        partition=partition.number,
        expected_revision=revision,
    )


def _letter_gone(letter: DeadLetter) -> CheckpointConflict:
    return CheckpointConflict(
        f"dead letter {letter.id} is not as it was any more: another worker put it through, or an operator decided; "
        "load the letters again",
        id=letter.id,
    )
