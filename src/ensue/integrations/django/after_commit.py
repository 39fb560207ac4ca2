"""`transaction.on_commit` in a handler: called when its step has committed, at most once, in a thread of its own."""

from __future__ import annotations

import concurrent.futures
import functools
from collections.abc import Callable, Sequence
from typing import Any

from django.db import close_old_connections
from sqlalchemy import event
from sqlalchemy.orm import Session

from ensue.texts import logger

log = logger("ensue.django")
_CALLS = "ensue.django.on_commit"


def remember(session: Session, calls: Sequence[Callable[[], Any]]) -> None:
    """Call these once the session's step has committed, in order. Its other messages may add more."""
    if not calls:
        return
    known = session.info.get(_CALLS)
    if known is None:
        known = session.info[_CALLS] = []
        event.listen(session, "after_commit", _committed)
    known.extend(calls)


def _committed(session: Session) -> None:
    calls = session.info.pop(_CALLS, ())
    for each in calls:
        _thread().submit(_call, each)


@functools.cache
def _thread() -> concurrent.futures.ThreadPoolExecutor:
    """One, so that the order holds. The event loop must not wait for them, and the process does at its end."""
    return concurrent.futures.ThreadPoolExecutor(1, "ensue on_commit")


def _call(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:  # the step has committed: nobody is left to whom it could be raised
        log.exception("a function of transaction.on_commit failed after its step had committed")
    finally:
        close_old_connections()
