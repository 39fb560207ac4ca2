"""What a parked saga is at that a person may settle in its place: operations that it waits for, and undos."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from ensue.errors import BadMessage, UsageError
from ensue.saga.code import SagaCode
from ensue.saga.incoming import SkipOperation
from ensue.saga.instance import Instance, Skip, Status
from ensue.saga.journal import Refusal
from ensue.saga.replay import replay
from ensue.saga.replaying import Operation
from ensue.saga.undo import next_to_begin


@dataclasses.dataclass(frozen=True, slots=True)
class Settled:
    """What counts: result, JSON, or a failure. Neither: an undo was done, or nothing is returned."""

    result: bytes | None = None
    failure: Refusal | None = None


def skip_of(code: SagaCode | None, saga: Instance, number: int | None, settled: Settled) -> SkipOperation:
    """What to order. number: of the operation, or of the one whose undo it is; None: there is one only.

    Raises UsageError for what cannot be skipped, and for a result that is none of it.
    """
    if saga.status is not Status.PARKED:
        raise UsageError(f"saga {saga.key} is {saga.status}: only what a parked one is at can be skipped")
    undos = next_to_begin(saga.undos, undoing=saga.goes_by == Status.UNDOING, busy=saga.outside)
    operations = {each.number: each for each in _asked(code, saga)}
    choices = {each.of: str(each) for each in undos} | {each: str(operation) for each, operation in operations.items()}
    if not choices:
        raise UsageError(f"saga {saga.key} is at no operation: {saga.reason}")
    if number is None and len(choices) > 1:
        said = ", ".join(f"{each}: {what}" for each, what in sorted(choices.items()))
        raise UsageError(f"saga {saga.key} is at several operations: say which one, by its number ({said})")
    number = next(iter(choices)) if number is None else number
    if number not in choices:
        said = ", ".join(f"{each}: {what}" for each, what in sorted(choices.items()))
        raise UsageError(f"saga {saga.key} is not at an operation {number}, only at {said}")
    if number not in operations:
        if settled.result is not None or settled.failure is not None:
            raise UsageError(
                f"{choices[number]} of saga {saga.key} has no result: it counts as done, or is tried again"
            )
        return SkipOperation(number, None)
    return SkipOperation(number, _skip(operations[number], settled))


def _asked(code: SagaCode | None, saga: Instance) -> tuple[Operation[Any], ...]:
    """What its function waits for, or would ask for now."""
    if saga.goes_by != Status.RUNNING or saga.returned:
        return ()
    if code is None:
        raise UsageError(f"saga {saga.key} is of version {saga.version}, whose code is not here: run this with it")
    outcome = replay(code, saga)
    if outcome.kind == "flawed":
        raise UsageError(f"saga {saga.key} is parked for its code, and not for an operation: {outcome.flaw}")
    return outcome.open


def _skip(operation: Operation[Any], settled: Settled) -> Skip:
    if settled.failure is not None:
        return Skip(operation.asks, failure=settled.failure)
    data = b"null" if settled.result is None else settled.result
    try:
        operation.read(data)
    except (BadMessage, msgspec.DecodeError) as error:
        raise UsageError(f"{operation} does not come to {data.decode(errors='replace')[:100]}: {error}") from error
    return Skip(operation.asks, msgspec.Raw(data))
