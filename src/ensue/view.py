"""`View`: one version of a view, declared as a service is. What users import; it knows engine and adapters."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ensue.adapters import make_broker, make_place, make_store
from ensue.app import Service
from ensue.command import SERVICE_NAME
from ensue.config import EngineConfig, Settings, load_settings
from ensue.dependable import dependable
from ensue.engine.books.views import ViewBook
from ensue.engine.clock import SystemClock
from ensue.engine.seeding import Seed
from ensue.engine.view_runtime import ViewRuntime
from ensue.engine.view_versions import Versions
from ensue.errors import UsageError
from ensue.handling import name_of, written_in
from ensue.ports import Place, Store
from ensue.repository import TableRepository
from ensue.retry import Retry
from ensue.signatures import Trust
from ensue.step import Step
from ensue.tracing import TraceMaker
from ensue.views.seeding import Seeding

if TYPE_CHECKING:
    from sqlalchemy import MetaData

S = TypeVar("S", bound=Callable[..., AsyncIterator[Any]])

_VERSION_MAX = 999_999
#: What a service may be declared with, and no view.
_REFUSED = {
    "publishes": "publishes nothing",
    "calls": "sends no commands",
    "prunes": "takes nothing out of a log, from which it may be built again",
    "outside_max": "has no sagas",
}


class View(Service):
    """A view: `history = View("history", version=1)`, with handlers as of a service, `@history.on`.

    It publishes nothing, and each version of it lives in a place of its own, which is built from the log beside the
    one that is asked, and thrown away when it is not wanted any more: raise `version` when the handlers, or the tables,
    are to be others. The first version of all is asked from the first; a later one after `ensue views rebuild` and
    `ensue views swap`. Settings are the view's, whatever the version: ENSUE_HISTORY_DATABASE.

    version: from 1; also part of the subscription's name, `history@1`. The others: see `Service`.
    """

    def __init__(
        self,
        name: str,
        *,
        version: int,
        repositories: Iterable[TableRepository[Any]] = (),
        retry: Retry | None = None,
        lanes: int = 1,
        handler_limit_s: float | None = None,
        tables: MetaData | None = None,
        database: str | None = None,
        broker: str | None = None,
        partitions: int | None = None,
        engine: EngineConfig | None = None,
        trust: Trust | None = None,
        connect_args: Mapping[str, Any] | None = None,
        tracing: TraceMaker | None = None,
        **refused: Any,
    ) -> None:
        for each in refused:
            raise UsageError(
                f"View({name!r}, {each}=...): "
                + (
                    f"a view {_REFUSED[each]}: write a Service for that"
                    if each in _REFUSED
                    else "there is no such option"
                )
            )
        if not isinstance(version, int) or isinstance(version, bool) or not 1 <= version <= _VERSION_MAX:
            raise UsageError(f"View({name!r}, version={version!r}): expected a whole number from 1 to {_VERSION_MAX}")
        if not isinstance(name, str) or not SERVICE_NAME.fullmatch(name):
            raise UsageError(f"view name {name!r}: expected lower-case letters, digits, - and _, at most 63")
        super().__init__(
            name, publishes=(), repositories=repositories,
            retry=retry, lanes=lanes, handler_limit_s=handler_limit_s, tables=tables,
            database=database, broker=broker, partitions=partitions, engine=engine, trust=trust,
            connect_args=connect_args, tracing=tracing,
        )  # fmt: skip
        self.view = name
        self.version = version
        self.name = f"{name}@{version}"
        self.signs_as = name
        self.is_view = True
        self._seeding: Seeding | None = None

    # ------------------------------------------------------------------------------------------- what it begins with

    def seed(self, *, from_version: int) -> Callable[[S], S]:
        """Declare how this version's rows are made of another version's: `@history.seed(from_version=1)`, above
        `async def carry_over(old: AsyncSession)`, which reads that version's rows and yields this one's.

        The version then begins with these rows, and with how far the other one was when they were read, instead of at
        the log's beginning. All that `old` shows is of that one moment. What is yielded, any number of rows, is saved a
        page at a time: instances of classes that the handlers take, or that are in `repositories`, or mapped. On
        SQLite, PostgreSQL and MariaDB, of a view that reads nothing that the other version did not handle.
        Raises UsageError at once when the declaration cannot work.
        """
        where = f"@{self.view}.seed"
        if not isinstance(from_version, int) or isinstance(from_version, bool) or not 1 <= from_version <= _VERSION_MAX:
            raise UsageError(f"{where}(from_version={from_version!r}): expected the number of another version")
        if from_version == self.version:
            raise UsageError(
                f"{where}(from_version={from_version}): that is this version itself; give the view's code another "
                "version= than the one that its rows come from"
            )

        def declare(function: S) -> S:
            called = name_of(function)
            if self._seeding is not None:
                raise UsageError(
                    f"view {self.view} has two functions that seed it, {self._seeding.name} and {called}: yield "
                    "all its rows in one"
                )
            if not inspect.isasyncgenfunction(written_in(function)):
                raise UsageError(
                    f"{where}: {called} yields nothing: write `async def {called}(old: AsyncSession)`, with a `yield` "
                    "for each row"
                )
            try:
                inspect.signature(function).bind(None)
            except TypeError as error:
                raise UsageError(f"{where}: {called} is called with one session, {called}(old): {error}") from None
            self._seeding = Seeding(from_version, function, called)
            return function

        return declare

    def make_seed(self, book: ViewBook) -> Seed | None:
        """What this version begins with, by the book of the view's row; None: with nothing, from the log."""
        if self._seeding is None:
            return None
        settings, version = self.settings(), self._seeding.from_version
        return Seed(
            seeding=self._seeding, definition=self, version=self.version, book=book,
            old=lambda: self.make_store(self.place(f"v{version}")), new=self.make_store,
            old_name=f"{self.view}@{version}", partitions=settings.partitions, tables=self.tables,
            show_values=settings.engine.show_values,
        )  # fmt: skip

    # ------------------------------------------------------------------------------------------- where it is kept

    def settings(self) -> Settings:
        return load_settings(self.view, **self._given)  # type: ignore[arg-type]  # the keys are its parameters

    def place(self, suffix: str = "") -> Place:
        """Where a version of it lives, by default this one; suffix: another place beside it, `v1` or `check`, say."""
        return make_place(self.settings().database, self.view, suffix or f"v{self.version}", self._connect_args)

    async def make_place(self) -> None:
        """The table of the view's row, and this version's place: whoever runs it need not be allowed to make them."""
        base = self.make_base()
        await base.open()
        try:
            await ViewBook(base, self.view).prepare()
        finally:
            await base.close()
        await self.place().make()

    def make_store(self, place: Place | None = None) -> Store:
        """The store in a place, by default this version's, not open."""
        place = place or self.place()
        return make_store(place.url, place.service, self._connect_args)

    def make_base(self) -> Store:
        """The store without a version, not open: it holds the view's row."""
        return make_store(self.settings().database, self.view, self._connect_args)

    def versions(self, base: Store) -> Versions:
        """What there is to know of its versions, and to decide, by the base, which is open."""
        settings, book = self.settings(), ViewBook(base, self.view)
        return Versions(
            self.view,
            book,
            lambda version: self.place(f"v{version}"),
            self.make_store,
            self.subscribed_topics,
            settings.partitions,
            settings.engine.lease_ttl_s,
            SystemClock(),
            self.make_seed(book),
        )

    def make_runtime(self) -> ViewRuntime:
        settings = self.settings()
        place = self.place()
        self._warn_of_exposed(settings)
        return ViewRuntime(
            self, self.make_store(place), make_broker(settings.broker), settings, tables=self.tables,
            base=self.make_base(), place=place, name=self.view, version=self.version, seed=self.make_seed,
            tracing=self.tracing,
        )  # fmt: skip

    # ---------------------------------------------------------------------------------------- what only services do

    def _no(self, what: str) -> NoReturn:
        raise UsageError(
            f"view {self.view}: {what}: a view publishes nothing and does nothing by itself, its rows follow from "
            "events alone. That belongs into a Service"
        )

    def every(self, *arguments: Any, **options: Any) -> NoReturn:
        self._no("recurring steps")

    def handles(self, *arguments: Any, **options: Any) -> NoReturn:
        self._no("handlers of commands")

    def saga(self, *arguments: Any, **options: Any) -> NoReturn:
        self._no("sagas")

    def local(self, *arguments: Any, **options: Any) -> NoReturn:
        self._no("local steps of sagas")

    def outside(self, *arguments: Any, **options: Any) -> NoReturn:
        self._no("outside functions of sagas")

    async def call(self, *arguments: Any, **options: Any) -> NoReturn:
        self._no("commands")

    async def ended(self, saga: Callable[..., Awaitable[Any]], id: object, *, timeout: float) -> NoReturn:
        self._no("sagas")

    @dependable
    async def step(self) -> AsyncIterator[Step]:
        self._no("steps from outside")
        yield  # pragma: no cover  # what makes it a generator
