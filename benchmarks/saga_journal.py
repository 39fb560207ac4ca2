"""What it costs a saga to go on, by the length of its journal: its row is read, replayed, made anew. No database."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

import msgspec
from sqlalchemy import Column, Integer, MetaData, String, Table

from ensue import Command, Saga, Service, TableRepository
from ensue.command import command_type
from ensue.ports import Row
from ensue.saga.code import declared_code
from ensue.saga.incoming import Answered
from ensue.saga.instance import Status, instance_of, row_of
from ensue.saga.journal import Issued, Resolved
from ensue.saga.machine import begun, go_on
from ensue.saga.replay import replay
from ensue.saga.taking import take
from ensue.saga.wake import read_wake


@dataclasses.dataclass(frozen=True)
class Fill:
    """The request: a shelf, and how many boxes."""

    shelf_id: str
    boxes: int


@dataclasses.dataclass(slots=True)
class Shelf:
    id: str
    boxes: int


class Fetch(Command[None], service="store", key="box"):
    box: str
    shelf_id: str


class PutBack(Command[None], service="store", key="box"):
    box: str


_tables = MetaData()
_shelves = Table("shelves", _tables, Column("id", String(40), primary_key=True), Column("boxes", Integer))
shelves = Service("shelves", calls=[Fetch, PutBack], repositories=[TableRepository(Shelf, _shelves)])


@shelves.local
def put_in(shelf: Shelf, shelf_id: str, box: str) -> int:
    return shelf.boxes


@shelves.local
def take_out(shelf: Shelf, shelf_id: str, box: str) -> None: ...


@shelves.saga
async def fill(saga: Saga, new: Fill) -> int:
    """As many commands as local steps, each with its undo: four entries a box."""
    found = 0
    for number in range(new.boxes):
        box = f"box-{number:06d}"
        await saga.call(Fetch(box=box, shelf_id=new.shelf_id), undo=PutBack(box=box))
        found += await saga.local(put_in, new.shelf_id, box, undo=take_out)
    return found


CODE = declared_code(fill)


def row_with(entries: int) -> Row:
    """Of a saga that waits, with so many entries in its journal, or one more: the last one is what it waits for."""
    key, data = CODE.starts(Fill("shelf-1", 1_000_000), "one")
    saga, _ = begun(key, CODE.version, bytes(read_wake(data).data), "correlation", 1.0, CODE.deadline_s)
    for number in range(1, entries // 2 + 1):
        saga.journal += [_asked(number), Resolved(number, 2.0, msgspec.Raw(b"null" if number % 2 else b"1"))]
    saga.last = entries // 2 + 1
    saga.journal.append(_asked(saga.last))
    waits = go_on(CODE, saga, 2.0)
    if waits or saga.status != Status.RUNNING:
        raise AssertionError(f"the journal was not made as the saga makes it: {saga.reason}")
    return row_of(saga, 1)


def _asked(number: int) -> Issued:
    """As `fill` asks for things in turn."""
    if number % 2:
        return Issued(number, "call", command_type(Fetch(box="", shelf_id="")).type, f"box-{number // 2:06d}")
    return Issued(number, "local", "put_in", "shelf-1")


def replay_ms(row: Row, rounds: int) -> float:
    """Of a replay alone, up to its wait."""

    def run() -> None:
        replay(CODE, instance)

    instance = instance_of(row)
    return _median_ms(run, rounds)


def continuation_ms(row: Row, rounds: int) -> float:
    """Of all that a saga does when an answer comes, without the database: its row is read, the answer taken in, the
    journal replayed, the next thing asked for, and the row made."""

    def run() -> None:
        saga = instance_of(row)
        last = saga.journal[-1]
        take(saga, Answered(last.number, b"1" if getattr(last, "kind", "") == "local" else b"null"), 2.0)
        go_on(CODE, saga, 2.0)
        row_of(saga, 2)

    return _median_ms(run, rounds)


def growth(lengths: Sequence[int], rounds: int) -> Mapping[int, float]:
    """Milliseconds of a continuation by entries in the journal."""
    return {length: continuation_ms(row_with(length), rounds) for length in lengths}


def _median_ms(run: Callable[[], None], rounds: int) -> float:
    run()
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        run()
        took.append(time.perf_counter() - began)
    return median(took) * 1000
