"""`RedisStore`: the `Store` port for views, on one Redis server."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.errors import StoreOutdated, UsageError
from ensue.message import Checkpoint, DeadLetter, DeadLetterState, Lease, LeaseTable, OutboxRecord, Partition
from ensue.ports import Capabilities, Table
from ensue.stores import rules
from ensue.stores.redis import records, scripts
from ensue.stores.redis.keys import Keys
from ensue.stores.redis.packing import pack
from ensue.stores.redis.row_reader import RedisRows
from ensue.stores.redis.server import Server
from ensue.stores.redis.transaction import RedisTransaction

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

VERSION = "1"
#: How often a relay that waits looks for an operator's decision: this store has nothing else for it.
_LOOK_S = 0.25


class RedisStore:
    """A service's views on a Redis server. url: `redis://host:6379/0`, or `rediss://` with TLS.

    Every key begins with `{ensue:<service>}:`. The server may come back with less than it had acknowledged (without an
    append-only file: with nothing); rows and checkpoints go together, so the views are filled again from the log.
    """

    capabilities = Capabilities(sessions=False, power_loss_safe=False, publishes=False, locks=False, may_forget=True)

    def __init__(self, url: str, service: str) -> None:
        self.service = service
        self._url = url
        self._keys = Keys(service)
        self._server: Server | None = None
        self._epoch = ""
        self._known: dict[str, bytes] = {}
        #: Of each partition, the revision that was loaded or committed here last, and its token.
        self.tokens: dict[Partition, tuple[int, bytes | None]] = {}
        self._seen = 0
        self._steps = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

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
            await server.command("HSETNX", self._keys.meta, "epoch", secrets.token_hex(4))
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

    async def close(self) -> None:
        await self._quiet.wait()
        server, self._server = self._server, None
        self._known.clear()
        if server is not None:
            await server.close()

    def _opened(self) -> Server:
        if self._server is None:
            raise UsageError(f"the Redis store of {self.service} is not open: call open() first")
        return self._server

    async def create_tables(self, metadata: MetaData) -> None:
        raise records.no_sessions()

    async def missing_tables(self, metadata: MetaData) -> Sequence[str]:
        raise records.no_sessions()

    @property
    def source(self) -> str:
        return f"{self.service}/{self._epoch}"

    async def new_epoch(self, published_through: int) -> str:
        self._epoch = secrets.token_hex(4)
        await self._opened().command("HSET", self._keys.meta, "epoch", self._epoch)
        return self.source

    async def known(self, table: Table) -> None:
        """Raise UsageError when the table is kept with other columns or lookups than it is declared with."""
        declared = msgspec.json.encode((table.columns, table.id_column, table.lookups))
        if self._known.get(table.name) == declared:
            return
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
        self._known[table.name] = declared

    # --- steps and queries

    def transaction(self) -> AbstractAsyncContextManager[RedisTransaction]:
        return RedisTransaction(self, self._opened(), self._keys)

    def begin(self) -> None:
        self._steps += 1
        self._quiet.clear()

    def end(self) -> None:
        self._steps -= 1
        if not self._steps:
            self._quiet.set()

    async def time(self) -> float:
        """The server's clock, seconds since the epoch."""
        seconds, microseconds = await self._opened().command("TIME")
        return int(seconds) + int(microseconds) / 1e6

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        raise records.no_sessions()

    def rows(self) -> RedisRows:
        return RedisRows(self._opened(), self._keys, self.known)

    # --- the relay's side: there is nothing to send

    async def outbox_after(self, position: int, limit: int) -> Sequence[OutboxRecord]:
        self._seen = await self._changed()
        return ()

    async def outbox_of(
        self, topic: str, partition: int, after: int, through: int, limit: int
    ) -> Sequence[OutboxRecord]:
        return ()

    async def outbox_heads(self) -> Mapping[tuple[str, int], int]:
        return {}

    async def outbox_get(self, position: int) -> OutboxRecord | None:
        return None

    async def outbox_wait(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                while await self._changed() == self._seen:  # noqa: ASYNC110  # the server has no event for it
                    await asyncio.sleep(min(_LOOK_S, timeout_s))
        except TimeoutError:
            return

    async def _changed(self) -> int:
        return int(await self._opened().command("GET", self._keys.changed) or 0)

    async def relay_load(self) -> int:
        return 0

    async def relay_save(self, position: int) -> None: ...

    async def outbox_prune(self, before_s: float, through: int, limit: int) -> int:
        return 0

    # --- the consumer's side

    async def checkpoint_load(self, partition: Partition) -> Checkpoint:
        fields = await self._fields(partition)
        found = records.checkpoint_of(fields)
        self.tokens[partition] = (found.revision, fields.get(b"token"))
        return found

    async def _fields(self, partition: Partition) -> dict[bytes, bytes]:
        return _pairs(await self._opened().command("HGETALL", self._keys.checkpoint(partition)))

    async def checkpoints(self) -> Mapping[Partition, Checkpoint]:
        names = map(records.decode_partition, await self._opened().command("SMEMBERS", self._keys.checkpoints))
        return {each: records.checkpoint_of(await self._fields(each)) for each in sorted(names)}

    async def accept_loss(self, partition: Partition, source: str) -> int:
        async with self.transaction() as transaction:
            checkpoint = await self.checkpoint_load(partition)
            gap = checkpoint.gaps.get(source)
            left = rules.accepted(partition, source, gap)
            assert gap is not None
            checkpoint.watermarks[source] = gap.lost_through
            del checkpoint.gaps[source]
            if left is not None:
                checkpoint.gaps[source] = left
            await transaction.save_checkpoint(partition, checkpoint, (source,))
        await self._wake()
        return gap.lost_through

    async def dead_letters(
        self, partition: Partition | None = None, states: Sequence[DeadLetterState] = (), limit: int = 1000
    ) -> Sequence[DeadLetter]:
        server = self._opened()
        if partition is not None:
            partitions = {partition}
        else:
            partitions = set(map(records.decode_partition, await server.command("HVALS", self._keys.letters)))
        found: list[DeadLetter] = []
        for each in partitions:
            found += map(records.decode_letter, await server.command("HVALS", self._keys.letters_of(each)))
        found.sort(key=lambda letter: letter.id)
        return [letter for letter in found if not states or letter.state in states][:limit]

    async def letter(self, letter_id: int) -> tuple[bytes | None, DeadLetter | None]:
        """As it is stored and as it is."""
        server = self._opened()
        name = await server.command("HGET", self._keys.letters, str(letter_id))
        if name is None:
            return None, None
        raw = await server.command("HGET", self._keys.letters_of(records.decode_partition(name)), str(letter_id))
        return raw, None if raw is None else records.decode_letter(raw)

    async def dead_letter_get(self, letter_id: int) -> DeadLetter | None:
        return (await self.letter(letter_id))[1]

    async def dead_letter_counts(self) -> Mapping[tuple[Partition, DeadLetterState], int]:
        return Counter((letter.partition, letter.state) for letter in await self.dead_letters(limit=2**31))

    async def dead_letter_decide(self, letter_id: int, state: DeadLetterState) -> DeadLetter:
        async with self.transaction() as transaction:
            letter = rules.check_decision(letter_id, await self.dead_letter_get(letter_id), state)
            letter.state = state
            await transaction.dead_letter_change(letter)
        await self._wake()
        return letter

    async def _wake(self) -> None:
        await self._opened().command("INCR", self._keys.changed)

    async def inbox_prune(self, before_s: float, limit: int) -> int:
        return int(await self._opened().script(scripts.PRUNE, [self._keys.inbox], [repr(before_s), limit]))

    async def responses_prune(self, before_s: float, limit: int) -> int:
        keys = [self._keys.responses_at, self._keys.responses]
        return int(await self._opened().script(scripts.PRUNE, keys, [repr(before_s), limit]))

    # --- workers of one service

    async def heartbeat(self, worker: str, ttl_s: float, acquire: Sequence[str], release: Sequence[str]) -> LeaseTable:
        keys = [self._keys.workers, self._keys.leases, self._keys.meta]
        names = pack([list(acquire), list(release)])
        arguments = [worker, round(ttl_s * 1000), names, secrets.token_hex(4), VERSION]
        return _lease_table(await self._opened().script(scripts.HEARTBEAT, keys, arguments))

    async def leases(self) -> LeaseTable:
        return _lease_table(await self._opened().script(scripts.LEASES, [self._keys.workers, self._keys.leases], []))

    async def resign(self, worker: str) -> None:
        await self._opened().script(scripts.RESIGN, [self._keys.workers, self._keys.leases], [worker])

    async def hindrances(self) -> Sequence[str]:
        return ()


async def _check_memory(server: Server) -> None:
    """Refuse a server that throws keys away when memory is short: a view would lose rows without a word."""
    text = (await server.command("INFO", "memory")).decode()
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    if found.get("maxmemory", "0") != "0" and found.get("maxmemory_policy", "noeviction") != "noeviction":
        raise UsageError(
            f"{server.place}: maxmemory-policy is {found['maxmemory_policy']}, so the server may throw away rows and "
            "checkpoints when its memory is full: set it to noeviction",
            found=found["maxmemory_policy"],
        )


def _pairs(words: Sequence[bytes]) -> dict[bytes, bytes]:
    return dict(zip(words[::2], words[1::2], strict=True))


def _lease_table(answer: Any) -> LeaseTable:
    workers, leases = answer
    found = [
        Lease(name.decode(), owner.decode(), left / 1000)
        for name, owner, left in zip(leases[::3], leases[1::3], leases[2::3], strict=True)
    ]
    return LeaseTable(
        tuple(sorted(each.decode() for each in workers)), tuple(sorted(found, key=lambda each: each.name))
    )
