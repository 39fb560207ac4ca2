"""A TCP proxy on the loopback that can be cut and healed: the network between a service and its server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from servers.base import free_port


class TcpProxy:
    """`async with TcpProxy(server.port) as proxy:` then connect to proxy.port.

    cut: existing connections are reset and new ones refused. freeze: connections stay open and nothing passes (what a
    lost packet path looks like). heal: everything passes again. round_trips: of each connection, in the order of their
    making, how often its client spoke after it had been answered.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._cut = False
        self._connections: set[asyncio.Task[None]] = set()
        self._turns: list[_Turns] = []

    @property
    def round_trips(self) -> list[int]:
        return [each.count for each in self._turns]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        await self._reset()
        await self._server.wait_closed()

    async def cut(self) -> None:
        self._cut = True
        await self._reset()

    def freeze(self) -> None:
        self._flowing.clear()

    def heal(self) -> None:
        self._cut = False
        self._flowing.set()

    async def _reset(self) -> None:
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self._cut:
                return
            inward, outward = await asyncio.open_connection("127.0.0.1", self.target)
            turns = _Turns()
            self._turns.append(turns)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pump(reader, outward, turns.asked))
                    group.create_task(self._pump(inward, writer, turns.answered))
            finally:
                outward.transport.abort()
        except* (OSError, asyncio.CancelledError):
            pass  # either side hung up, or the line was cut: the other side is told by the reset below
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, note: Callable[[], None]) -> None:
        while data := await reader.read(65536):
            note()
            await self._flowing.wait()
            if writer.transport.is_closing():  # while the line stood still; uvloop would say so with a RuntimeError
                raise ConnectionResetError("the other side hung up")
            writer.write(data)
            await writer.drain()
        with contextlib.suppress(OSError, RuntimeError):  # the other side is gone already; uvloop says so by the second
            writer.write_eof()


class _Turns:
    """Whose turn it is on one connection, and how often it became the server's."""

    def __init__(self) -> None:
        self.count = 0
        self._asking = False

    def asked(self) -> None:
        if not self._asking:  # else more of what was being asked
            self.count += 1
        self._asking = True

    def answered(self) -> None:
        self._asking = False
