"""TLS before a server that is started without: a port that ends it and hands on what is in it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

#: How long connections that were let go of may take to end.
_END_S = 10


@asynccontextmanager
async def tls_in_front_of(port: int, certificate: Path, key: Path, *, at: int = 0) -> AsyncIterator[int]:
    """A port of the loopback before the one given. at: which; 0: any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    connections: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # either side hung up
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        inward, outward = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, outward), pump(inward, writer))
        connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", at, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
        if connections:
            await asyncio.wait(connections, timeout=_END_S)
