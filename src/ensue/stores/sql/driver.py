"""What a driver's adapter gives of a connection: a handful of calls, and what its errors mean."""

from __future__ import annotations

import abc
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ensue.errors import EnsueError, UsageError

Rows = Sequence[Sequence[Any]]


@contextmanager
def checked_arguments(place: str, given: Collection[str], own: Collection[str]) -> Iterator[None]:
    """For the call that connects. given: names in the user's `connect_args`. own: those that Ensue decides.

    Raises UsageError for one of these, and for one that the driver does not know.
    """
    refused = [name for name in own if name in given]
    if refused:
        raise UsageError(f"{place}: connect_args has {', '.join(refused)}, which Ensue sets itself: leave it out")
    try:
        yield
    except TypeError as error:
        if not given:
            raise
        raise UsageError(f"{place}: connect_args has {', '.join(sorted(given))}: {error}") from error


class Driver(abc.ABC):
    """raw: the driver's own connection. place: host and database, for error texts (never a password)."""

    def __init__(self, raw: Any, place: str) -> None:
        self.raw = raw
        self.place = place

    @property
    @abc.abstractmethod
    def in_transaction(self) -> bool: ...

    @property
    @abc.abstractmethod
    def closed(self) -> bool: ...

    @abc.abstractmethod
    async def _fetch(self, text: str, values: Sequence[Any]) -> Rows: ...

    @abc.abstractmethod
    async def _execute(self, text: str, values: Sequence[Any]) -> int: ...

    @abc.abstractmethod
    async def _script(self, text: str) -> None: ...

    @abc.abstractmethod
    async def _commit(self) -> None: ...

    @abc.abstractmethod
    async def _rollback(self) -> None: ...

    @abc.abstractmethod
    def lost(self, error: BaseException) -> bool:
        """Whether this error means that the connection is gone."""

    @abc.abstractmethod
    def is_interruption(self, error: Exception) -> bool:
        """Whether the server gave a statement up (a time limit, an operator, an internal error) and goes on."""

    @abc.abstractmethod
    def _translated(self, error: BaseException) -> EnsueError | None: ...

    @abc.abstractmethod
    async def close(self) -> None:
        """Say good-bye to the server."""

    @abc.abstractmethod
    def terminate(self) -> None:
        """Hang up at once; safe to repeat."""

    def hang_up(self) -> None:
        """Make what waits for the server fail; `terminate` comes after it."""
        self.terminate()
