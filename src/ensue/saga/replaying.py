"""One replay as the saga's function sees it: what it asks for is compared with the journal, or is new.

What cannot be replayed is noted here, and raised as something that no `except Exception` of the function catches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Sequence
from types import EllipsisType, FrameType
from typing import Any, Generic, TypeVar

from ensue.codec import RECORD_BYTES_MAX
from ensue.errors import BadMessage
from ensue.saga.instance import Instance
from ensue.saga.journal import Entry, Issued, Resolved
from ensue.saga.undo import Undo

T = TypeVar("T")

#: How many bytes a record of a topic may have.
Largest = Callable[[str], int]
#: What a record has besides its key and data, at most: ids, times, a trace. Those of others may be 1 KiB each.
_BESIDES = 4_096


def usual_largest(topic: str) -> int:
    """Where nobody has said anything else."""
    return RECORD_BYTES_MAX


class Unreplayable(BaseException):
    """The function did something that a replay cannot do again. Its text is the reason for which the saga is parked."""


class Closed(BaseException):
    """The function asked for something while it was closed at a wait; its `finally` blocks run then."""


class Restarted(BaseException):
    """The function wants to begin anew, with this request."""

    def __init__(self, request: bytes) -> None:
        super().__init__()
        self.request = request


class Operation(Generic[T]):
    """Something that a saga asks for: `await` it, or hand it to `saga.gather`.

    write: makes `data` of a call, a local step and an outside effect, as JSON. read: makes its result of JSON. back:
    makes its `undo`, without its `of`; ...: nothing is said of it. Both are called when it is asked for first, and not
    at each replay. limit_s: 0: none. attempts: at an outside effect.
    """

    __slots__ = ("asks", "attempts", "back", "data", "limit_s", "number", "read", "run", "topic", "undo", "write")

    def __init__(
        self,
        run: Replaying,
        asks: tuple[str, str, str],
        *,
        read: Callable[[bytes], T],
        write: Callable[[], bytes] = lambda: b"null",
        topic: str = "",
        back: Callable[[], Undo] | EllipsisType | None = None,
        limit_s: float = 0.0,
        attempts: int = 0,
    ) -> None:
        self.run = run
        self.asks = asks
        self.read = read
        self.write = write
        self.data = b"null"
        self.topic = topic
        self.back = back
        self.undo: Undo | None = None
        self.limit_s = limit_s
        self.attempts = attempts
        self.number = 0
        run.made[self] = None

    def asked(self) -> None:
        """It is asked for, and not only replayed."""
        self.data = self.write()
        if self.back is not None and self.back is not ...:
            self.undo = self.back()

    def __await__(self) -> Generator[Any, Any, T]:
        self.run.begin(self)
        yield Wait(self.run, (self,))
        return self.run.results((self,))[0]  # type: ignore[no-any-return]

    def __str__(self) -> str:
        return str(Issued(0, *self.asks))


class Gathered:
    """Several operations, to be awaited together."""

    __slots__ = ("_operations", "_run")

    def __init__(self, run: Replaying, operations: Sequence[Operation[Any]]) -> None:
        self._run = run
        self._operations = operations

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        for each in self._operations:
            self._run.begin(each)
        yield Wait(self._run, self._operations)
        return self._run.results(self._operations)


class Wait:
    """What a function yields that waits: for operations, which were asked for."""

    __slots__ = ("numbers", "operations", "run")

    def __init__(self, run: Replaying, operations: Sequence[Operation[Any]]) -> None:
        self.run = run
        self.operations = operations
        self.numbers = [each.number for each in operations]


class Replaying:
    """now: seconds since the epoch, of what woke the function last. new: what is not in the journal yet.
    made: operations that were made, and wait to be awaited. waited: for what it waits. flaw: why it cannot go on;
    brief: the same, without what is of this one saga. largest: what is asked of topics to which it writes."""

    def __init__(self, instance: Instance, largest: Largest = usual_largest) -> None:
        journal = instance.journal
        self.key = instance.key
        self._largest = largest
        self._besides = _BESIDES + len(instance.correlation_id.encode()) + 2 * len(instance.key)
        self.generation = instance.generation
        self.now = instance.restarted_at or instance.started_at
        self.issued = [each for each in journal if isinstance(each, Issued)]
        self.resolved = {each.number: each for each in journal if isinstance(each, Resolved)}
        self.new: list[tuple[Issued, Operation[Any] | None]] = []
        self.made: dict[Operation[Any], None] = {}
        self.waited: Any = None
        self.pivoted = instance.began_pivoted
        self.closed = False
        self.flaw: str = ""
        self.brief: str = ""
        self._cursor = 0
        self._last = instance.last
        self._seen = len(journal)

    def more(self, journal: Sequence[Entry]) -> None:
        """The function goes on: what it waited for is in the journal, behind what it has asked for itself."""
        self.new = []
        self.resolved.update((each.number, each) for each in journal[self._seen :] if isinstance(each, Resolved))
        self._seen = len(journal)

    def waits_for_step(self, numbers: Sequence[int]) -> bool:
        """Whether one of them is a local step, which comes back in this very transaction. They were asked for last."""
        return any(each.kind == "local" and each.number in numbers for each in self.issued[-len(numbers) :])

    @property
    def unasked(self) -> Issued | None:
        """What the journal has next, and the function has not asked for."""
        return self.issued[self._cursor] if self._cursor < len(self.issued) else None

    def issue(self, asks: tuple[str, str, str], operation: Operation[Any] | None) -> int:
        """Return the number of what the function asks for now."""
        if self.closed:
            raise Closed
        cursor = self._cursor
        if cursor < len(self.issued):
            expected = self.issued[cursor]
            if expected.asks != asks:
                asked = Issued(0, *asks)
                self.brief = self.brief or (
                    f"entry {self._cursor + 1}: the journal has {expected.what}, the code asks for {asked.what}"
                    f"{', for another key' * (expected.what == asked.what)}{here()}"
                )
                raise self.parks(
                    f"entry {self._cursor + 1}: the journal has {expected}, the code asks for {asked}{here()}. A saga "
                    "that has begun must go on as it did: put back what was there, or leave this version as it is and "
                    "declare the new code beside it, by version="
                )
            self._cursor += 1
            return expected.number
        if operation is not None:
            operation.asked()
        self._last += 1
        entry = Issued(self._last, *asks)
        self.issued.append(entry)
        self._cursor += 1
        self.new.append((entry, operation))
        return entry.number

    def begin(self, operation: Operation[Any]) -> None:
        """The function awaits it."""
        if operation.number:
            raise self.parks(f"{operation} was awaited twice{here()}: keep its result in a variable")
        if operation.back is ... and not self.pivoted:
            raise self.parks(
                f"{operation} has no undo=, and the saga is before its pivot{here()}: say how it is undone, or "
                "undo=None"
            )
        operation.number = self.issue(operation.asks, operation)
        self.made.pop(operation, None)

    def results(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """What they have come to. Raises the first failure of them."""
        outcomes = [self.resolved[each.number] for each in operations]
        for each in outcomes:
            if each.failure:
                # By the order in which they are written, so that it is the same in whichever order they have come.
                raise each.raised()
        try:
            return [each.read(bytes(found.data)) for each, found in zip(operations, outcomes, strict=True)]
        except BadMessage as error:
            raise self.parks(f"{error}{here()}. Correct the class, and have the saga tried again") from error

    def check_room(self, undo: Undo) -> None:
        """What could not be sent once it is time to undo would park the saga for ever."""
        largest = self._largest(undo.topic)
        size = len(undo.data) + 2 * len(undo.key.encode()) + len(undo.topic) + len(undo.name) + self._besides
        if size > largest:
            raise self.parks(
                f"{undo} for {undo.key} has up to {size} bytes with its key and attributes, and a record of "
                f"{undo.topic} at most {largest}, so that it could never be sent{here()}: give it less, ids for "
                "instance, by which its handler looks up the rest"
            )

    def parks(self, text: str) -> Unreplayable:
        """Return what is to be raised, and note it, whatever the function makes of it."""
        self.check_open()
        self.flaw = self.flaw or text
        return Unreplayable(text)

    def check_open(self) -> None:
        if self.closed:
            raise Closed


def here() -> str:
    """File and line of the function's code that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("ensue.saga."):
        frame = frame.f_back
    return "" if frame is None else f" ({frame.f_code.co_filename}:{frame.f_lineno})"
