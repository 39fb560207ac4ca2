"""How a saga of a flow is told in words."""

from __future__ import annotations

from ensue.operations.flow.sagas import Operation, SagaSeen, ToUndo


def shown_saga(saga: SagaSeen) -> str:
    """In one sentence: where it stands."""
    failure = f" for {saga.failure}" if saga.failure else ""
    waits = f", waits for {saga.waits_for}" if saga.waits_for else ""
    reason = f": {saga.reason}" if saga.reason else ""
    return f"saga {saga.saga} of {saga.service}, version {saga.version}: {saga.status}{failure}{waits}{reason}"


def shown_operation(operation: Operation, after: str) -> str:
    """after: how long after the flow's beginning something came of it."""
    if operation.at is None:
        pivot = operation.asked == "pivot"
        tried = f", attempt {operation.attempts}" if operation.attempts else ""
        return f"{operation.number} {operation.asked}" + ("" if pivot else f": not yet{tried}")
    return f"{operation.number} {operation.asked}: {operation.failure or 'done'}, {after}"


def shown_undo(undo: ToUndo) -> str:
    failed = f", {undo.attempts} failed" if undo.attempts else ""
    return f"undo {undo.of} {undo.name}: {'begun' if undo.begun else 'to be done'}{failed}"
