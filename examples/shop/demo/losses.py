"""`--lose-broker-data`: the broker forgets what it had acknowledged, as brokers do after a crash without a sync.

Three times: it is emptied, put back to an older copy of itself, and emptied again, each time with events in it that
order_history has not read, since it was killed a moment before. What was lost is noticed by the chain of each source
and sent again from its outbox; the invariants at the end are the same as without.

A broker takes its time to start. The next loss waits until events arrive again: a log in which nothing is has nothing
to lose.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from servers import PostgresServer, Server

from shop.demo.books import read_live
from shop.demo.stacks import Stack
from shop.demo.supervisor import Supervisor

#: After which share of the requests what happens.
SCHEDULE = ((0.2, "copied"), (0.4, "emptied"), (0.6, "put back to the older copy"), (0.8, "emptied"))
#: How much of the replay goes on while order_history is down, before the broker loses that too.
UNREAD = 0.05
LOOK_S = 0.02


class Losses:
    """done: how much of the replay is done, 0 to 1. happened: what, in order."""

    def __init__(self, stack: Stack, supervisor: Supervisor, directory: Path, done: Callable[[], float]) -> None:
        self.happened: list[str] = []
        self._done = done
        self._databases = stack.databases
        self._retried = stack.away
        self._reader = supervisor["order_history"]
        self._log: Log = ServerLog(stack.brokers[0].server) if stack.brokers else FileLog(directory, supervisor)

    @property
    def losses(self) -> int:
        return sum(each != "copied" for each in self.happened)

    async def run(self, enough: asyncio.Event) -> None:
        """Go through the schedule; what is not due when `enough` is set happens then."""
        for share, what in SCHEDULE:
            await self._until(share, enough)
            if what != "copied":
                await self._until_some_arrive(enough)
                await self._reader.kill()
                await self._until(share + UNREAD, enough)
            await self._log.stop()
            match what:
                case "copied":
                    self._log.copy()
                case "emptied":
                    self._log.empty()
                case _:
                    self._log.put_back()
            await self._log.start()
            await self._reader.start()
            self.happened.append(what)

    async def _until(self, share: float, enough: asyncio.Event) -> None:
        while self._done() < share and not enough.is_set():  # noqa: ASYNC110  # progress is a number, not a signal
            await asyncio.sleep(LOOK_S)

    async def _until_some_arrive(self, enough: asyncio.Event) -> None:
        """Wait for one more event that is applied, or for all of them."""
        before: int | None = None
        while True:
            try:
                live = await asyncio.to_thread(read_live, self._databases)
            except self._retried:
                live = None
            if live is not None:
                before = live.applied if before is None else before
                if live.applied > before or (enough.is_set() and not any(live.lag.values())):
                    return
            await asyncio.sleep(LOOK_S)


class ServerLog:
    """A broker that is a server. One that is a service's database too forgets the log's database alone."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._shared = isinstance(server, PostgresServer)

    async def stop(self) -> None:
        if not self._shared:
            self._server.kill()

    def copy(self) -> None:
        if isinstance(self._server, PostgresServer):
            self._server.psql("postgres", _disconnect("ensue"))
            self._server.psql("postgres", "CREATE DATABASE ensue_copy TEMPLATE ensue")
        else:
            self._server.save_data("older")

    def empty(self) -> None:
        if isinstance(self._server, PostgresServer):
            self._server.drop("ensue")
            self._server.url("ensue")
        else:
            self._server.wipe_data()

    def put_back(self) -> None:
        if isinstance(self._server, PostgresServer):
            self._server.drop("ensue")
            self._server.psql("postgres", "ALTER DATABASE ensue_copy RENAME TO ensue")
        else:
            self._server.restore_data("older")

    async def start(self) -> None:
        if not self._shared:
            self._server.spawn()
            await self._server.ready()


class FileLog:
    """The embedded log: its file can only be exchanged while nobody has it open, so the services are killed first."""

    def __init__(self, directory: Path, supervisor: Supervisor) -> None:
        self._directory = directory
        self._letters = directory / "older-log"
        self._supervisor = supervisor

    async def stop(self) -> None:
        for service in self._supervisor:
            await service.kill()

    def copy(self) -> None:
        self._letters.mkdir()
        for path in self._files():
            shutil.copy2(path, self._letters / path.name)

    def empty(self) -> None:
        for path in self._files():
            path.unlink()

    def put_back(self) -> None:
        self.empty()
        for path in self._letters.iterdir():
            shutil.copy2(path, self._directory / path.name)

    async def start(self) -> None:
        for service in self._supervisor:
            await service.start()

    def _files(self) -> list[Path]:
        return [each for each in self._directory.glob("broker.db*") if each.is_file()]


Log = ServerLog | FileLog


def _disconnect(database: str) -> str:
    return f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
