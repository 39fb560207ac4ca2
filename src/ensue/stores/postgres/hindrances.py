"""What holds back a PostgreSQL database: a transaction that is held open keeps vacuum from every table."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.stores.sql.link import Link

#: A transaction that is open for longer is named, seconds.
OPEN_S = 10.0

OLDEST = """
SELECT pid, coalesce(application_name, ''), coalesce(state, ''),
    extract(epoch FROM clock_timestamp() - xact_start)::float8
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND clock_timestamp() - xact_start > make_interval(secs => $1)
ORDER BY xact_start LIMIT 3
"""
PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float8 FROM pg_prepared_xacts
WHERE database = current_database() ORDER BY prepared LIMIT 3
"""


async def hindrances(link: Link) -> Sequence[str]:
    lines = [
        f"transaction of backend pid {pid} ({application or 'unnamed'}, {state}) has been open for {age_s:.0f} s: it "
        f"delays no event, but vacuum cannot clean up behind it; SELECT pg_terminate_backend({pid}) ends it"
        for pid, application, state, age_s in await link.fetch(OLDEST, OPEN_S)
    ]
    lines += [
        f"prepared transaction {gid!r} has been left for {age_s:.0f} s: COMMIT PREPARED or ROLLBACK PREPARED it"
        for gid, age_s in await link.fetch(PREPARED)
    ]
    return lines
