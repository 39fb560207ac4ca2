"""`COPY` by Django's cursor in a handler: what is written goes to the server when the block ends, in one go."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from psycopg import AsyncCopy

from ensue.errors import UsageError


class LentCopy:
    """What psycopg's `Copy` has. What is written, and what is read, is held in memory whole, as rows are.

    send: has a coroutine function run on the event loop with psycopg's own object, inside of the statement.
    """

    def __init__(self, send: Callable[[Callable[[AsyncCopy], Awaitable[Any]]], Any]) -> None:
        self._send = send
        self._sent = False
        self._types: Sequence[Any] | None = None
        self._given: list[tuple[str, Any]] = []
        self._read: deque[Any] | None = None

    def __enter__(self) -> LentCopy:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._sent:
            self._run(self._write)

    def set_types(self, types: Sequence[Any]) -> None:
        self._types = types

    def write(self, buffer: Any) -> None:
        self._give("write", buffer if isinstance(buffer, str) else bytes(buffer))

    def write_row(self, row: Sequence[Any]) -> None:
        self._give("write_row", tuple(row))

    def read(self) -> Any:
        """The next block, `b""` at the end."""
        blocks = self._came(self._read_blocks)
        return blocks.popleft() if blocks else b""

    def __iter__(self) -> Iterator[Any]:
        while block := self.read():
            yield block

    def read_row(self) -> tuple[Any, ...] | None:
        rows = self._came(self._read_rows)
        return rows.popleft() if rows else None

    def rows(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.read_row()) is not None:
            yield row

    def _give(self, what: str, value: Any) -> None:
        if self._sent:
            raise UsageError("copy: written after the block has ended, or after something was read")
        self._given.append((what, value))

    def _came(self, read: Callable[[AsyncCopy], Awaitable[Any]]) -> deque[Any]:
        if self._read is None:
            if self._sent or self._given:
                raise UsageError("copy: read after the block has ended, or after something was written")
            self._read = deque(self._run(read))
        return self._read

    def _run(self, call: Callable[[AsyncCopy], Awaitable[Any]]) -> Any:
        self._sent = True

        async def typed(copy: AsyncCopy) -> Any:
            if self._types is not None:
                copy.set_types(self._types)
            return await call(copy)

        return self._send(typed)

    async def _write(self, copy: AsyncCopy) -> None:
        for what, value in self._given:
            await getattr(copy, what)(value)

    async def _read_blocks(self, copy: AsyncCopy) -> list[bytes]:
        return [bytes(each) async for each in copy]

    async def _read_rows(self, copy: AsyncCopy) -> list[tuple[Any, ...]]:
        return [each async for each in copy.rows()]
