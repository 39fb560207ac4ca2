"""The connection to a server: its driver's errors become ours here, and every wait has an end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import redis.asyncio as driver
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ensue.errors import StoreLost, StoreUnavailable, UsageError
from ensue.redis_url import redis_url

T = TypeVar("T")

#: How long a server may take to answer or to be reached, seconds.
ANSWER_S = 10.0
#: What a server that is up, but cannot serve now, begins its answer with; and the same where redis-py knows the word,
#: and has cut it off.
_NOT_NOW = ("BUSY", "MISCONF", "NOREPLICAS")
#: What older servers say, without NOPERM, when a script does what its user may not.
_NOT_IN_SCRIPT = "user executing the script can't run this command"
_UNABLE = (ClusterDownError, OutOfMemoryError, ReadOnlyError, TryAgainError)


class Server:
    """One pool of connections. url: `redis://[user:password@]host:port/database`, `rediss://` with TLS."""

    def __init__(self, url: str) -> None:
        url = redis_url("database URL", url)
        parts = urlsplit(url)
        if parts.path.strip("/") and not parts.path.strip("/").isdigit():
            raise UsageError(
                f"{parts.scheme}: the path of the URL is {parts.path!r}, expected a database number, e.g. /0"
            )
        self.place = f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"
        # No retry by the driver: whether a commit that got no answer happened must be found out, not tried again.
        try:
            self._client = driver.Redis.from_url(
                url,
                retry=Retry(NoBackoff(), 0),
                socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S,
                decode_responses=False,
                protocol=2,
            )
            # Not connected, and not kept: it tells of an option that redis-py does not know.
            self._client.connection_pool.make_connection()  # type: ignore[no-untyped-call]  # the driver's
        except (TypeError, ValueError) as error:
            raise UsageError(f"{self.place}: the URL does not fit: {error}") from error
        self._client.response_callbacks.clear()  # answers as the protocol has them, whatever the driver's version
        self._scripts: dict[str, Any] = {}

    async def command(self, *words: Any) -> Any:
        """Send one command, which may be done twice, and return the answer as RESP2 has it. Raises StoreUnavailable."""

        def work() -> Awaitable[Any]:
            return self._client.execute_command(*words)  # type: ignore[no-untyped-call]  # the driver's

        with self.translated():
            return await self._twice(work)

    async def script(
        self, text: str, keys: Sequence[bytes], arguments: Sequence[Any], *, may_repeat: bool = True
    ) -> Any:
        """Run a script. may_repeat=False: when its answer is lost it is not known whether it was done."""
        script = self._scripts.get(text)
        if script is None:
            script = self._scripts[text] = self._client.register_script(text)

        def work() -> Awaitable[Any]:
            return cast(Awaitable[Any], script(keys=keys, args=arguments))

        with self.translated():
            return await (self._twice(work) if may_repeat else work())

    async def _twice(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """A server that was restarted has closed every connection of the pool: one failure must do for all of them."""
        try:
            return await work()
        except AuthenticationError:
            raise
        except ConnectionError:
            await self._client.connection_pool.disconnect(inuse_connections=False)
            return await work()

    async def close(self) -> None:
        await self._client.aclose()
        await self._client.connection_pool.disconnect()

    @contextmanager
    def translated(self) -> Iterator[None]:
        task = asyncio.current_task()
        cancelled = 0 if task is None else task.cancelling()
        try:
            yield
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError  # redis-py 8.1 swallows a cancellation while it greets the server
        except (AuthenticationError, AuthorizationError) as error:
            raise UsageError(
                f"{self.place} refuses the user or password of the URL ({type(error).__name__}): check them"
            ) from error
        except ResponseError as error:
            word = str(error).partition(" ")[0]
            if isinstance(error, _UNABLE) or word in _NOT_NOW:
                raise StoreUnavailable(f"{self.place} cannot serve now: {error}") from error
            if isinstance(error, NoPermissionError) or _NOT_IN_SCRIPT in str(error):
                raise UsageError(f"{self.place}: {error}: check the user's rights") from error
            raise
        except (RedisError, OSError) as error:
            raise StoreLost(f"{self.place} does not answer: {type(error).__name__}: {error}") from error
