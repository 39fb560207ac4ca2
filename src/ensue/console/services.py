"""Several services of one console or API: each found by its name, and opened for one request.

Opened, and closed again, by each request: so nothing is held of a database that goes down and comes back, a process
that sees no lifespan (a mounted application gets none) leaves nothing open, and one service's database that does not
answer hides nothing of the others.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Generic, TypeVar

from ensue.addresses import masked
from ensue.app import Service
from ensue.console import patience
from ensue.engine.books import Books
from ensue.errors import EnsueError, StoreUnavailable, UsageError
from ensue.operations.decisions import opened_decisions
from ensue.operations.flow.gather import Bounds
from ensue.operations.opening import Opened, opened
from ensue.operations.views import OpenedView, opened_view
from ensue.view import View

T = TypeVar("T")

#: How long a database, and a log, may take to open, and one service's answer of several: seconds.
OPEN_S, ANSWER_S = 5.0, 20.0

#: Of one search for a flow, whoever asks: records looked at in all, and events shown.
FLOW_RECORDS_MAX, FLOW_EVENTS_MAX = 100_000, 5_000


class NotFound(UsageError):
    """What a request names is not there."""


class NotOpened(StoreUnavailable):
    """A service's database is not there, or cannot be worked with by this process: somebody has to do what it says."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """Of one service of several. error: why there is none."""

    service: str
    found: T | None
    error: str = ""


class Services:
    """By their names, in the order in which they were given. targets: how the command line names each, MODULE:SERVICE,
    by its name, for what errors tell to do. answer_s: how long a whole request may take. Raises UsageError for none,
    for what is no service, and for two of one name."""

    def __init__(
        self,
        services: Sequence[Service],
        targets: Mapping[str, str] | None = None,
        answer_s: float = patience.ANSWER_S,
    ) -> None:
        if not services:
            raise UsageError("name the services to see and steer, such as orders: there is none")
        self._services: dict[str, Service] = {}
        for each in services:
            if not isinstance(each, Service):
                raise UsageError(f"{each!r:.60} is a {type(each).__name__}, expected a Service or a View")
            if each.name in self._services:
                raise UsageError(f"service {each.name} is named twice: their leases and databases would be the same")
            self._services[each.name] = each
        self._targets = dict(targets or {})
        # One service that hangs must leave time for the answer that says so.
        self._share_s = answer_s * 2 / 3

    @property
    def names(self) -> list[str]:
        return list(self._services)

    @property
    def flow_bounds(self) -> Bounds:
        """What one search for a flow may cost."""
        return Bounds(FLOW_RECORDS_MAX, FLOW_EVENTS_MAX, self._share_s)

    @property
    def all(self) -> list[Service]:
        return list(self._services.values())

    def service(self, name: str) -> Service:
        """Raises NotFound, which names those that there are."""
        found = self._services.get(name)
        if found is None:
            raise NotFound(f"there is no service {name[:80]} here, only {_some(self._services)}")
        return found

    def view(self, name: str) -> View:
        """A service that is a View. Raises NotFound."""
        found = self.service(name)
        if not isinstance(found, View):
            views = [each.name for each in self.all if isinstance(each, View)]
            raise NotFound(f"{found.name} is a service, which has one state and no versions; views: {_some(views)}")
        return found

    @asynccontextmanager
    async def opened(self, name: str, *, broker: bool = False) -> AsyncIterator[Opened]:
        """A service's database, and with `broker` its log, as `ensue.operations.opening.opened` has them.

        Raises NotFound; NotOpened when there is no database, or not one of this Ensue's; StoreUnavailable when it does
        not answer within OPEN_S seconds.
        """
        service = self.service(name)
        async with AsyncExitStack() as stack:
            try:
                access = await stack.enter_async_context(
                    opened(service, broker=broker, answer_s=OPEN_S, target=self._targets.get(name, ""))
                )
            except UsageError as error:
                raise NotOpened(str(error)) from error
            yield access

    @asynccontextmanager
    async def opened_view(self, name: str, *, make: bool = False) -> AsyncIterator[OpenedView]:
        """The place of a view that has no version, and the log. make: them, if they are not there. Raises as `opened`
        does, for the log too."""
        view = self.view(name)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(OPEN_S):
                    access = await stack.enter_async_context(opened_view(view, make=make))
            except UsageError as error:
                raise NotOpened(str(error)) from error
            except TimeoutError as error:
                raise StoreUnavailable(
                    f"view {view.view}: database and log did not open within {OPEN_S:g} s"
                ) from error
            yield access

    @asynccontextmanager
    async def opened_decisions(self, name: str) -> AsyncIterator[list[Books]]:
        """Where the decisions about a service are, see `ensue.operations.decisions`. Raises as `opened` does."""
        service = self.service(name)
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(OPEN_S):
                    books = await stack.enter_async_context(opened_decisions(service))
            except UsageError as error:
                raise NotOpened(str(error)) from error
            except TimeoutError as error:
                raise StoreUnavailable(f"service {name}: its database did not open within {OPEN_S:g} s") from error
            yield books

    async def each(
        self,
        ask: Callable[[Opened], Awaitable[T]],
        names: Iterable[str] | None = None,
        *,
        broker: bool = False,
        answer_s: float | None = None,
    ) -> list[Answer[T]]:
        """Ask each service, at once; those that fail, or take longer than answer_s (None: ANSWER_S), say why, and keep
        nothing back of the others. names: these alone. Raises NotFound for one that is none."""
        wanted = [self.service(each).name for each in (self.names if names is None else names)]
        return list(await asyncio.gather(*(self._one(each, ask, broker, answer_s) for each in wanted)))

    async def _one(
        self, name: str, ask: Callable[[Opened], Awaitable[T]], broker: bool, answer_s: float | None
    ) -> Answer[T]:
        async def asked() -> T:
            async with self.opened(name, broker=broker) as access:
                return await ask(access)

        return await self.answer(name, asked, answer_s)

    async def answer(self, name: str, ask: Callable[[], Awaitable[T]], answer_s: float | None = None) -> Answer[T]:
        """Ask for something of one service of several. What fails, or takes longer than answer_s (None: ANSWER_S), is
        an answer that says why."""
        patience_s = min(ANSWER_S, self._share_s) if answer_s is None else answer_s
        try:
            async with asyncio.timeout(patience_s):
                return Answer(name, await ask())
        except TimeoutError:
            return Answer(name, None, f"no answer within {patience_s:g} s")
        except EnsueError as error:
            return Answer(name, None, masked(str(error)))


def _some(names: Iterable[str]) -> str:
    return ", ".join(list(names)[:20]) or "none"
