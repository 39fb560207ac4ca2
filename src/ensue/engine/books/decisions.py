"""What people have decided: a row each, written in the transaction that does it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import msgspec

from ensue.deciding import Deciding, Decision
from ensue.engine.books.base import Base, encode
from ensue.ports import Row, StepTransaction
from ensue.tables import DECISIONS

[_BY_TIME] = DECISIONS.lookups


class Decisions(Base):
    """Rows are added, and never changed or pruned."""

    async def record(
        self,
        transaction: StepTransaction,
        by: Deciding,
        action: str,
        target: str,
        before: object = None,
        after: object = None,
    ) -> None:
        """Write down what this transaction does: without the row it is not done, nor the row without it.

        before, after: of the target, as msgspec writes them as JSON. On a store without transactions (see
        `Capabilities`) that also holds where the checkpoint is saved in it; else this is written right after the
        target's own row, and a crash in between loses it.
        """
        await transaction.insert_rows(
            DECISIONS,
            [
                (
                    f"{self._random.getrandbits(128):032x}", transaction.now, by.actor, by.origin.value, action,
                    _storable(target), by.reason, encode(before).decode(), encode(after).decode(),
                )
            ],
        )  # fmt: skip

    async def decisions(self, after: tuple[float, str] | None = None) -> AsyncGenerator[Decision, None]:
        """All of them, in the order in which they were taken, read in pages. after: time and id of one, behind which to
        begin."""
        async for row in self._all(DECISIONS, _BY_TIME, after=after or ()):
            yield _decision(row)

    async def last_decisions(self, limit: int, before: tuple[float, str] | None = None) -> list[Decision]:
        """Up to `limit` of the last ones, the last first: no other is read. before: time and id of one; only
        those that were taken before it."""
        found = self._all(DECISIONS, _BY_TIME, limit=limit, after=before or (), backward=True)
        return [_decision(row) async for row in found]


def _decision(row: Row) -> Decision:
    name, decided_at, actor, origin, action, target, reason, before, after = row
    return Decision(
        id=name, decided_at=decided_at, actor=actor, origin=origin, action=action, target=target,
        reason=reason, before=msgspec.Raw(before.encode()), after=msgspec.Raw(after.encode()),
    )  # fmt: skip


def _storable(text: str) -> str:
    """The name of what a stranger has sent may hold half a character, or a zero that no database takes."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
