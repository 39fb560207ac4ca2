"""Where a service was started: steps belong to that process and that event loop, as its connections do."""

from __future__ import annotations

import asyncio
import os

from ensue.errors import UsageError


class Home:
    """The process and the running event loop of whoever makes it. service: the name, for error texts."""

    def __init__(self, service: str) -> None:
        self._service = service
        self._process = os.getpid()
        self._loop = asyncio.get_running_loop()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    @property
    def here(self) -> bool:
        """Whether this is that process, and not a fork of it."""
        return os.getpid() == self._process

    def check(self) -> None:
        """Raise UsageError anywhere else. A connection that two processes or loops use says what neither of them meant,
        or ends the process."""
        self.check_process()
        if asyncio.get_running_loop() is not self._loop:
            raise UsageError(
                f"service {self._service} was started on another event loop, where its connections are. Open steps and "
                "queries there: from a thread by asyncio.run_coroutine_threadsafe(work(), loop), in a test by fixtures "
                "of the same loop scope as the one that started the service"
            )

    def check_process(self) -> None:
        """Raise UsageError in a fork of that process."""
        if not self.here:
            raise UsageError(
                f"service {self._service} was started in process {self._process}, and this one ({os.getpid()}) is a "
                "fork of it, with the same connections: what one sends, the other would commit. Start the service anew "
                f"(`async with {self._service}.running():`) in a process that is not forked from a running one: "
                'multiprocessing.get_context("spawn")'
            )
