"""Mode `poll` on PostgreSQL, for a store that may have been tailed before, or that another process tails by now."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ensue.errors import StoreUnavailable
from ensue.message import OutboxRecord
from ensue.stores.sql.link import Link
from ensue.stores.sql.outbox import Tools
from ensue.stores.sql.stamped import StampedOutbox

if TYPE_CHECKING:
    from ensue.stores.postgres.tail_loop import Access

_TAILED = "SELECT to_regclass('ensue_tail') IS NOT NULL"


class PolledOutbox(StampedOutbox):
    """access: how the tail would reach the server; asked for only when there was one."""

    def __init__(self, tools: Tools, access: Callable[[], Access]) -> None:
        super().__init__(tools)
        self._access = access

    async def open(self) -> None:
        await super().open()
        if await self._tools.desk.read(self._tailed):
            from ensue.stores.postgres import tail_switch

            await tail_switch.leave(self._access(), self._keep)

    async def _keep(self, records: list[OutboxRecord], now: float) -> None:
        await self._tools.desk.run(lambda link: self._tools.dialect.add(link, records, now))

    async def unsent(self, link: Link, *, exactly: bool = True) -> int:
        if not await self._tailed(link):
            return await super().unsent(link, exactly=exactly)
        from ensue.stores.postgres import tail_switch

        return await tail_switch.unsent(link, self._access(), exactly=exactly)

    async def prepare(self, link: Link) -> None:
        """Give up what the tail has kept: all of it is sent, and belongs to the epoch that ends now."""
        await super().prepare(link)
        if await self._tailed(link):
            await link.script("DELETE FROM ensue_outbox WHERE id IN (SELECT unnest(ids) FROM ensue_stamp)")
            await link.script("DELETE FROM ensue_stamp")
            await link.script("UPDATE ensue_tail SET leaving = slot, slot = '' WHERE slot <> ''")

    async def _stamp(self, link: Link, position: int, limit: int) -> list[OutboxRecord] | None:
        stamped = await super()._stamp(link, position, limit)
        await self._refuse_tailed(link)
        return stamped

    async def _stamp_all(self, link: Link, last: int) -> int:
        last = await super()._stamp_all(link, last)
        await self._refuse_tailed(link)
        return last

    async def _refuse_tailed(self, link: Link) -> None:
        """Undo what was stamped if another process has switched the mode; the counter's lock is held here."""
        [(mode,)] = await link.fetch("SELECT outbox_mode FROM ensue_meta")
        if mode != self.mode:
            raise StoreUnavailable(
                f"{self._tools.place}: the outbox is read as {mode!r} by now: another process switched it. "
                f"Restart this one with ?outbox={mode}"
            )

    async def _tailed(self, link: Link) -> bool:
        [(tailed,)] = await link.fetch(_TAILED)
        return bool(tailed)
