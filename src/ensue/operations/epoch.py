"""A new epoch for a database that was put back from an older copy: is one needed, which were there, begin one."""

from __future__ import annotations

from contextlib import aclosing

import msgspec

from ensue.deciding import Deciding, Decision
from ensue.engine import epoch
from ensue.engine.books import Books
from ensue.engine.epoch import Published
from ensue.engine.restored import find_contradiction
from ensue.operations.decisions import decisions
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction

#: Of a decision's row.
NEW_EPOCH = "db new-epoch"


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
    """The epochs that were begun after a database went back, in their order. All decisions are read for it."""
    found: list[Begun] = []
    async with aclosing(decisions(books)) as known:
        async for each in known:
            if each.action == NEW_EPOCH:
                before, after = (
                    msgspec.json.decode(each.before, type=_Before),
                    msgspec.json.decode(each.after, type=_After),
                )
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
