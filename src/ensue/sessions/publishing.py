"""`Service.publish`: which session is meant, and whether it may be published in here."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from ensue.engine.nesting import check_aside
from ensue.errors import UsageError
from ensue.origin import current_origin
from ensue.sessions.pending import pending_of
from ensue.sessions.publisher import Publisher
from ensue.step import Step
from ensue.stores.sessions import StepSession


def publish(
    publisher: Publisher,
    session: object,
    events: Sequence[object],
    extensions: Mapping[str, str] | None,
    after: datetime.timedelta | None,
    at: datetime.datetime | None,
) -> None:
    """See `Service.publish`."""
    plain = _plain(session)
    service = publisher.definition.name
    if isinstance(plain, StepSession):
        raise UsageError(f"{service}.publish(step.session, ...): a step publishes by itself, step.publish(...)")
    if plain.twophase:
        raise UsageError(
            f"{service}.publish(session, ...): the session has twophase=True, and Ensue's outbox takes no part in a "
            "two-phase commit: publish in a session of the service's database alone"
        )
    check_aside(service, f"{service}.publish(session, ...)", requested=current_origin() is not None)
    pending_of(plain).publish(plain, publisher, events, extensions, after, at)


def _plain(session: Any) -> Session:
    """The Session behind whatever people have of one."""
    if isinstance(session, scoped_session | async_scoped_session):
        session = session()
    if isinstance(session, AsyncSession):
        session = session.sync_session
    if isinstance(session, Session):
        return session
    shown = type(session).__name__
    if isinstance(session, sessionmaker | async_sessionmaker):
        hint = "it makes sessions: call it, and publish in what it returns"
    elif isinstance(session, Connection | AsyncConnection | Engine | AsyncEngine):
        hint = "make a session of it, Session(...), or use `with service.sync_step() as step:`"
    elif isinstance(session, Step):
        hint = "a step publishes by itself, step.publish(...)"
    else:
        hint = "the session comes first, publish(session, event)"
    raise UsageError(f"publish({shown}, ...): expected an SQLAlchemy Session or AsyncSession; {hint}", found=shown)
