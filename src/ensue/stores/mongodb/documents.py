"""An entity as one document: its fields, a version, and what it knows of the messages that changed it.

`_ensue.version` is asked for by each write, so that of two writers one fails. `_ensue.applied` holds, for each key of a
partition and source, the last position that took effect on THIS document; `_ensue.done` names messages of senders
without positions. So a message that comes again after a crash is left out where it took effect, and is applied where it
did not. By key, since only messages of one key never pass each other: one that was set aside is applied after later
ones of other keys. See docs/adr/0021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ensue.errors import UsageError
from ensue.message import Message, OutboxRecord
from ensue.ports import Table
from ensue.stores.sort_keys import place

OWN = "_ensue"
#: How many entries of `applied` and `done` a document keeps beyond those of one step: they matter until that step's
#: checkpoint is written, and the worker that begins after a crash looks at them first of all.
KEPT = 500
#: How long the name of a step from outside is kept, seconds: it matters while its answer is in doubt.
STEPS_KEPT_S = 600.0

Row = Sequence[Any]
_PLAIN = frozenset({int, str, float, bytes, bool, type(None)})
_INT64 = 1 << 63


@dataclasses.dataclass(slots=True)
class Entity:
    """One document inside a step. row: as the step sees it (None: it does not exist). version 0: to be inserted."""

    row: Row | None = None
    version: int = 0
    applied: dict[tuple[str, str, int, str], int] = dataclasses.field(default_factory=dict)
    done: list[str] = dataclasses.field(default_factory=list)
    steps: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    outbox: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    sent: int = 0
    noted: int = 0
    changed: bool = False
    from_message: bool = False

    def took_effect(self, message: Message) -> bool:
        if message.position:
            return message.position <= self.applied.get(_line_of(message), 0)
        return name_of(message) in self.done

    def note(self, message: Message) -> None:
        self.from_message = True
        self.noted += 1
        if message.position:
            line = _line_of(message)
            self.applied.pop(line, None)  # the latest stands last
            self.applied[line] = message.position
        else:
            self.done.append(name_of(message))

    def carry(self, records: Sequence[OutboxRecord]) -> None:
        """Take what is published with this entity; the relay's side collects it."""
        for each in records:
            self.sent += 1
            self.outbox.append(
                {
                    "n": self.sent, "topic": each.topic, "partition": each.partition, "key": each.key,
                    "envelope": each.envelope, "data": each.data,
                }
            )  # fmt: skip


def name_of(message: Message) -> str:
    return f"{message.source} {message.id}"


def _line_of(message: Message) -> tuple[str, str, int, str]:
    """Messages that never pass each other."""
    return message.source, message.topic, message.partition, message.key


def entity_of(table: Table, document: dict[str, Any]) -> Entity:
    row = tuple(document[field(table, name)] for name in table.columns)
    own = document.get(OWN)
    if own is None:
        raise UsageError(
            f"collection {table.name}: document {document['_id']!r} was not written by this store; give the entity a "
            "collection of its own",
            id=document["_id"],
        )
    applied = {
        (each["source"], each["topic"], each["partition"], each["key"]): each["position"] for each in own["applied"]
    }
    return Entity(row, own["version"], applied, own["done"], own["steps"], own["outbox"], own["sent"], len(own["done"]))


def field(table: Table, name: str) -> str:
    return "_id" if name == table.id_column else name


def sorted_field(table: Table, name: str) -> str:
    """By what a column is looked for: of decimal numbers, which are text, and of bytes the place of their value."""
    return f"{OWN}.places.{name}" if name in table.placed else field(table, name)


def sorted_value(table: Table, name: str, value: Any) -> Any:
    """As `sorted_field` has it. As hexadecimal text: bytes are sorted by their length first."""
    return value if value is None or name not in table.placed else place(table, (name,), (value,)).hex()


def document_of(table: Table, entity: Entity, now: float) -> dict[str, Any]:
    """As it is after the step. Raises UsageError for a value that the store cannot keep."""
    row = entity.row
    assert row is not None
    check_row(table, row)
    kept = KEPT + entity.noted
    document = {field(table, name): value for name, value in zip(table.columns, row, strict=True)}
    document[OWN] = {
        "version": entity.version + 1,
        "applied": [
            {"source": source, "topic": topic, "partition": number, "key": key, "position": position}
            for (source, topic, number, key), position in [*entity.applied.items()][-kept:]
        ],
        "done": entity.done[-kept:],
        "steps": [each for each in entity.steps if each["at"] > now - STEPS_KEPT_S],
        "outbox": entity.outbox,
        "sent": entity.sent,
    }
    if table.placed:
        values = zip(table.columns, row, strict=True)
        document[OWN]["places"] = {
            name: sorted_value(table, name, value) for name, value in values if name in table.placed
        }
    if entity.outbox:
        document[OWN]["pending"] = now  # there is an index of those that have it
    return document


def check_names(table: Table) -> None:
    """Raise UsageError for a name that means something else in a query."""
    for name in table.columns:
        if "." in name or name.startswith("$") or name == OWN or (name == "_id" and name != table.id_column):
            raise UsageError(
                f"table {table.name}: this store cannot look for a field {name!r}: names with a dot, those that begin "
                f"with $, _id and {OWN} are its own; give the column another name"
            )


def check_row(table: Table, row: Row) -> None:
    for name, value in zip(table.columns, row, strict=False):
        sorted_value(table, name, value)
        if type(value) not in _PLAIN or (type(value) is int and not -_INT64 <= value < _INT64):
            raise UsageError(
                f"table {table.name}: a row holds {value!r} ({type(value).__name__}); this store keeps text, bytes, "
                "floats, whole numbers of 64 bits and None: give the TableRepository columns={...: Column(...)}"
            )
