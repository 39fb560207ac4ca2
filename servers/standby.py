"""A physical standby of a PostgreSQL server: a base backup that follows by streaming replication."""

from __future__ import annotations

import time

from servers.base import ServerFailed
from servers.postgres import PostgresServer, binaries


class PostgresStandby(PostgresServer):
    """Follows `primary`, which must be running when this one is started for the first time.

    fall_behind: from now on it gets nothing. promote: it becomes a server of its own, with what it has got.
    """

    name = "postgres-standby"

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def prepare(self) -> None:
        if not self.data.exists():
            self.run(
                f"{binaries()}/pg_basebackup", "-D", str(self.data), "-h", "127.0.0.1", "-p", str(self._primary.port),
                "-U", "postgres", "-R", "--checkpoint=fast", "--wal-method=stream", "--no-sync",
            )  # fmt: skip
        super().prepare()

    def catch_up(self) -> None:
        """Return when it has all that the primary has committed by now. Raises ServerFailed."""
        end = self._primary.psql("postgres", "SELECT pg_current_wal_lsn()")
        self._until(f"SELECT pg_last_wal_replay_lsn() >= '{end}'", f"replayed the log up to {end}")

    def fall_behind(self) -> None:
        """Pausing the replay would not do: a standby that is promoted first replays all that it has received."""
        self.psql("postgres", "ALTER SYSTEM SET primary_conninfo = ''")
        self.psql("postgres", "SELECT pg_reload_conf()")
        self._until("SELECT count(*) = 0 FROM pg_stat_wal_receiver", "stopped to receive")

    def promote(self) -> None:
        """Return when it takes writes."""
        if self.psql("postgres", "SELECT pg_promote(true, 60)") != "t":
            raise ServerFailed(f"{self.name} was not promoted.\n{self.end_of_log()}")

    def _until(self, statement: str, what: str) -> None:
        until = time.monotonic() + self.ready_s
        while self.psql("postgres", statement) != "t":
            if time.monotonic() > until:
                raise ServerFailed(f"{self.name} has not {what} within {self.ready_s:g} s.\n{self.end_of_log()}")
            time.sleep(0.02)
