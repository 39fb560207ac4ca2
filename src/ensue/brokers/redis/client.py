"""The connection to Redis: URL, time limits, scripts, and Redis's errors as ours."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import BlockingConnectionPool, Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, RedisError

from ensue.addresses import Options
from ensue.errors import BrokerUnavailable, UsageError
from ensue.redis_url import redis_url

#: `XADD 0-*`, and XINFO's `entries-added`.
VERSION_MIN = (7, 0)
_CONNECTIONS_MAX = 8


class Client:
    """A pool of connections to one Redis. options: what the URL says to us, the rest is redis-py's.

    timeout_s: how long to wait for a connection, or for an answer.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(redis_url("broker URL", url))
        options = Options("broker URL", parts.query)
        self.prefix = options.text("prefix")
        self.timeout_s = options.number("timeout_s", 5, 0.001, 3600)
        self._url = urlunsplit(parts._replace(query=options.left_query))
        # What may be shown: no user, no password, no options.
        self.place = f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"
        self._redis: Redis | None = None
        self._pool: BlockingConnectionPool | None = None

    @property
    def is_open(self) -> bool:
        return self._redis is not None

    async def open(self) -> None:
        """Connect. Raises BrokerUnavailable after timeout_s, UsageError on an old server or refused credentials."""
        if self._redis is not None:
            return
        self._make()
        try:
            await self._check_version()
        except TypeError as error:  # redis-py's word for an option that it does not know, at the first connection
            await self.close()
            raise UsageError(f"the URL of the broker at {self.place}: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        redis, pool = self._redis, self._pool
        self._redis = self._pool = None
        if redis is not None and pool is not None:
            with contextlib.suppress(RedisError, OSError):  # a connection that is broken is closed already
                await redis.aclose()
                await pool.disconnect()

    def _make(self) -> None:
        try:
            # RESP 2 whatever the server speaks, so that replies have one shape. An answer that does not come is an
            # error at once: the engine's loops wait and try again, and they know what may be sent twice.
            pool = BlockingConnectionPool.from_url(
                self._url, protocol=2, max_connections=_CONNECTIONS_MAX, timeout=self.timeout_s,
                socket_timeout=self.timeout_s, socket_connect_timeout=self.timeout_s,
                retry=Retry(NoBackoff(), 0), health_check_interval=0,
            )  # fmt: skip
        except (ValueError, TypeError) as error:
            raise UsageError(f"the URL of the broker at {self.place}: {error}") from error
        self._pool = pool
        self._redis = Redis(connection_pool=pool)

    async def _check_version(self) -> None:
        with self.ours():
            try:
                info = await self._opened().info("server")
            except AuthenticationError as error:
                raise UsageError(f"redis at {self.place} refuses the user or password of its URL: {error}") from error
            except NoPermissionError:
                return  # an account that may not ask; a server too old refuses the first append
        if info.get("redis_mode") == "cluster":
            raise UsageError(
                f"redis at {self.place} is a cluster: an append writes several streams in one script, which a cluster "
                "cannot. Use a single server, with replicas if you like"
            )
        version = str(info.get("redis_version", ""))
        found = tuple(int(each) if each.isdigit() else 0 for each in version.split(".")[:2])
        if found < VERSION_MIN:
            raise UsageError(
                f"redis at {self.place} is version {version}, expected 7.0 or newer (XADD with 0-*)",
                found=version, expected="7.0",
            )  # fmt: skip

    # --- calls

    async def call(self, *arguments: Any) -> Any:
        """Run one command. Raises BrokerUnavailable."""
        with self.ours():
            return await self._opened().execute_command(*arguments)  # type: ignore[no-untyped-call]

    async def run(self, script: str, keys: Sequence[str], arguments: Sequence[Any] = ()) -> Any:
        """Run a script, which Redis keeps by its digest until it is restarted. Raises BrokerUnavailable."""
        redis = self._opened()
        with self.ours():
            execute: Callable[..., Awaitable[Any]] = redis.execute_command
            try:
                return await execute("EVALSHA", _digest(script), len(keys), *keys, *arguments)
            except NoScriptError:
                return await execute("EVAL", script, len(keys), *keys, *arguments)

    async def connection(self) -> Connection:
        """A connection of its own, not of the pool, for whoever blocks on it. Raises BrokerUnavailable."""
        self._opened()
        assert self._pool is not None
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            with self.ours():
                await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        return connection

    @contextlib.contextmanager
    def ours(self) -> Iterator[None]:
        """Around one call of redis-py: its errors become ours, and a cancellation that it swallowed comes after all.

        (redis-py sends under `asyncio.wait_for`, which before Python 3.12 returns as if nothing was when the
        cancellation comes together with the result.)
        """
        task = asyncio.current_task()
        before = task.cancelling() if task is not None else 0
        try:
            yield
        except (RedisError, OSError) as error:
            raise self.unavailable(error) from error
        if task is not None and task.cancelling() > before:
            raise asyncio.CancelledError

    def unavailable(self, error: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(f"redis at {self.place}: {error or type(error).__name__}", place=self.place)

    def not_open(self) -> BrokerUnavailable:
        return BrokerUnavailable(f"the broker at {self.place} is not open", place=self.place)

    def _opened(self) -> Redis:
        if self._redis is None:
            raise self.not_open()
        return self._redis


_digests: dict[str, str] = {}


def _digest(script: str) -> str:
    found = _digests.get(script)
    if found is None:
        # Redis names scripts by their SHA-1; nothing is kept secret by it.
        found = _digests[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
    return found
