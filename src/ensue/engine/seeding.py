"""A version of a view that begins with the rows of another one: for when the log's beginning is gone, or long.

One transaction writes all of it: a mark, the checkpoints of the other version with its dead letters and claims, and the
rows that the user's function makes of that version's rows, a page at a time. All that is read is of one state of the
other version's database, so that the new one goes on exactly where that was. Whoever dies in the middle leaves nothing;
whoever comes at the same time waits at the mark, or is refused there. See docs/adr/0044.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from ensue.definition import ServiceDefinition
from ensue.engine.books import Books
from ensue.engine.books.views import ViewBook
from ensue.engine.reason import message_of, trace_of
from ensue.errors import EnsueError, UsageError
from ensue.mapped import SqlAlchemyRepository, is_mapped
from ensue.message import Checkpoint
from ensue.ports import Row, StepTransaction, Store, Table
from ensue.repository import Repository
from ensue.tables import CHECKPOINTS, CLAIMS, LETTERS
from ensue.texts import logger
from ensue.views import states
from ensue.views.ready import Where
from ensue.views.seeding import Seeding, check_from, check_seedable
from ensue.views.states import ViewRow

if TYPE_CHECKING:
    from sqlalchemy import MetaData
    from sqlalchemy.ext.asyncio import AsyncSession

log = logger("ensue.view")

#: So many rows are in memory at once.
PAGE = 500


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """book: of the view's row. old, new: make the stores of the two versions, not open. old_name: the subscription of
    the other one. tables: the user's, made where they are missing. show_values: in the text of what fails."""

    seeding: Seeding
    definition: ServiceDefinition
    version: int
    book: ViewBook
    old: Callable[[], Store]
    new: Callable[[], Store]
    old_name: str
    partitions: int
    tables: MetaData | None
    show_values: bool

    async def done(self) -> bool:
        """Whether all of it is there. Raises UsageError where the version was begun without it."""
        store = self.new()
        if not await store.exists():
            return False
        await store.open()
        try:
            return await self._done(Books(store, self.definition.name))
        finally:
            await store.close()

    async def _done(self, books: Books) -> bool:
        if await books.seeded_from():
            return True
        if await books.checkpoints():
            raise self._begun()
        return False

    def _begun(self) -> UsageError:
        view, version = self.book.subscription, self.version
        return UsageError(
            f"view {view}: version {version} was begun from the log, and its code wants it seeded from version "
            f"{self.seeding.from_version}: `ensue views drop` it, and rebuild it; or leave @{view}.seed out"
        )

    async def check(self, row: ViewRow) -> None:
        """Raise UsageError when there is nothing to seed from, or what is there does not fit."""
        check_from(row, self.version, self.seeding.from_version)
        check_sessions(self.definition, self.new())
        store = self.old()
        if not await store.exists():
            raise UsageError(
                f"view {row.name}: version {self.seeding.from_version} has no database to seed from: run it once"
            )
        await store.open()
        try:
            found = await Books(store, self.old_name).checkpoints()
        finally:
            await store.close()
        self._check({(each.topic, each.number): found[each] for each in found})

    def _check(self, found: dict[Where, Checkpoint]) -> None:
        wanted = {topic: self.definition.wanted(topic) for topic in self.definition.subscribed_topics}
        check_seedable(self.definition.name, self.seeding.from_version, found, wanted, self.partitions)

    async def plant(self) -> None:
        """Seed the version, unless it is seeded. Raises UsageError, and RetryableError: then nothing of it is there."""
        try:
            await self._plant()
        except EnsueError:
            raise
        except Exception as error:
            raise UsageError(
                f"view {self.definition.name} was not seeded, {self.seeding.name} or what it gave failed: "
                f"{type(error).__name__}: {message_of(error, values=self.show_values)}\n{trace_of(error)}".rstrip()
            ) from error

    async def _plant(self) -> None:
        await self.check(await self.book.row())
        old, new = self.old(), self.new()
        async with contextlib.AsyncExitStack() as stack:
            for store in (old, new):
                await store.open()
                stack.push_async_callback(store.close)
            books = Books(new, self.definition.name)
            if await self._done(books):
                return
            if self.tables is not None and (missing := await new.create_tables(self.tables)):
                raise UsageError(f"the place of view {self.definition.name} lacks {', '.join(missing)}: drop it")
            async with new.transaction() as transaction:
                await books.note_seed(transaction, self.seeding.from_version)  # who comes second goes no further
                async with old.reading() as session:
                    count = await self._from(session, transaction, books, Books(old, self.old_name))
        log.info("%s: %d rows made from version %d", self.definition.name, count, self.seeding.from_version)

    async def _from(self, session: AsyncSession, transaction: StepTransaction, books: Books, others: Books) -> int:
        """Return how many rows were made."""
        found = dict([others.in_row(row) async for page in _pages(session, CHECKPOINTS) for row in page])
        self._check({(each.topic, each.number): checkpoint for each, checkpoint in found.items()})
        # Decided before the checkpoints moved, so all that these go on without is in the row by now.
        await self.book.change(states.carry(self.seeding.from_version, self.version))
        topics = self.definition.subscribed_topics
        await books.save_checkpoints(
            transaction,
            [
                (each._replace(subscription=books.subscription), msgspec.structs.replace(checkpoint, revision=0))
                for each, checkpoint in found.items()
                if each.topic in topics
            ],
        )
        places = {each.place for each in found if each.topic in topics}
        at = LETTERS.columns.index("place")
        async for page in _pages(session, LETTERS):
            await transaction.insert_rows(LETTERS, [row for row in page if row[at] in places])
        async for page in _pages(session, CLAIMS):
            await transaction.insert_rows(CLAIMS, page)
        return await self._rows(session, transaction)

    async def _rows(self, session: AsyncSession, transaction: StepTransaction) -> int:
        count = 0
        page: list[Any] = []
        async with contextlib.aclosing(self.seeding.function(session)) as rows:  # type: ignore[type-var]  # a generator
            async for row in rows:
                if len(page) == PAGE or (page and type(row) is not type(page[0])):
                    await self._save(transaction, page)
                    page = []
                page.append(row)
                count += 1
            if page:
                await self._save(transaction, page)
        return count

    async def _save(self, transaction: StepTransaction, page: Sequence[Any]) -> None:
        repository = self._repository(type(page[0]))
        id_name = getattr(repository, "id_name", "")
        created = {getattr(each, id_name): each for each in page} if id_name else dict(enumerate(page))
        if len(created) < len(page):
            ids = [getattr(each, id_name) for each in page]
            twice = next(each for each in ids if ids.count(each) > 1)
            raise UsageError(f"{self.seeding.name} gave two {type(page[0]).__name__} with {id_name} {twice!r}")
        await repository.save(transaction, {}, created)
        await transaction.flush(forget=True)

    def _repository(self, cls: type) -> Repository[Any]:
        for handler in self.definition.all_handlers:
            if handler.entity is cls and handler.repository is not None:
                return handler.repository
        if (found := self.definition.repositories.get(cls)) is not None:
            return found
        if is_mapped(cls):
            return SqlAlchemyRepository(cls)
        raise UsageError(
            f"{self.seeding.name} gave a {cls.__qualname__}, expected rows of the view: instances of a class that its "
            "handlers take, that is in repositories=, or that SQLAlchemy maps"
        )


async def _pages(session: AsyncSession, kept: Table) -> AsyncIterator[Sequence[Row]]:
    from sqlalchemy import column, select, table

    columns: list[Any] = [column(name) for name in kept.columns]
    chosen = select(*columns).select_from(table(kept.name)).execution_options(yield_per=PAGE)
    async for page in (await session.stream(chosen)).partitions(PAGE):
        yield [tuple(row) for row in page]


def check_sessions(definition: ServiceDefinition, store: Store) -> None:
    """Raise UsageError for a database that cannot show one state of all rows while others write."""
    if not store.capabilities.sessions:
        raise UsageError(
            f"view {definition.name} is to be seeded, and its database has no transaction in which all rows and how "
            "far they are could be read as of one moment: SQLite, PostgreSQL and MariaDB have. Leave the seed out, and "
            "it is built from the log"
        )
