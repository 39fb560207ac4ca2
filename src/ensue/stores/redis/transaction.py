"""One step: what it read is remembered, what it writes is collected, and one script at the end applies all of it.

Optimistic: nothing is locked while a step runs. The script refuses when a row, letter, claim or checkpoint is not what
the step found, and then nothing was written. See docs/adr/0020.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.errors import EnsueError, StoreConflict, UsageError
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, OutboxRecord, Partition, StoredResponse
from ensue.ports import Table
from ensue.stores import rules
from ensue.stores.redis import records
from ensue.stores.redis.keys import Keys, row_key
from ensue.stores.redis.packing import pack
from ensue.stores.redis.scripts import COMMIT
from ensue.stores.redis.server import Server
from ensue.stores.redis.touched import Row, Touched
from ensue.stores.unbroken import unbroken

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

    from ensue.stores.redis.store import RedisStore

_FIELDS_MAX = 1000
Word = bytes | str


@dataclasses.dataclass(slots=True)
class _Check:
    """What `command key field` found, and what to say when it finds something else at the commit."""

    command: str
    key: bytes
    field: Word
    expected: bytes | bool
    refusal: Callable[[], EnsueError]


class RedisTransaction:
    """An async context manager that gives itself. What its methods promise: see `StepTransaction`."""

    def __init__(self, store: RedisStore, server: Server, keys: Keys) -> None:
        self._store = store
        self._server = server
        self._keys = keys
        self._open = False
        self._doomed: Exception | None = None
        self._now = 0.0
        self._tables: dict[str, Touched] = {}
        self._checks: list[_Check] = []
        self._writes: list[list[Word]] = []
        self._letters: dict[int, DeadLetter | None] = {}
        self._saved: dict[Partition, tuple[int, bytes]] = {}
        self._claimed: set[tuple[str, str, str]] = set()
        self._answers: dict[str, StoredResponse] = {}

    async def __aenter__(self) -> RedisTransaction:
        self._store.begin()
        try:
            self._now = await self._store.time()
        except BaseException:
            self._store.end()
            raise
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self._commit()
        finally:
            self._open = False
            self._store.end()

    async def _commit(self) -> None:
        if self._doomed is not None:
            raise rules.cannot_commit(self._doomed) from self._doomed
        checks = [[each.command, each.key, each.field, each.expected] for each in self._checks]
        touched_from = len(checks)
        writes: list[list[Word]] = []
        for touched in self._tables.values():
            checks += [list(each) for each in touched.checks()]
            writes += touched.writes()
        writes += self._writes
        if not writes:
            return
        plan = pack([checks, writes])
        failed = int(await unbroken(self._server.script(COMMIT, [self._keys.meta], [plan], may_repeat=False)))
        if not failed:
            self._store.tokens.update(self._saved)
            return
        if failed <= touched_from:
            raise self._checks[failed - 1].refusal()
        table = repr(checks[failed - 1][1])
        raise StoreConflict(
            f"{self._server.place}: another step changed a row of {table} first: do this one again", table=table
        )

    # --- sessions: there are none

    @property
    def now(self) -> float:
        return self._now

    @property
    def session(self) -> AsyncSession:
        raise records.no_sessions()

    def sync_session(self) -> Session:
        raise records.no_sessions()

    async def flush(self) -> None: ...

    # --- rows of entities

    async def load_rows(self, table: Table, ids: Sequence[Any]) -> Sequence[Row]:
        touched = await self._touch(table, [row_key(each) for each in ids])
        rows = (touched.row(row_key(each)) for each in dict.fromkeys(ids))
        return [row for row in rows if row is not None]

    async def insert_rows(self, table: Table, rows: Sequence[Row]) -> None:
        await self._change(table, rows, there=False)

    async def update_rows(self, table: Table, rows: Sequence[Row]) -> None:
        await self._change(table, rows, there=True)

    async def _change(self, table: Table, rows: Sequence[Row], there: bool) -> None:
        at = table.columns.index(table.id_column)
        fields = [row_key(row[at]) for row in rows]
        touched = await self._touch(table, fields)
        if there:
            found = sum(touched.row(field) is not None for field in fields)
            if found != len(rows):
                raise rules.rows_missing(table.name, table.id_column, len(rows), found)
        for field, row in zip(fields, rows, strict=True):
            if not there and touched.row(field) is not None:
                raise UsageError(f"table {table.name} has a row with {table.id_column} {row[at]!r} already")
            touched.changed[field] = tuple(row)

    async def _touch(self, table: Table, fields: Sequence[bytes]) -> Touched:
        """Read what is not known yet."""
        self._check_open()
        await self._store.known(table)
        touched = self._tables.get(table.name)
        if touched is None:
            touched = self._tables[table.name] = Touched(table, self._keys)
        missing = [field for field in dict.fromkeys(fields) if field not in touched.found]
        for begin in range(0, len(missing), _FIELDS_MAX):
            chunk = missing[begin : begin + _FIELDS_MAX]
            raw = await self._server.command("HMGET", touched.key, *chunk)
            touched.found.update(zip(chunk, raw, strict=True))
        return touched

    # --- Ensue's own

    async def outbox_add(self, records_: Sequence[OutboxRecord]) -> None:
        self._check_open()
        if records_:
            self._doomed = records.no_outbox(self._store.service)
            raise self._doomed

    async def save_checkpoint(self, partition: Partition, checkpoint: Checkpoint, sources: Iterable[str]) -> None:
        self._check_open()
        key = self._keys.checkpoint(partition)
        saved = self._saved.get(partition)
        if saved is None:
            revision, token = await self._server.command("HMGET", key, "revision", "token")
            refusal = partial(rules.checkpoint_moved, partition, checkpoint.revision)
            self._checks.append(_Check("HGET", key, "token", token or False, refusal))
            known = self._store.tokens.get(partition)
            same = known is None or known == (int(revision or 0), token)
        else:
            revision, same = saved[0], True
        if checkpoint.revision != int(revision or 0) or not same:
            self._doomed = rules.checkpoint_moved(partition, checkpoint.revision)
            raise self._doomed
        token = secrets.token_bytes(8)
        self._saved[partition] = (checkpoint.revision + 1, token)
        self._writes += records.checkpoint_writes(self._keys, partition, checkpoint, sources, token)

    async def inbox_claim(self, subscription: str, messages: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        self._check_open()
        fresh = [each for each in dict.fromkeys(messages) if (subscription, *each) not in self._claimed]
        if not fresh:
            return set()
        members = [msgspec.msgpack.encode((subscription, *each)) for each in fresh]
        claimed = set()
        scores = await self._server.command("ZMSCORE", self._keys.inbox, *members)
        for pair, name, score in zip(fresh, members, scores, strict=True):
            if score is None:
                claimed.add(pair)
                self._claimed.add((subscription, *pair))
                refusal = partial(_claimed_meanwhile, pair)
                self._checks.append(_Check("ZSCORE", self._keys.inbox, name, False, refusal))
                self._writes.append(["ZADD", self._keys.inbox, repr(self._now), name])
        return claimed

    async def dead_letters_add(self, letters: Sequence[DeadLetter]) -> None:
        self._check_open()
        if not letters:
            return
        last = int(await self._server.command("INCRBY", self._keys.letter_id, len(letters)))
        for letter_id, letter in enumerate(letters, last - len(letters) + 1):
            letter.id = letter_id
            # A server that came back with less would give a number out twice.
            refusal = partial(rules.letter_gone, letter_id)
            self._checks.append(_Check("HGET", self._keys.letters, str(letter_id), False, refusal))
            self._letters[letter_id] = letter
            self._writes += records.letter_writes(self._keys, letter)

    async def dead_letter_change(self, letter: DeadLetter) -> None:
        found = msgspec.structs.replace(
            await self._letter(letter.id), state=letter.state, attempts=letter.attempts, due_at=letter.due_at,
            error_type=letter.error_type, error=letter.error,
        )  # fmt: skip
        self._letters[letter.id] = found
        self._writes += records.letter_writes(self._keys, found)

    async def dead_letter_remove(self, ids: Sequence[int]) -> None:
        for letter_id in ids:
            letter = await self._letter(letter_id)
            self._letters[letter_id] = None
            self._writes.append(["HDEL", self._keys.letters, str(letter_id)])
            self._writes.append(["HDEL", self._keys.letters_of(letter.partition), str(letter_id)])

    async def _letter(self, letter_id: int) -> DeadLetter:
        self._check_open()
        if letter_id in self._letters:
            letter = self._letters[letter_id]
        else:
            raw, letter = await self._store.letter(letter_id)
            if raw is not None and letter is not None:
                key = self._keys.letters_of(letter.partition)
                self._checks.append(_Check("HGET", key, str(letter_id), raw, partial(rules.letter_gone, letter_id)))
        if letter is None or letter.state is DeadLetterState.DISCARDED:
            self._doomed = rules.letter_gone(letter_id)
            raise self._doomed
        return letter

    async def response_load(self, key: str) -> StoredResponse | None:
        self._check_open()
        if key in self._answers:
            return self._answers[key]
        raw = await self._server.command("HGET", self._keys.responses, key)
        return None if raw is None else records.decode_response(raw)

    async def response_save(self, response: StoredResponse) -> None:
        key = response.key
        if await self.response_load(key) is not None:
            raise rules.answered_meanwhile(key)
        self._answers[key] = response
        self._checks.append(_Check("HGET", self._keys.responses, key, False, partial(rules.answered_meanwhile, key)))
        self._writes.append(["HSET", self._keys.responses, key, msgspec.msgpack.encode(response)])
        self._writes.append(["ZADD", self._keys.responses_at, repr(self._now), key])

    def _check_open(self) -> None:
        if not self._open:
            raise rules.not_open()


def _claimed_meanwhile(pair: tuple[str, str]) -> StoreConflict:
    return StoreConflict(f"message {pair[1]} of {pair[0]} was claimed by another worker first: do this step again")
