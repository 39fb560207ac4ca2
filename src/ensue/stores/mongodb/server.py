"""The connection to a server: its driver's errors become ours here, and every wait has an end."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC as _UTC
from typing import Any
from urllib.parse import unquote, urlsplit

from pymongo import AsyncMongoClient, WriteConcern
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    DuplicateKeyError,
    InvalidURI,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from ensue.addresses import Options, check_encoded
from ensue.errors import StoreConflict, StoreLost, StoreUnavailable, UsageError
from ensue.tls import demanded

Document = dict[str, Any]
#: How long a server may take to answer or to be reached, milliseconds.
ANSWER_MS = 10_000
_AUTHENTICATION = (13, 18)
#: What a server says that cannot do it now: it is not the primary (any more), goes down, does not reach the others, has
#: no room on its disk, or was not done in time. Codes of MongoDB's `error_codes.yml`; 43 is a cursor that went with the
#: server it was on.
_NOT_NOW = frozenset({6, 7, 43, 50, 64, 89, 91, 112, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436, 14031})


class Server:
    """url: `mongodb://[user:password@]host:port/database`; without a database, `default` is its name."""

    def __init__(self, url: str, default: str) -> None:
        check_encoded("database URL", url)
        parts = urlsplit(url)
        name = unquote(parts.path.strip("/")) or default
        hosts = parts.netloc.rpartition("@")[2]
        self.place = f"{parts.scheme}://{hosts}/{name}"
        options = Options("database URL", parts.query).left
        tls: dict[str, Any] = {}
        if demanded("database URL", parts.scheme, options) and not {"tls", "ssl"} & {each.lower() for each in options}:
            tls["tls"] = True  # else pymongo takes tlsInsecure=true, say, for what it would do if it were to speak TLS
        try:
            # Whether a write without an answer happened must be found out, not tried again: no retries by the driver.
            with warnings.catch_warnings():
                warnings.simplefilter("error", UserWarning)  # of an option that it does not know, and leaves out
                self._client: AsyncMongoClient[Document] = AsyncMongoClient(
                    url,
                    retryWrites=False,
                    serverSelectionTimeoutMS=ANSWER_MS,
                    connectTimeoutMS=ANSWER_MS,
                    socketTimeoutMS=ANSWER_MS,
                    **tls,
                )
        except (ConfigurationError, InvalidURI, ValueError, UserWarning) as error:
            raise UsageError(
                f"{self.place}: the URL does not fit: {error} (its options: {', '.join(options) or 'none'})"
            ) from error
        # Acknowledged means: on the disks of a majority of the servers.
        self._database = self._client.get_database(name, write_concern=WriteConcern("majority", j=True))

    def collection(self, name: str) -> AsyncCollection[Document]:
        return self._database[name]

    async def names(self) -> list[str]:
        with self.translated():
            return await self._database.list_collection_names()

    async def drop(self) -> None:
        """Remove the whole database."""
        with self.translated():
            await self._client.drop_database(self._database)

    async def time(self) -> float:
        """The server's clock, seconds since the epoch."""
        with self.translated():
            answer = await self._client.admin.command("hello")
        return float(answer["localTime"].replace(tzinfo=_UTC).timestamp())

    async def close(self) -> None:
        await self._client.close()

    @contextmanager
    def translated(self) -> Iterator[None]:
        task = asyncio.current_task()
        cancelled = 0 if task is None else task.cancelling()
        try:
            yield
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError  # pymongo 4 swallows a cancellation while it connects
        except DuplicateKeyError as error:
            raise StoreConflict(
                f"{self.place}: another step inserted the same document first: do this one again"
            ) from error
        except OperationFailure as error:
            if error.code in _AUTHENTICATION:
                raise UsageError(
                    f"{self.place} refuses the user or password of the URL, or their rights (code {error.code})"
                ) from error
            if passing := _passing(error):
                raise StoreUnavailable(
                    f"{self.place} cannot do it now, and what of it is written is not known: {passing}"[:500]
                ) from error
            raise
        except PyMongoError as error:
            if isinstance(error, ConfigurationError | InvalidURI):
                raise
            raise StoreLost(f"{self.place} does not answer: {type(error).__name__}: {error}"[:500]) from error


def _passing(error: OperationFailure) -> str:
    """What of it is the server's state, and not what was asked of it; empty: nothing.

    A write without the acknowledgement of a majority may be rolled back when another server becomes the primary, so it
    never counts as done, whatever the answer says of its documents.
    """
    if isinstance(error, BulkWriteError):  # its own text would show documents
        unsure = error.details.get("writeConcernErrors", [])
        found = [*unsure, *(each for each in error.details.get("writeErrors", ()) if each.get("code") in _NOT_NOW)]
        return ", ".join(f"code {each.get('code')}: {each.get('errmsg')}" for each in found)
    if isinstance(error, WriteConcernError) or error.code in _NOT_NOW:
        return f"code {error.code}: {error}"
    return ""
