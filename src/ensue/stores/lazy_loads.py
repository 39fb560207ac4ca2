"""What SQLAlchemy loads when an attribute is touched: on the event loop it cannot, and says so in words of its own.

Without a word it would on SQLite, whose driver never waits; so a service would run there that fails on PostgreSQL.
"""

from __future__ import annotations

import asyncio

from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session
from sqlalchemy.util.concurrency import in_greenlet

from ensue.errors import UsageError


def refuse(kind: type[Session]) -> None:
    """In sessions of this class that belong to the event loop, raise UsageError for what nobody has awaited."""
    event.listen(kind, "do_orm_execute", _awaited)


def _on_the_loop() -> bool:
    """A plain handler's thread may wait, also where the driver is one of the event loop's."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _awaited(state: ORMExecuteState) -> None:
    if in_greenlet() or not _on_the_loop() or not state.session.get_bind().dialect.is_async:
        return
    parent = state.lazy_loaded_from
    if parent is not None:
        path = state.loader_strategy_path
        name = getattr(path.path[-1], "key", "") if path is not None else ""
        owner = parent.class_.__name__
        raise UsageError(
            f"{owner}.{name} is a relationship that is loaded when it is touched, and it was touched without await: "
            f'map it with relationship(lazy="selectin"), so that it comes with its {owner}, or make the handler async: '
            f"`await step.session.refresh(entity, [{name!r}])` before it is touched",
            attribute=name,
        )
    if state.is_column_load:
        names = sorted(getattr(getattr(state.statement, "_compile_options", None), "_only_load_props", None) or ())
        loaded = getattr(state.load_options, "_refresh_state", None)
        owner = "entity" if loaded is None else loaded.class_.__name__
        shown = ", ".join(f"{owner}.{name}" for name in names) or f"a column of {owner}"
        raise UsageError(
            f"{shown} is not loaded (deferred, expired, or of a subclass), and it was touched without await: map it "
            "without deferred=True, so that it comes with its row, or make the handler async: "
            f"`await step.session.refresh(entity, {names})` before it is touched",
            attribute=", ".join(names),
        )
    raise UsageError(
        "a query is sent without await, on the event loop, where nothing can wait for it: make the handler async and "
        "use `await step.session...`"
    )
