"""Newer schemas of Ensue's own tables, made up for tests: the second adds a table and a row, the third shuts others
out."""

from __future__ import annotations

from ensue.engine.schema import Addition, Schema
from ensue.ports import Kind, Lookup, StepTransaction, Table

NOTES = Table(
    "ensue_test_note",
    ("id", "revision", "place", "note"),
    "id",
    (Lookup(("place",), ("id",)),),
    (Kind.NAME, Kind.INT, Kind.NAME, Kind.TEXT),
    "revision",
)


async def begin_notes(transaction: StepTransaction) -> None:
    if not await transaction.load_rows(NOTES, ["first"]):
        await transaction.insert_rows(NOTES, [("first", 1, "here", "")])


_SECOND = Addition(tables=(NOTES,), fill=begin_notes)
_THIRD = Addition(readable_by=3)

#: By their number.
SCHEMAS = {1: Schema(), 2: Schema((_SECOND,)), 3: Schema((_SECOND, _THIRD))}
