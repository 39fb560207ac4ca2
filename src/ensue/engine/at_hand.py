"""What a lane is doing now, for whoever looks from outside, another thread too: nobody waits, nothing is locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ensue.engine.entities import Call
from ensue.message import Message
from ensue.tracing import Processing


class Inside(Protocol):
    """A run of entity steps. index: of its messages; None while entities are loaded or saved."""

    index: int | None
    call: Call | None


class AtHand:
    """Written by the task that works. number: of the transaction; each attempt has another one.

    since: when it began, monotonic; None: nothing is at hand. handled: whether a handler was reached in it. thread:
    that runs the handler, None: the event loop does. trace: is told of each message; None: nobody wants to know.
    last: index of the message whose handler ran when `leave` was called.
    """

    __slots__ = (
        "_call",
        "_index",
        "_messages",
        "_run",
        "_start",
        "handled",
        "last",
        "letter",
        "number",
        "since",
        "thread",
        "trace",
    )

    def __init__(self) -> None:
        self.number = 0
        self.since: float | None = None
        self.handled = False
        self.thread: int | None = None
        self.last: int | None = None
        self.letter = ""
        self.trace: Processing | None = None
        self._messages: Sequence[Message] = ()
        self._index: int | None = None
        self._call: Call | None = None
        self._run: Inside | None = None
        self._start = 0

    def begin(self, now: float, letter: str = "") -> None:
        """A transaction begins. letter: the id of a dead letter that is tried again."""
        self.number += 1
        self.since, self.handled, self.letter, self.last = now, False, letter, None
        self.rest()

    def end(self) -> None:
        self.since = None
        self.rest()

    def work(self, messages: Sequence[Message]) -> None:
        """These messages are handled now."""
        self._messages, self.handled = messages, True

    def call(self, index: int, call: Call) -> None:
        self._index, self._call, self._run, self.thread = index, call, None, None

    def run(self, start: int, run: Inside) -> None:
        self._start, self._run = start, run

    def leave(self) -> None:
        """The handlers are done with, well or badly."""
        place = self.place
        self.last = None if place is None else place[0]
        self.rest()

    def rest(self) -> None:
        """No handler is called now."""
        self._index = self._call = self._run = self.thread = None

    @property
    def place(self) -> tuple[int, Call] | None:
        """Index of the message whose handler runs, and the handler; None: the database is at work, or nobody is."""
        run = self._run
        index, call = (self._index, self._call) if run is None else (run.index, run.call)
        if index is None or call is None:
            return None
        return (index if run is None else self._start + index), call

    @property
    def message(self) -> Message | None:
        """The one whose handler runs."""
        place, messages = self.place, self._messages
        return messages[place[0]] if place is not None and place[0] < len(messages) else None

    @property
    def target(self) -> str:
        """What an `Attempt` calls the message whose handler runs; empty: none runs."""
        message = self.message
        return "" if message is None else self.letter or str(message.offset)

    def __str__(self) -> str:
        place, message = self.place, self.message
        if place is None or message is None:
            return "a transaction of handlers that waits for the database"
        return (
            f"{place[1].handler.where} with message {message.id} of {message.source}, key {message.key!r}, "
            f"{message.topic}/{message.partition} offset {message.offset}"
        )
