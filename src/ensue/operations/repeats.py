"""A request that decides something, sent again with its key: it decides once, and gets the same answer.

A bulk decision is many transactions, so its answer cannot be written with its effect, as a step's is. It is written
down first that it has begun, under its key; then it is done; then its answer takes that place. A process that dies in
between leaves the mark, and whoever sends the key again is told so, instead of deciding a second time.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

from ensue.engine.books import Books
from ensue.errors import IdempotencyConflict, IdempotencyMismatch, UsageError
from ensue.message import StoredResponse
from ensue.ports import Store

#: The status of an answer that is not there yet: none of HTTP's.
_BEGUN = 0


class Keeping(Protocol):
    """Where answers are kept: with what is decided."""

    @property
    def store(self) -> Store: ...

    @property
    def books(self) -> Books: ...


class Repeated:
    """What is known of a key. answer: what was answered the first time; None: it is to be done now, and then kept.
    started: set it once something is done that would be done again; then the mark stays, whatever is raised."""

    def __init__(self, access: Keeping, key: str, fingerprint: str, answer: StoredResponse | None) -> None:
        self._access, self._key, self._fingerprint = access, key, fingerprint
        self.answer = answer
        self.started = False

    @contextlib.contextmanager
    def at_most_once(self) -> Iterator[None]:
        """For what nothing but the key keeps from being done twice: when it fails, and not by a refusal, it may have
        been done all the same (a commit whose answer was lost), so the mark stays."""
        started, self.started = self.started, True
        try:
            yield
        except UsageError:
            self.started = started
            raise

    async def keep(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Keep the answer. Without a key nothing is kept."""
        if not self._key:
            return
        async with self._access.store.transaction() as transaction:
            response = StoredResponse(self._key, self._fingerprint, status, headers, body)
            await self._access.books.give_answer(transaction, response)


@contextlib.asynccontextmanager
async def done_once(access: Keeping, key: str, fingerprint: str) -> AsyncIterator[Repeated]:
    """Do in it what the request asks for, unless there is an answer; then `keep` its answer.

    key: of the request, made different for different actors and for different services; empty: it has none.
    fingerprint: a hash of what is asked for. What fails before anything is done may be asked for again under the same
    key: an exception takes the mark away, unless `started` is set.
    Raises IdempotencyMismatch for the key of another request; IdempotencyConflict while the first is at work, and when
    its process ended before it had an answer.
    """
    if not key:
        yield Repeated(access, key, fingerprint, None)
        return
    books = access.books
    async with access.store.transaction() as transaction:
        found = await books.answer(transaction, key)
        if found is None:
            await books.keep_answer(transaction, StoredResponse(key, fingerprint, _BEGUN, {}, b""))
    if found is not None:
        if found.fingerprint != fingerprint:
            raise IdempotencyMismatch(
                "this key came before with another request: a new request needs a new key", key=key
            )
        if found.status == _BEGUN:
            raise IdempotencyConflict(
                "a request with this key is at work, or ended before it could answer: look at the decisions for what "
                "it has done, and ask for the rest with a new key",
                key=key,
            )
        yield Repeated(access, key, fingerprint, found)
        return
    repeated = Repeated(access, key, fingerprint, None)
    try:
        yield repeated
    except Exception:
        if repeated.started:
            raise
        async with access.store.transaction() as transaction:
            await books.forget_answer(transaction, key)
        raise


def key_of(actor: str, method: str, path: str, key: str) -> str:
    """A client's key as this actor's own, for this method and path: two of them never meet.

    >>> len(key_of("ann", "POST", "/services/orders/letters/retry", "1"))
    64
    """
    return fingerprint_of(b"decision", *(each.encode("utf-8", "surrogatepass") for each in (actor, method, path, key)))


def fingerprint_of(*parts: bytes) -> str:
    """A hash in which nothing can move from one part into the next."""
    return hashlib.sha256(b"".join(b"%d:%s" % (len(each), each) for each in parts)).hexdigest()
