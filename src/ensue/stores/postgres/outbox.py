"""Which outbox a URL asks for (`?outbox=`). The one place that knows them all; see `ensue.stores.sql.outbox`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ensue.stores.postgres.url import PostgresUrl
from ensue.stores.sql.outbox import Outbox, Tools

if TYPE_CHECKING:
    from ensue.stores.postgres.tail_loop import Access


def make_outbox(url: PostgresUrl, tools: Tools) -> Outbox:
    """Return the outbox of this mode, not open. It imports its own modules only when it is the one."""

    def access() -> Access:
        from ensue.stores.postgres.tail_access import make_access

        return make_access(url, tools.service)

    if url.outbox == "poll":
        from ensue.stores.postgres.polled import PolledOutbox

        return PolledOutbox(tools, access)
    from ensue.stores.postgres.tail import TailedOutbox

    return TailedOutbox(tools, "wal" if url.outbox == "wal" else "messages", access())
