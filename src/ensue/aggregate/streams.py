"""The aggregates of one step, or of a batch of them: loaded together, changed in memory, appended together.

Rows alone, so it works on every store whose steps are transactions. The head row is the lock; its version, and the ids
of the events' rows, which hold theirs, are the net below: who writes beside the lock meets RowConflict, and the whole
step is done again. What is recorded goes into the outbox and into the stream by one transaction, so that no event is
published that the stream does not have, nor the reverse. See docs/adr/0046.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from ensue.aggregate.aggregate import Aggregate, evolve
from ensue.aggregate.kind import AggregateKind, kind_of, row_id, rows_between
from ensue.codec import TYPE_CHARS_MAX
from ensue.errors import AggregateExists, BadMessage, StreamBroken, UsageError, VersionMismatch
from ensue.message import OutboxRecord
from ensue.ports import Row, StepTransaction
from ensue.tables import AGGREGATES, STREAMS

A = TypeVar("A", bound=Aggregate)
Load = Callable[[Sequence[Any]], Awaitable[Sequence[Row]]]
_MISSING_SHOWN = 5


class _Typed(msgspec.Struct):
    """Of an envelope what a fold needs."""

    type: str


_read_type = msgspec.json.Decoder(_Typed).decode


class Opened:
    """An aggregate that this step has, and its head as the database has it.

    stored: its version there; 0: there is none. known: whether that was looked up. last: the record of its last new
    event, and that one's place among those of the step.
    """

    __slots__ = (
        "aggregate",
        "key",
        "kind",
        "known",
        "last",
        "recorded",
        "shape",
        "snapshot",
        "snapshot_version",
        "stored",
    )

    def __init__(self, kind: AggregateKind[Any], key: str, aggregate: Any, known: bool) -> None:
        self.kind = kind
        self.key = key
        self.aggregate = aggregate
        self.known = known
        self.stored = 0
        self.snapshot_version = 0
        self.shape = ""
        self.snapshot = b""
        self.recorded: list[OutboxRecord] = []
        self.last = -1


class Streams:
    """The aggregates of one step, each once. records: what the step publishes, in order."""

    __slots__ = ("_by_object", "_found", "_opened", "_records")

    def __init__(self, records: list[OutboxRecord]) -> None:
        self._records = records
        self._found: dict[AggregateKind[Any], dict[Any, Any]] = {}
        self._opened: dict[str, Opened] = {}
        self._by_object: dict[int, Opened] = {}  # the same, which holds on to the objects

    async def load(
        self, transaction: StepTransaction, kind: AggregateKind[A], ids: Sequence[Any]
    ) -> dict[Any, A | None]:
        """Lock these in id order, and fold what is not here yet; return all that is here by id, None: it does not
        exist. What is recorded of a new one later is in there too."""
        found = self._found.setdefault(kind, {})
        if found:
            for entity_id in ids:
                if (opened := self._opened.get(kind.key(entity_id))) is not None:
                    self._check_whole(opened)
        wanted = {kind.key(each): each for each in ids if each not in found}
        if wanted:
            rows = await transaction.load_rows(AGGREGATES, sorted(wanted))
            heads = await folded(kind, rows, partial(transaction.load_rows, STREAMS))
            for head in heads:
                self._has(head)
            found |= dict.fromkeys(wanted.values())
            found |= {wanted[head.key]: head.aggregate for head in heads}
        return found

    def adopt(self, kind: AggregateKind[A], aggregate: A) -> None:
        """For tests without a database: have this one as if it was loaded."""
        entity_id = getattr(aggregate, kind.id_name)
        opened = self._has(Opened(kind, kind.key(entity_id), aggregate, known=True))
        opened.stored = aggregate.version
        self._found.setdefault(kind, {})[entity_id] = aggregate

    def adopted(self, kind: AggregateKind[A], entity_id: Any) -> A | None:
        """The one that is here under this id, with what was recorded of it."""
        found: A | None = self._found.get(kind, {}).get(entity_id)
        return found

    def _has(self, opened: Opened) -> Opened:
        self._opened[opened.key] = self._by_object[id(opened.aggregate)] = opened
        return opened

    def record(self, opened: Opened, event: object) -> None:
        """What was published last is an event of this aggregate, which it changes. It has been checked."""
        opened.last = len(self._records) - 1
        opened.recorded.append(self._records[opened.last])
        evolve(opened.aggregate, event)

    def check(self, aggregate: Aggregate, event: object) -> Opened:
        """Raise UsageError, before anything is done, when this event cannot be recorded of this aggregate."""
        opened = self._of(aggregate)
        kind = opened.kind
        if type(event) not in kind.evolvers:
            evolve(aggregate, event)  # which says so
        theirs = getattr(event, kind.id_name, None)
        own = getattr(aggregate, kind.id_name)
        if theirs is not None and theirs != own:
            raise UsageError(
                f"{type(event).__qualname__} of {kind.id_name} {theirs!r} is recorded of {kind.cls.__qualname__} "
                f"{own!r}: an aggregate records its own events; load the other one, or publish it, step.publish(...)"
            )
        return opened

    def _of(self, aggregate: Aggregate) -> Opened:
        here = self._by_object.get(id(aggregate))
        if here is not None:
            self._check_whole(here)
            return here
        kind = kind_of(type(aggregate))
        entity_id = getattr(aggregate, kind.id_name)
        key = kind.key_of(aggregate)
        opened = self._opened.get(key)
        if opened is None and not aggregate.version:
            found = self._found.setdefault(kind, {})
            found_before = entity_id in found
            found[entity_id] = aggregate
            return self._has(Opened(kind, key, aggregate, known=found_before))
        if opened is None or opened.aggregate is not aggregate:
            raise UsageError(
                f"{kind.cls.__qualname__} {entity_id} is recorded of by a copy of it that this step does not have: "
                "take it as the handler's entity, or load it here, `await step.load(...)`, and change that one",
                entity_id=entity_id,
            )
        self._check_whole(opened)
        return opened

    def _check_whole(self, opened: Opened) -> None:
        """Whether what it says of itself is what would be appended."""
        at, recorded = opened.last, opened.recorded
        kept = not recorded or (at < len(self._records) and self._records[at] is recorded[-1])
        if not kept or opened.aggregate.version != opened.stored + len(recorded):
            raise UsageError(
                f"{opened.kind.cls.__qualname__} {opened.key.partition(':')[2]} has changed by events that are not "
                "published: an @evolves has raised, or a savepoint was rolled back behind step.record, and was caught. "
                "Decide first and record then, or let the error out, which undoes the step",
                entity_id=opened.key,
            )

    async def save(self, transaction: StepTransaction) -> None:
        """Append what was recorded, and let go of all: what comes next in the transaction loads anew.

        Raises AggregateExists for one that was made anew and is there.
        """
        changed = [each for each in self._opened.values() if each.recorded]
        self._opened, self._found, self._by_object = {}, {}, {}
        if not changed:
            return
        for each in changed:
            self._check_whole(each)
        if unknown := {each.key: each for each in changed if not each.known}:
            for row in await transaction.load_rows(AGGREGATES, sorted(unknown)):
                raise _exists(unknown[row[0]], row[2])
        events = [
            (row_id(each.key, version), record.envelope, record.data)
            for each in changed
            for version, record in enumerate(each.recorded, each.stored + 1)
        ]
        made = [_row(each) for each in changed if not each.stored]
        moved = [each for each in changed if each.stored]
        if made:
            await transaction.insert_rows(AGGREGATES, made)
        if moved:
            expect = [each.stored for each in moved]
            await transaction.update_rows(AGGREGATES, [_row(each) for each in moved], expect=expect)
        await transaction.insert_rows(STREAMS, events)


async def folded(kind: AggregateKind[Any], rows: Sequence[Row], load: Load) -> list[Opened]:
    """The aggregates of these heads, with the events after their snapshots: one SELECT for all of them.

    load: reads rows of `STREAMS` by their ids.
    """
    heads = [_open(kind, row) for row in rows]
    wanted = [each for head in heads for each in rows_between(head.key, head.aggregate.version, head.stored)]
    if wanted:
        events = {row[0]: row for row in await load(wanted)}
        for head in heads:
            fold(kind, head.aggregate, head.key, head.stored, events)
    return heads


def _open(kind: AggregateKind[Any], row: Row) -> Opened:
    """What a head says, with the state of its snapshot where that can still be used."""
    key, _, version, snapshot_version, shape, snapshot = row
    entity_id = kind.id_in(key)
    head = Opened(kind, key, None, known=True)
    head.stored, head.snapshot_version, head.shape, head.snapshot = version, snapshot_version, shape, bytes(snapshot)
    if 0 < snapshot_version <= version and shape == kind.shape:
        try:
            head.aggregate = kind.read_state(head.snapshot, snapshot_version)
        except BadMessage:  # of another shape after all: the events say the same
            head.aggregate = None
    if head.aggregate is None or getattr(head.aggregate, kind.id_name) != entity_id:
        head.aggregate = kind.new(entity_id)
        head.snapshot_version, head.shape, head.snapshot = 0, "", b""
    return head


def fold(kind: AggregateKind[A], aggregate: A, key: str, through: int, rows: dict[str, Row]) -> None:
    """Have the events up to a version change the aggregate, which has those before already. rows: by id."""
    for version in range(aggregate.version + 1, through + 1):
        row = rows.get(row_id(key, version))
        if row is None:
            missing = [each for each in range(version, through + 1) if row_id(key, each) not in rows]
            raise _broken(kind, key, through, missing)
        _, envelope, data = row
        evolve(aggregate, read_event(kind, key, version, envelope, data))


def read_event(kind: AggregateKind[Any], key: str, version: int, envelope: bytes, data: bytes) -> Any:
    found = _read_type(envelope).type
    reader = kind.readers.get(found)
    if reader is None:
        raise UsageError(
            f"event {version} of {key} is {found[:TYPE_CHARS_MAX]}, for which {kind.cls.__qualname__} has no @evolves: "
            "what has happened stays, so keep the event's class and its @evolves, or read it as a later version, "
            "`@TheEvent.upcast(from_version=...)`"
        )
    return reader[0].read(data)


def check_version(kind: AggregateKind[Any], entity_id: Any, found: int, expected: int | str) -> None:
    """Raise VersionMismatch when it is not as expected: a version, or what clients send as If-Match, ETags or `*`."""
    if found and (expected == "*" or found in _versions(expected)):
        return
    name = kind.cls.__qualname__
    raise VersionMismatch(
        f"{name} {entity_id} is expected at version {expected!s:.60}, and "
        + (f"is at {found}" if found else "does not exist")
        + ": read it again, and decide by what it is now",
        entity=name, entity_id=entity_id, expected=expected, found=found,
    )  # fmt: skip


def _versions(expected: int | str) -> set[int]:
    if isinstance(expected, int):
        return {expected}
    tags = [each.strip().removeprefix("W/").strip('"') for each in expected.split(",")]
    return {int(each) for each in tags if each.isascii() and each.isdigit()}


def _row(head: Opened) -> Row:
    """Of the head as it is to be: with a new snapshot where that is due."""
    kind, version = head.kind, head.aggregate.version
    if not kind.every:
        return (head.key, kind.stream, version, 0, "", b"")
    if version - head.snapshot_version >= kind.every:
        return (head.key, kind.stream, version, version, kind.shape, kind.write_state(head.aggregate))
    return (head.key, kind.stream, version, head.snapshot_version, head.shape, head.snapshot)


def _exists(head: Opened, version: int) -> AggregateExists:
    name, entity_id = head.kind.cls.__qualname__, getattr(head.aggregate, head.kind.id_name)
    return AggregateExists(
        f"{name} {entity_id} is made anew, and has {version} events already: `await step.load({name}, ...)` says "
        "whether there is one",
        entity=name, entity_id=entity_id, version=version,
    )  # fmt: skip


def _broken(kind: AggregateKind[Any], key: str, through: int, missing: Sequence[int]) -> StreamBroken:
    name, entity_id = kind.cls.__qualname__, key.partition(":")[2]
    shown = ", ".join(map(str, missing[:_MISSING_SHOWN])) + (", ..." if len(missing) > _MISSING_SHOWN else "")
    return StreamBroken(
        f"{name} {entity_id} has {through} events, and the database lacks {len(missing)} of them ({shown}): rows of "
        f"{STREAMS.name} were lost or deleted. Put them back from a copy of the database; without them nobody can say "
        "what it is",
        entity=name, entity_id=entity_id, missing=tuple(missing[:_MISSING_SHOWN]),
    )  # fmt: skip
