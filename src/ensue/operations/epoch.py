"""A new epoch for a database that was put back from an older copy: is one needed, which were there, begin one."""

from __future__ import annotations

import msgspec

from ensue.deciding import Deciding, Decision
from ensue.engine import epoch
from ensue.engine.books import Books
from ensue.engine.epoch import Published
from ensue.engine.restored import find_contradiction
from ensue.engine.worker import is_gone
from ensue.errors import UsageError
from ensue.operations.decisions import last_decisions
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction

#: Of a decision's row.
NEW_EPOCH = "db new-epoch"
#: Among so many of the last ones epochs are looked for: nothing prunes decisions, and few of them begin an epoch.
_DECISIONS_MAX = 10_000


class Compared(msgspec.Struct, frozen=True):
    """A database and the log, compared. contradicted: the log holds records of this source that the database has not,
    behind all that was compared. needed: this database was put back from an older copy, and nothing of it is sent
    before a new epoch begins."""

    published: Published
    contradicted: bool

    @property
    def needed(self) -> bool:
        found = self.published
        return found.diverged_at is not None or self.contradicted or found.witness is not None

    @property
    def lines(self) -> list[str]:
        """What was found, for people."""
        found = self.published
        lines = [f"{found.source}: published through position {found.through}; {found.left} record(s) after it are new"]
        if found.diverged_at is not None:
            lines.append(f"  the log holds another life's records from position {found.diverged_at} on; they stay")
        elif self.contradicted:
            lines.append(f"  the log holds another life's records after position {found.through}; they stay")
        elif found.witness is not None:
            lines.append(f"  {found.witness}")
        else:
            lines.append("  the log holds nothing that this database did not write: it needs no new epoch")
        if found.missing:
            first, last = found.missing[0], found.missing[-1]
            lines.append(
                f"  {len(found.missing)} record(s) from {first} to {last} never reached the log; they go out first"
            )
        return lines


async def compared(access: Opened, published_through: int | None = None) -> Compared:
    """Compare what a database has written with what the log holds of it; changes nothing. published_through: the last
    position that went out, as somebody knows it. Raises UsageError when there is no log, or it cannot tell."""
    broker = access.need_broker()
    declared = access.service.publishes_to(await broker.topics())
    found = await epoch.find_published(access.store, broker, declared, published_through)
    return Compared(found, await find_contradiction(access.store, broker, declared) is not None)


class EpochStanding(msgspec.Struct, kw_only=True):
    """What a new epoch of a service would begin with. source: of the epoch that would end. published_through: the last
    position of it that the log has. left: records after it, which go out under the new source. missing: records up to
    it that never reached the log; they go out first. diverged_at: the first position at which the log has what this
    database did not write; null: none is known. needed: whether the log holds what this database did not write.
    workers: that live; none may."""

    source: str
    published_through: int
    left: int
    missing: int
    diverged_at: int | None
    needed: bool
    workers: list[str]


async def standing(access: Opened) -> tuple[Published, EpochStanding]:
    """Raises UsageError as `compared` does."""
    report = await compared(access)
    found = report.published
    workers = [each for each in (await access.books.leases()).workers if not is_gone(each)]
    return found, EpochStanding(
        source=found.source, published_through=found.through, left=found.left, missing=len(found.missing),
        diverged_at=found.diverged_at, needed=report.needed, workers=workers,
    )  # fmt: skip


def check_wanted(service: str, at: EpochStanding, source: str, published_through: int) -> None:
    """Raise UsageError unless the new epoch is needed, and begins with what somebody has seen."""
    if (at.source, at.published_through) != (source, published_through):
        raise UsageError(
            f"{service} is {at.source}, published through position {at.published_through} now, and it was {source}, "
            f"through {published_through}, when it was looked at: nothing is done; look at it again"
        )
    if at.workers:
        raise UsageError(
            f"{service}: worker {', '.join(at.workers)} lives, and none may while an epoch begins: stop it"
        )
    if not at.needed:
        raise UsageError(
            f"{service} needs no new epoch: the log holds nothing that its database did not write; who wants one all "
            "the same uses `ensue db new-epoch --force`"
        )


class Begun(msgspec.Struct, frozen=True):
    """An epoch that somebody has begun. left: records that went out under the new source, since the old one had not
    sent them. published_through: the last position that the log held of the old one."""

    decided: Decision
    source: str
    published_through: int
    left: int
    new_source: str


class _Before(msgspec.Struct):
    source: str
    published_through: int
    left: int


class _After(msgspec.Struct):
    source: str


async def epochs(books: list[Books]) -> list[Begun]:
    """The epochs that were begun after a database went back, in their order, of the last 10,000 decisions."""
    found: list[Begun] = []
    for each in await last_decisions(books, _DECISIONS_MAX):
        if each.action == NEW_EPOCH:
            before = msgspec.json.decode(each.before, type=_Before)
            after = msgspec.json.decode(each.after, type=_After)
            found.append(Begun(each, before.source, before.published_through, before.left, after.source))
    return found


async def begin_epoch(access: Opened, found: Published, by: Deciding) -> str:
    """Complete the old epoch in the log, then begin the new one; return the new source. No worker may run meanwhile.

    The decision is written right after the epoch has begun, which the store does by itself: a crash between the two
    loses it. Raises UsageError when the old epoch has ended meanwhile, or the log is not the one that held it.
    """

    async def note(transaction: StepTransaction, source: str) -> None:
        before = {"source": found.source, "published_through": found.through, "left": found.left}
        await access.books.record(transaction, by, NEW_EPOCH, found.source, before, {"source": source})

    return await epoch.begin_epoch(access.store, access.need_broker(), found, note)
