"""How much of an outbox is unsent, in each mode: what a relay has not covered, and what has no position yet."""

from __future__ import annotations

from ensue.errors import UsageError
from ensue.stores.sql.link import Link
from ensue.stores.sql.schema import RELAYED

#: Rows that no stamp names, in whatever mode; reads the table and the stamps from end to end.
UNREAD = "FROM ensue_outbox o LEFT JOIN (SELECT unnest(ids) AS id FROM ensue_stamp) s USING (id) WHERE s.id IS NULL"

# Positions are dense.
_POSITIONS = f"SELECT greatest(c.last_position - greatest({RELAYED}, c.published_from), 0) + "
_STATE = " FROM ensue_counter c WHERE c.one = 1"
#: Polling knows the mark and the holes below it (`holes.py`). Of the rows, at most a million are counted.
POLLED = (
    f"{_POSITIONS}(SELECT count(*) FROM (SELECT FROM ensue_outbox WHERE id > (SELECT seen_id FROM ensue_polled) "
    "ORDER BY id LIMIT 1000000) o) + "
    "(SELECT count(*) FROM ensue_polled p, unnest(p.hole_first, p.hole_last) h (first, last), "
    f"LATERAL (SELECT FROM ensue_outbox o WHERE o.id BETWEEN h.first AND h.last ORDER BY o.id LIMIT 1000000) o){_STATE}"
)
TAILED = f"{_POSITIONS}(SELECT count(*) {UNREAD}){_STATE}"
_UNSENT = {"poll": POLLED, "wal": TAILED}


async def unsent(link: Link, mode: str) -> int:
    """Count the committed records that the relay's stored position does not cover. mode: the one they are read in.

    Raises UsageError for a mode that there is not.
    """
    if mode not in _UNSENT:
        raise UsageError(
            f"{link.place}: the outbox is read by {mode!r}, which this version of Ensue cannot: run the one that wrote "
            "it with outbox=wal until `ensue status` shows 0 unsent",
            found=mode,
            expected=" or ".join(_UNSENT),
        )
    [(count,)] = await link.fetch(_UNSENT[mode])
    return int(count)
