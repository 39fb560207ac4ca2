"""The versions of a view: how they stand, and opened for deciding."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec

from ensue.adapters import make_broker
from ensue.addresses import shown
from ensue.config import database_variable
from ensue.deciding import Deciding
from ensue.engine.books import Books
from ensue.engine.sealing import SealedBroker
from ensue.engine.view_versions import Versions
from ensue.errors import UsageError
from ensue.ports import Broker, Store
from ensue.view import View
from ensue.views.ready import Kind, Obstacle
from ensue.views.states import Accepted, State, ViewRow

#: Of a decision's row.
ACCEPT_MISSING = "views accept-missing"


@dataclasses.dataclass(frozen=True, slots=True)
class OpenedView:
    """The place of a view that has no version, and the log: open."""

    versions: Versions
    broker: Broker
    store: Store
    """Where the view's row is."""

    @property
    def books(self) -> Books:
        return Books(self.store, self.versions.name)

    def deciding(self, by: Deciding, action: str) -> Versions:
        """The versions, for somebody who decides: each change of the view's row is written down as that, in the same
        transaction. action: `views swap`, say."""
        return dataclasses.replace(self.versions, book=self.versions.book.decided(by, action))


@asynccontextmanager
async def opened_view(view: View, *, make: bool = False) -> AsyncIterator[OpenedView]:
    """make: the view's base and the log, if they are not there; else that is a UsageError."""
    settings, base = view.settings(), view.make_base()
    broker = SealedBroker(make_broker(settings.broker), view.signs_as, settings.trust)
    if not make:
        if not await base.exists():
            raise UsageError(
                f"view {view.view} has no database at {shown(settings.database)}: run it once; is ENSUE_HOME or "
                f"{database_variable(view.view)} set as the view has it?"
            )
        if not await broker.exists():
            raise UsageError(f"there is no broker at {shown(settings.broker)}: start a service, or set ENSUE_BROKER")
    await base.open()
    try:
        versions = view.versions(base)
        await versions.book.prepare()
        await broker.open()
        yield OpenedView(versions, broker, base)
    finally:
        await broker.close()
        await base.close()


class Missing(msgspec.Struct, frozen=True):
    """What a version of a view lacks, and may never get. positions: how many. seen: a hash of which, which whoever
    accepts them sends back. obstacles: what each of them is, those that are `incomplete`."""

    positions: int
    seen: str
    obstacles: list[Obstacle]


def _missing_of(found: Iterable[Obstacle]) -> Missing:
    lacks = [each for each in found if each.kind is Kind.INCOMPLETE]
    said = msgspec.json.encode([[each.topic, each.partition, each.source, each.after, each.through] for each in lacks])
    seen = hashlib.blake2s(said, digest_size=8).hexdigest()
    return Missing(sum(each.through - each.after for each in lacks), seen, lacks)


async def missing(access: OpenedView, version: int) -> Missing:
    return _missing_of(await access.versions.missing(version, access.broker))


async def accept_missing(access: OpenedView, version: int, positions: int, by: Deciding, seen: str) -> list[Accepted]:
    """Have a version go on without what it lacks; is kept and shown for ever after. positions: how many, as somebody
    has confirmed them; seen: and which, as `Missing.seen` had it. Raises UsageError when something else is missing now.
    """
    found = await missing(access, version)
    name = access.versions.name
    if found.positions != positions:
        raise UsageError(
            f"view {name}: {found.positions} positions are missing in version {version} now, and {positions} were "
            "confirmed: nothing is accepted; look at it again"
        )
    if seen != found.seen:
        raise UsageError(
            f"view {name}: {positions} positions are missing in version {version}, but others than when it was looked "
            "at: nothing is accepted; look at it again"
        )
    versions = access.deciding(by, ACCEPT_MISSING)
    return await versions.accept_missing(version, by.actor, access.broker, found.obstacles)


class VersionStatus(msgspec.Struct, kw_only=True):
    """One version. role: active, previous, building, or building, paused. done, total: events. workers: that feed it.
    obstacles: what keeps it from becoming the active one. missing: what it may never get, the active one too.
    seeded_from: the version whose rows it began with; 0: none."""

    version: int
    role: str
    done: int
    total: int
    workers: list[str]
    obstacles: list[Obstacle]
    missing: Missing
    seeded_from: int


class ViewStatus(ViewRow, frozen=True, kw_only=True):
    """A view's row, and its versions, the active one first."""

    versions: list[VersionStatus]


async def view_status(view: View) -> ViewStatus:
    """How the versions of a view stand. Raises UsageError when it has no database, or there is no log."""
    async with opened_view(view) as access:
        return await status_in(access)


async def status_in(access: OpenedView) -> ViewStatus:
    row = await access.versions.book.row()
    found = [await _version(access, row, number) for number in row.fed]
    return ViewStatus(**msgspec.structs.asdict(row), versions=found)


async def _version(access: OpenedView, row: ViewRow, number: int) -> VersionStatus:
    versions = access.versions
    paused = ", paused" if row.state is State.PAUSED else ""
    role = "active" if number == row.active else "previous" if number == row.previous else f"building{paused}"
    found = await versions.obstacles(number, access.broker)
    obstacles = [] if number == row.active else found
    progress = await versions.progress(number, access.broker)
    workers, seeded_from = await versions.workers(number), await versions.seeded_from(number)
    return VersionStatus(
        version=number, role=role, done=progress.done, total=progress.total, workers=workers, obstacles=obstacles,
        missing=_missing_of(found), seeded_from=seeded_from,
    )  # fmt: skip
