"""Which outbox a URL asks for (`?outbox=`). The one place that knows them all; see `ensue.stores.sql.outbox`."""

from __future__ import annotations

from ensue.stores.postgres.url import PostgresUrl
from ensue.stores.sql.outbox import Outbox, OutboxContext


def make_outbox(url: PostgresUrl, context: OutboxContext) -> Outbox:
    """Return the outbox of this mode, not open. It imports its own modules only when it is the one."""
    if url.outbox == "poll":
        from ensue.stores.postgres.polled import PolledOutbox

        return PolledOutbox(context)
    from ensue.stores.postgres.tail import TailedOutbox
    from ensue.stores.postgres.tail_access import make_access

    return TailedOutbox(context, make_access(url))
