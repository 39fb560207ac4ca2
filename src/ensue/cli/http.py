"""An HTTP server beside what else a process does: probes and metrics of `ensue run --http`, and the console."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import re
import socket
from collections.abc import AsyncIterator, Generator, Sequence
from typing import Any, NamedTuple

from ensue.app import Service
from ensue.engine.readiness import ReadyLimits
from ensue.errors import UsageError, not_installed
from ensue.texts import logger

log = logger("ensue.run")


class Address(NamedTuple):
    """host: empty for all interfaces. port: 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def of_process(self, number: int) -> Address:
        """Of one of several processes, which count from 1: the ports follow each other."""
        if not self.port:
            return self
        port = self.port + number - 1
        if port > _PORT_MAX:
            raise UsageError(f"--http {self}: process {number} would get port {port}, expected at most {_PORT_MAX}")
        return Address(self.host, port)


_PORT_MAX = 65535


def read_address(text: str) -> Address:
    """
    >>> read_address(":8081"), read_address("[::1]:8081")
    (Address(host='', port=8081), Address(host='::1', port=8081))
    """
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not re.fullmatch("[0-9]{1,9}", port) or int(port) > _PORT_MAX or (":" in host and bare == host):
        raise UsageError(f"--http is {text!r}, expected :PORT or HOST:PORT, e.g. :8081 or 127.0.0.1:8081 or [::1]:8081")
    return Address(bare, int(port))


@contextlib.asynccontextmanager
async def probes(address: Address, services: Sequence[Service]) -> AsyncIterator[None]:
    """Answer probes inside this block. Raises UsageError when nobody may listen there."""
    try:
        import uvicorn as _  # noqa: F401

        from ensue.integrations.probes import PATHS, probes_app
    except ImportError as error:
        raise not_installed("ensue run --http", "http") from error

    with contextlib.closing(listen(address)) as listening:
        port = listening.getsockname()[1]
        log.info("http on %s: %s", Address(address.host, port), ", ".join(PATHS))
        async with served(probes_app(services, ReadyLimits()), listening, lifespan=False):
            yield


@contextlib.asynccontextmanager
async def served(application: Any, listening: socket.socket, *, lifespan: bool) -> AsyncIterator[None]:
    """Serve an ASGI application at a socket inside this block. lifespan: tell it when it begins and ends. A client's
    address is the connection's own: what it says in X-Forwarded-For counts for nothing."""
    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Generator[None, None, None]:
            """Signals are for whoever runs the services."""
            yield

    config = uvicorn.Config(
        application, lifespan="on" if lifespan else "off", ws="none", log_config=None, log_level="warning",
        access_log=False, server_header=False, proxy_headers=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="ensue http")
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def listen(address: Address) -> socket.socket:
    try:
        if not address.host and socket.has_dualstack_ipv6():
            return socket.create_server(("", address.port), family=socket.AF_INET6, dualstack_ipv6=True)
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        reason = str(error.strerror or error)
        if error.errno == errno.EADDRINUSE:
            taken = os.strerror(errno.EADDRINUSE)
            reason = f"{taken} by another process: end that, or take another port; 0 is any that is free"
        raise UsageError(f"--http {address}: nobody can listen there: {reason}") from error
