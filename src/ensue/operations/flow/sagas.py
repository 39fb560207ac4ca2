"""The sagas of a flow: what each has asked for, what came of it, and what it waits for. A pure rule over their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from ensue.message import Message
from ensue.reply import replies_of
from ensue.saga.instance import Instance
from ensue.saga.journal import Issued, Resolved
from ensue.saga.undo import Undo


class Operation(msgspec.Struct, frozen=True):
    """number: by which the saga counts. asked: kind, name and key. at: when something came of it, seconds since the
    epoch; None: nothing has. failure: its name; empty: it has not failed."""

    number: int
    asked: str
    at: float | None
    failure: str
    attempts: int
    """Of an outside effect that nothing has come of: those that were begun."""


class ToUndo(msgspec.Struct, frozen=True):
    """of: the number of the operation. begun: it is at work. attempts: tries that have failed."""

    of: int
    name: str
    begun: bool
    attempts: int


class SagaSeen(msgspec.Struct, frozen=True):
    """service: whose saga it is. saga: `<name>:<id>`. failure: for which it is undone; empty: for none. reason: why it
    is parked, its first line. undos: the first to be undone comes first. Times in seconds since the epoch."""

    service: str
    saga: str
    version: int
    status: str
    started_at: float
    updated_at: float
    waits_for: str
    reason: str
    failure: str
    operations: tuple[Operation, ...]
    undos: tuple[ToUndo, ...]


def saga_keys(service: str, messages: Iterable[Message]) -> list[str]:
    """The keys that sagas of the service have in these messages, if there are any.

    All that happens to a saga comes by a record in the topic of answers, under its key: its start too.
    """
    topic = replies_of(service)
    return sorted({each.key for each in messages if each.topic == topic and ":" in each.key})


def saga_seen(service: str, saga: Instance) -> SagaSeen:
    ending = saga.ending or saga.stop
    return SagaSeen(
        service=service,
        saga=saga.key,
        version=saga.version,
        status=str(saga.status),
        started_at=saga.started_at,
        updated_at=saga.updated_at,
        waits_for=saga.waits_for,
        reason=saga.reason.partition("\n")[0],
        failure="" if ending is None else ending.name,
        operations=tuple(_operations(saga)),
        undos=tuple(_to_undo(each) for each in reversed(saga.undos)),
    )


def _operations(saga: Instance) -> list[Operation]:
    came: Mapping[int, Resolved] = {each.number: each for each in saga.journal if isinstance(each, Resolved)}
    found = []
    for each in saga.journal:
        if isinstance(each, Issued):
            result, outside = came.get(each.number), saga.outside.get(each.number)
            at, failure = (None, "") if result is None else (result.at, result.failure)
            found.append(Operation(each.number, str(each), at, failure, 0 if outside is None else outside.attempt))
    return found


def _to_undo(undo: Undo) -> ToUndo:
    return ToUndo(undo.of, undo.name, undo.state == "begun", undo.attempts)


def in_time(sagas: Sequence[SagaSeen]) -> list[SagaSeen]:
    return sorted(sagas, key=lambda each: (each.started_at, each.service, each.saga))
