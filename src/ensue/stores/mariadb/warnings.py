"""What holds back a MariaDB database: a transaction held open keeps old rows; settings under which commits are lost."""

from __future__ import annotations

from collections.abc import Sequence

from ensue.stores.mariadb import failures
from ensue.stores.sql.link import Link

#: A transaction that is open for longer is named, seconds.
OPEN_S = 10

OLDEST = (
    "SELECT trx_mysql_thread_id, TIMESTAMPDIFF(SECOND, trx_started, NOW()) FROM information_schema.innodb_trx "
    "WHERE trx_mysql_thread_id <> CONNECTION_ID() AND trx_started < NOW() - INTERVAL %s SECOND "
    "ORDER BY trx_started LIMIT 3"
)
FLUSH = "SELECT @@innodb_flush_log_at_trx_commit"


async def warnings(link: Link) -> Sequence[str]:
    lines: list[str] = []
    try:
        for thread, age_s in await link.fetch(OLDEST, OPEN_S):
            lines.append(
                f"transaction of connection {thread} has been open for {age_s} s: it delays no event, but old rows are "
                f"kept behind it; KILL {thread} ends it"
            )
    except Exception as error:
        if failures.code_of(error) != failures.DENIED:  # the PROCESS privilege
            raise
        lines.append("transactions that are held open cannot be seen: the user lacks the PROCESS privilege")
    [(flush,)] = await link.fetch(FLUSH)
    if int(flush) != 1:
        lines.append(
            f"innodb_flush_log_at_trx_commit is {flush}: a crash of the server can take back what was committed and "
            "published; set it to 1"
        )
    return lines
