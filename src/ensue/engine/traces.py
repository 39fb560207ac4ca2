"""Whoever traces a processing is told of its handlers, and of what they publish."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from ensue.engine.at_hand import AtHand
from ensue.outgoing import Outgoing
from ensue.tracing import Processing

_NOBODY = nullcontext()


def tracing(trace: Processing | None, outgoing: Outgoing, at_hand: AtHand) -> AbstractContextManager[None]:
    """In this block the handlers of a processing are called."""
    return _NOBODY if trace is None else _telling(trace, outgoing, at_hand)


@contextmanager
def _telling(trace: Processing, outgoing: Outgoing, at_hand: AtHand) -> Iterator[None]:
    if trace.told:
        outgoing.trace = at_hand.trace = trace
    try:
        with trace.working():
            yield
    finally:
        at_hand.trace = None
