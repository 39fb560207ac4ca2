"""A new epoch for a database that was put back from an older copy."""

from __future__ import annotations

import msgspec

from ensue.deciding import Deciding
from ensue.engine import epoch
from ensue.engine.epoch import Published, find_published
from ensue.engine.restored import find_contradiction
from ensue.engine.worker import is_gone
from ensue.errors import UsageError
from ensue.operations.opening import Opened
from ensue.ports import StepTransaction


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


async def compared(access: Opened, published_through: int | None = None) -> tuple[Published, bool]:
    """Compare a service's outbox with the log; also whether the log holds another life's records after it.
    published_through: when the log cannot tell: the last position that went out. Changes nothing. Raises UsageError,
    which says how to decide, when the log cannot tell."""
    broker = access.need_broker()
    declared = access.service.publishes_to(await broker.topics())
    found = await find_published(access.store, broker, declared, published_through)
    return found, await find_contradiction(access.store, broker, declared) is not None


def is_needed(found: Published, *, contradicted: bool) -> bool:
    return found.diverged_at is not None or contradicted or found.witness is not None


async def standing(access: Opened) -> tuple[Published, EpochStanding]:
    """Raises UsageError as `compared` does."""
    found, contradicted = await compared(access)
    workers = [each for each in (await access.books.leases()).workers if not is_gone(each)]
    return found, EpochStanding(
        source=found.source, published_through=found.through, left=found.left, missing=len(found.missing),
        diverged_at=found.diverged_at, needed=is_needed(found, contradicted=contradicted), workers=workers,
    )  # fmt: skip


def check_wanted(service: str, at: EpochStanding, source: str, published_through: int) -> None:
    """Raise UsageError unless the new epoch is needed, and begins with what somebody has seen."""
    if (at.source, at.published_through) != (source, published_through):
        raise UsageError(
            f"{service} is {at.source}, published through position {at.published_through} now, and it was {source}, "
            f"through {published_through}, when it was looked at: nothing is done; look at it again"
        )
    if not at.needed:
        raise UsageError(
            f"{service} needs no new epoch: the log holds nothing that its database did not write; who wants one all "
            "the same uses `ensue db new-epoch --force`"
        )


async def begin_epoch(access: Opened, found: Published, by: Deciding) -> str:
    """Complete the old epoch in the log, then begin the new one; return the new source. No worker may run meanwhile.

    The decision is written right after the epoch has begun, which the store does by itself: a crash between the two
    loses it. Raises UsageError when the old epoch has ended meanwhile, or the log is not the one that held it.
    """

    async def note(transaction: StepTransaction, source: str) -> None:
        before = {"source": found.source, "published_through": found.through, "left": found.left}
        await access.books.record(transaction, by, "db new-epoch", found.source, before, {"source": source})

    return await epoch.begin_epoch(access.store, access.need_broker(), found, note)
