"""One version of a view, running: it is fed as long as the view's row names it, and asked when the row says so.

The row is looked at now and then. Nothing hangs on how soon: a version that is not active any more is fed like the one
that is, until it is dropped, and a drop waits until nobody feeds it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from ensue.config import Settings
from ensue.definition import ServiceDefinition
from ensue.engine.books.views import ViewBook
from ensue.engine.endings import ends_loop
from ensue.engine.home import Home
from ensue.engine.readiness import Detailed, ReadyLimits
from ensue.engine.runtime import Runtime
from ensue.engine.seeding import Seed, check_sessions
from ensue.engine.view_versions import bounds_of
from ensue.engine.worker import is_gone
from ensue.errors import EnsueError, RetryableError, UsageError, ViewNotReady
from ensue.ports import Broker, Place, RowReader, Store
from ensue.texts import logger
from ensue.token import Token
from ensue.views import states
from ensue.views.progress import Progress, progress
from ensue.views.states import State, ViewRow

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

log = logger("ensue.view")

_PAUSE_MAX_S = 5.0
#: Who decided, where nobody was asked: the first version of all.
FIRST = "the first process"


@dataclasses.dataclass(frozen=True, slots=True)
class Seen:
    """What was known of the view at the last look. fed: somebody feeds this version. progress: of this version, while
    it is building."""

    row: ViewRow
    fed: bool = False
    progress: Progress = Progress(0, 0)  # noqa: RUF009  # a frozen value


class ViewRuntime(Runtime):
    """base: the store of the place without a version, not open. place: this version's, where `store` is. seed: what it
    begins with, by the book of the view's row. The others: see `Runtime`.

    not_seeded: why the last attempt to seed it failed; another one follows."""

    def __init__(
        self,
        definition: ServiceDefinition,
        store: Store,
        broker: Broker,
        settings: Settings,
        *,
        base: Store,
        place: Place,
        name: str,
        version: int,
        seed: Callable[[ViewBook], Seed | None] = lambda book: None,
        **others: Any,
    ) -> None:
        super().__init__(definition, store, broker, settings, **others)
        self.book = ViewBook(base, name, self.context.random)
        self._seed = seed(self.book)
        self._seeding: asyncio.Task[None] | None = None
        self._seed_again_at = -math.inf
        self.not_seeded: EnsueError | None = None
        self.version = version
        self._base = base
        self._place = place
        self._work = True
        self._fed_here = False
        self._seen = Seen(ViewRow(name))
        self._watching_row: asyncio.Task[None] | None = None
        self._turned = asyncio.Event()

    @property
    def row(self) -> ViewRow:
        """As it was at the last look."""
        return self._seen.row

    # ------------------------------------------------------------------------------------------------------ its life

    async def start(self, *, work: bool = True) -> None:
        if self._watching_row is not None:
            return
        self._home, self._work = Home(self.definition.name), work
        if self._seed is not None:
            check_sessions(self.definition, self.store)
        try:
            await self._patiently(self._open_base, log)
            await self._look()
        except BaseException:
            await self.stop()
            raise
        if not self._fed_here:
            log.info("%s: %s", self.definition.name, self._why_not())
        self._watching_row = asyncio.create_task(self._watch_row(), name=f"ensue {self.definition.name} view")

    async def stop(self) -> None:
        watching, self._watching_row = self._watching_row, None
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
        await self._stop_seeding()
        try:
            await self._leave()
        finally:
            await self._base.close()

    async def _open_base(self) -> None:
        await self._base.open()
        await self.book.prepare()

    async def _row(self) -> ViewRow:
        row = await self.book.row()
        return await self.book.change(self._known) if row.state is State.NEW else row

    def _known(self, row: ViewRow, now: float) -> ViewRow:
        """The first version of all is active. Where the server has forgotten the row, it is as it was known here: the
        versions are filled again, and nobody else is asked."""
        if row.state is not State.NEW:
            return row  # another process was quicker
        if self._seen.row.state is not State.NEW:
            log.warning("%s: the view's row is gone, and written again as it was", self.definition.name)
            return msgspec.structs.replace(self._seen.row, revision=row.revision)
        return states.begin(self.version, FIRST)(row, now)

    async def _watch_row(self) -> None:
        context = self.context
        pause = context.config.poll_interval_s
        while True:
            await context.clock.sleep(pause)
            try:
                await self._look()
                pause = context.config.poll_interval_s
            except RetryableError as error:
                pause = min(pause * 2, max(_PAUSE_MAX_S, context.config.poll_interval_s))
                log.warning("%s: its row: %s; again in %.1f s", self.definition.name, error, pause)
            except BaseException as error:
                if ends_loop(error):
                    raise
                pause = min(pause * 2, max(_PAUSE_MAX_S, context.config.poll_interval_s))
                log.exception("%s: unexpected at its row; again in %.1f s", self.definition.name, pause)

    async def _look(self) -> None:
        """See what the row says, and do it."""
        row, version = await self._row(), self.version
        building = row.building == version
        self.context.brake.set(paused=building and row.state is State.PAUSED, rate=row.rate if building else 0.0)
        if version not in row.fed:
            await self._stop_seeding()
        if version in row.fed and not self._fed_here:
            await self._place.make()
            if await self._is_whole(row):
                await super().start(work=self._work)
                self._fed_here = True
                self._turned.set()
        elif version not in row.fed and self._fed_here:
            log.warning("%s: it was dropped: not fed any more, %s", self.definition.name, _stands(row))
            self._seen = Seen(row)  # nobody gets a session from here on
            await self._leave()
        if row != self._seen.row and row.active != self._seen.row.active and self._seen.row.active:
            log.warning("%s: %s", self.definition.name, _stands(row))
        self._seen = Seen(row, await self._is_fed(row), await self._progress() if building else Progress(0, 0))

    async def _is_whole(self, row: ViewRow) -> bool:
        """Whether this version has what it begins with, and may be fed. A process that works sees to it meanwhile."""
        if self._seed is None or row.building != self.version:
            return True
        seeding, clock = self._seeding, self.context.clock
        if seeding is not None and not seeding.done():
            return False
        try:
            if seeding is not None:
                self._seeding = None
                await seeding
            if await self._seed.done():
                self.not_seeded = None
                return True
        except EnsueError as error:
            self.not_seeded = error
            self._seed_again_at = clock.monotonic() + _PAUSE_MAX_S
            log.error("%s; again in %.1f s", error, _PAUSE_MAX_S)
        if self._work and row.state is not State.PAUSED and clock.monotonic() >= self._seed_again_at:
            self._seeding = asyncio.create_task(self._seed.plant(), name=f"ensue {self.definition.name} seed")
        return False

    async def _stop_seeding(self) -> None:
        """What was made by now is rolled back."""
        seeding, self._seeding = self._seeding, None
        if seeding is not None:
            seeding.cancel()
            await asyncio.gather(seeding, return_exceptions=True)

    async def _leave(self) -> None:
        self._fed_here = False
        self._turned.set()
        await super().stop()

    async def _is_fed(self, row: ViewRow) -> bool:
        if self._fed_here and self._work:
            return True
        if not self._fed_here or row.previous != self.version:
            return self._fed_here
        return any(not is_gone(each) for each in (await self.context.books.leases()).workers)

    async def _progress(self) -> Progress:
        """As far as the log tells now."""
        topics, partitions = self.definition.subscribed_topics, self.settings.partitions
        wanted = [(topic, number) for topic in topics for number in range(partitions)]
        try:
            found = await self.context.books.checkpoints()
            bounds = await bounds_of(self.context.broker, wanted)
        except EnsueError:  # the log is down, or not reached yet: what was known is as good as anything
            return self._seen.progress
        checkpoints = {(each.topic, each.number): found[each] for each in found}
        return progress(checkpoints, bounds, wanted, self.context.clock.monotonic())

    async def wait_failed(self) -> None:
        while True:
            self._turned.clear()
            worker = self.worker
            waits: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._turned.wait())]
            if worker is not None:
                waits.append(asyncio.ensure_future(worker.wait_failed()))
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in waits:
                    each.cancel()
                await asyncio.gather(*waits, return_exceptions=True)
            if worker is not None and worker.failed is not None:
                return

    # ------------------------------------------------------------------------------------------------ who asks it

    def check_ready(self) -> None:
        """Raise ViewNotReady unless this version is the one to ask, or was and is fed as before."""
        row, version = self._seen.row, self.version
        if self._fed_here and (row.active == version or (row.previous == version and self._seen.fed)):
            return
        found = self._seen.progress
        raise ViewNotReady(
            self._why_not(),
            view=row.name,
            version=version,
            active=row.active,
            done=found.done,
            total=found.total,
        )

    def _why_not(self) -> str:
        row, version, found = self._seen.row, self.version, self._seen.progress
        if row.building == version and self._seed is not None and not self._fed_here:
            last = f"; the last attempt: {self.not_seeded}" if self.not_seeded is not None else ""
            return (
                f"view {row.name}: version {version} is being seeded from version {self._seed.seeding.from_version}; "
                f"version {row.active} answers till then{last}"
            )
        if row.building == version:
            paused = ", paused" if row.state is State.PAUSED else ""
            far = f"{found.done} of {found.total} records ({found.share:.1%}){paused}"
            return f"view {row.name}: version {version} is being built, {far}; version {row.active} answers till then"
        if row.previous == version:
            return f"view {row.name}: version {version} was active before, and nobody feeds it; {_stands(row)}"
        return (
            f"view {row.name}: version {version} is not built; {_stands(row)}: ensue views rebuild builds the version "
            "that the code has"
        )

    def reading(self) -> AbstractAsyncContextManager[AsyncSession]:
        self.check_ready()
        return super().reading()

    def rows(self) -> RowReader:
        self.check_ready()
        return super().rows()

    async def caught_up(self, token: Token | str, timeout_s: float) -> None:
        """Nobody waits for a version that is not asked, nor on for one that is dropped meanwhile. It is its own
        watermarks that are waited for, so a token holds across a swap."""
        self.check_ready()
        try:
            await super().caught_up(token, timeout_s)
        except RetryableError:
            self.check_ready()  # which says more
            raise

    def step(self) -> NoReturn:
        raise UsageError(
            f"view {self._seen.row.name}: its rows follow from events alone: there are no steps from outside"
        )

    # -------------------------------------------------------------------------------------------------- what it says

    async def unhealthy(self, answer_s: float = 2.0) -> list[str]:
        if self._fed_here:
            return await super().unhealthy(answer_s)
        try:
            async with asyncio.timeout(answer_s):
                await self._base.now()
        except TimeoutError:
            return [f"the database did not answer within {answer_s:g} s"]
        except EnsueError as error:
            return [Detailed(f"the database: {error}", f"the database: {type(error).__name__}")]
        return []

    async def readiness(self, limits: ReadyLimits | None = None) -> list[str]:
        try:
            self.check_ready()
        except ViewNotReady as error:
            failed = f"version {self.version} could not be seeded: {type(self.not_seeded).__name__}"
            return [str(error) if self.not_seeded is None else Detailed(str(error), failed)]
        return await super().readiness(limits)

    async def remarks(self, limits: ReadyLimits | None = None) -> list[str]:
        gone = [
            f"goes on without positions {each.after + 1} to {each.through} of {each.source} in {each.topic}/"
            f"{each.partition}, accepted by {each.by}"
            for each in self._seen.row.accepted_of(self.version)
        ]
        return gone + (await super().remarks(limits) if self._fed_here else [])


def _stands(row: ViewRow) -> str:
    return f"version {row.active} is active" if row.active else "no version is active"
