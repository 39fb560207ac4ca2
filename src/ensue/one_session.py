"""All handlers of one message run in one step, which has one session of SQLAlchemy's."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.errors import UsageError
from ensue.handler import SESSION, SYNC_SESSION, Handler
from ensue.mapped import SqlAlchemyRepository


def check_sessions(service: str, handlers: Sequence[Handler]) -> None:
    """Raises UsageError where some need the session for threads, and others the one for the event loop."""
    threads = next((each for each in handlers if SYNC_SESSION in each.order), None)
    loop = next(
        (each for each in handlers if SESSION in each.order or isinstance(each.repository, SqlAlchemyRepository)), None
    )
    if threads is not None and loop is not None:
        why = "AsyncSession" if loop.entity is None else f"the entity {loop.entity.__name__}, mapped by SQLAlchemy"
        raise UsageError(
            f"service {service}: handler {threads.name} of {threads.event.type} takes Session, and handler {loop.name} "
            f"takes {why}, which needs the async one; their step has one session: make {threads.name} an "
            "async def with AsyncSession"
        )
