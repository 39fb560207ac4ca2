"""`RedisStore`: the `Store` port for views, on one Redis server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import msgspec
from redis.exceptions import ResponseError

from ensue import tables
from ensue.errors import StoreOutdated, UsageError
from ensue.message import OutboxRecord
from ensue.ports import Capabilities, Table
from ensue.stores.collected import ServedStore
from ensue.stores.identity import check_ends, epoch_of, new_epoch_name
from ensue.stores.redis import scripts
from ensue.stores.redis.keys import Keys
from ensue.stores.redis.row_reader import RedisRows
from ensue.stores.redis.server import Server
from ensue.stores.redis.transaction import RedisTransaction

VERSION = str(tables.VERSION)


class RedisStore(ServedStore[Server]):
    """A service's views on a Redis server. url: `redis://host:6379/0`, or `rediss://` with TLS.

    Every key begins with `{ensue:<service>}:`. The server may come back with less than it had acknowledged (without an
    append-only file: with nothing); rows and checkpoints go together, so the views are filled again from the log.
    """

    kind = "Redis"
    capabilities = Capabilities(sessions=False, power_loss_safe=False, publishes=False, locks=False, may_forget=True)

    def __init__(self, url: str, service: str) -> None:
        super().__init__(service)
        self._url = url
        self._keys = Keys(service)

    # --- open and close

    async def exists(self) -> bool:
        server = self._server or Server(self._url)
        try:
            return bool(await server.command("EXISTS", self._keys.meta))
        finally:
            if server is not self._server:
                await server.close()

    async def open(self) -> None:
        if self._server is not None:
            return
        server = Server(self._url)
        try:
            await _check_memory(server)
            await server.command("HSETNX", self._keys.meta, "epoch", new_epoch_name())
            await server.command("HSETNX", self._keys.meta, "version", VERSION)
            version, epoch = await server.command("HMGET", self._keys.meta, "version", "epoch")
            if version != VERSION.encode():
                raise StoreOutdated(
                    f"{server.place}: the keys of service {self.service} are of version {version.decode()}, expected "
                    f"{VERSION}: a view is filled anew when its keys {self._keys.prefix.decode()}* are deleted",
                    found=version.decode(),
                    expected=VERSION,
                )
        except BaseException:
            await server.close()
            raise
        self._server, self._epoch = server, epoch.decode()

    async def new_epoch(self, published_through: int, ends: str) -> str:
        arguments = [epoch_of(ends), fresh := new_epoch_name()]
        found = await self._opened().script(scripts.BEGIN_EPOCH, [self._keys.meta], arguments)
        if found != fresh.encode():
            check_ends(self.service, (found or b"").decode(), epoch_of(ends))
        self._epoch = fresh
        return self.source

    async def known(self, table: Table) -> None:
        """Raise UsageError when the table is kept with other columns or lookups than it is declared with."""
        if table in self._known:
            return
        placed = [table.placed] if table.placed else []
        declared = msgspec.json.encode((table.columns, table.id_column, table.lookups, *placed))
        server = self._opened()
        await server.command("HSETNX", self._keys.tables, table.name, declared)
        kept = await server.command("HGET", self._keys.tables, table.name)
        if kept != declared:
            raise UsageError(
                f"{server.place}: table {table.name} is kept with other columns or lookups than it is declared with. "
                f"Nothing migrates a view: stop the service, delete its keys {self._keys.prefix.decode()}* and start "
                "it, and it is filled from the log and from the senders' outboxes",
                declared=declared.decode(),
                kept=kept.decode(),
            )
        self._known[table] = declared

    # --- steps and queries

    def transaction(
        self, *, upkeep: bool = False, snapshot: bool = False
    ) -> AbstractAsyncContextManager[RedisTransaction]:
        return RedisTransaction(self, self._turns, self._opened(), self._keys, upkeep=upkeep)

    async def now(self) -> float:
        return _seconds(await self._opened().command("TIME"))

    async def begin_upkeep(self) -> float:
        """As `now`; and the store has its name again, if the server has lost it."""
        arguments = [new_epoch_name(), VERSION]
        return _seconds(await self._opened().script(scripts.BEGIN_UPKEEP, [self._keys.meta], arguments))

    def rows(self) -> RedisRows:
        return RedisRows(self._opened(), self._keys, self.known)

    # --- the relay's side: there is nothing to send

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        return ()

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        return ()

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        return {}

    async def outbox_wait(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        return 0


async def _check_memory(server: Server) -> None:
    """Refuse a server that throws keys away when memory is short: a view would lose rows without a word."""
    try:
        text = (await server.command("INFO", "memory")).decode()
    except (
        ResponseError
    ) as error:  # to the first command of all: to the SELECT, that is, with which a connection begins
        raise UsageError(f"{server.place}: {error}: check the number of the database in the URL") from error
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if found.get("maxmemory", "0") != "0" and found.get("maxmemory_policy", "noeviction") != "noeviction":
        raise UsageError(
            f"{server.place}: maxmemory-policy is {found['maxmemory_policy']}, so the server may throw away rows and "
            "checkpoints when its memory is full: set it to noeviction",
            found=found["maxmemory_policy"],
        )


def _seconds(time: Sequence[Any]) -> float:
    seconds, microseconds = time
    return int(seconds) + int(microseconds) / 1e6
