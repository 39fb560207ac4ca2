"""PostgreSQL: `initdb`, then `postgres` with logical decoding switched on."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from servers.base import Server, ServerFailed
from servers.certificates import Certificates, certificates

#: Who may connect to a server that demands TLS: a plain connection finds no line that is its own.
_TLS_ONLY = "hostssl all postgres 127.0.0.1/32 trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n"


class PostgresServer(Server):
    """settings: more `-c` settings of the server, by name.

    language: of its messages, e.g. "de"; no locale of the machine's is needed.
    tls: it takes TLS connections alone, and a password from everybody but `postgres`; see `certificates`.
    """

    name = "postgres"
    program = "postgres"
    user = "postgres"
    stop_signal = signal.SIGINT  # fast shutdown

    def __init__(
        self,
        *,
        port: int | None = None,
        durable: bool = False,
        tls: bool = False,
        language: str = "",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(port=port, durable=durable)
        self._tls = tls
        self._settings = dict(settings or {}) | ({"lc_messages": "C.UTF-8"} if language else {})
        self._language = language

    @property
    def certificates(self) -> Certificates:
        return certificates(self)

    @classmethod
    def missing(cls) -> str:
        return "" if binaries() else "postgres: PostgreSQL is not installed (make servers)"

    def prepare(self) -> None:
        if (self.data / "PG_VERSION").exists():
            (self.data / "postmaster.pid").unlink(missing_ok=True)  # of a killed one; its number may be another's now
            return
        self.run(
            f"{binaries()}/initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync",
            "-E", "UTF8", "--locale=C.UTF-8", "--no-instructions",
        )  # fmt: skip
        if self._tls:
            (self.data / "pg_hba.conf").write_text(_TLS_ONLY)

    def command(self) -> Sequence[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "wal_level": "logical",
            "max_wal_senders": "16",
            "max_replication_slots": "16",
            "max_connections": "200",
        }
        if not self.durable:
            # synchronous_commit stays on: without it the tail of the log lags behind (WAL is sent when flushed).
            settings |= {"fsync": "off", "full_page_writes": "off"}
        if self._tls:
            files = self.certificates
            settings |= {"ssl": "on", "ssl_cert_file": str(files.certificate), "ssl_key_file": str(files.key)}
        settings |= self._settings
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [f"{binaries()}/postgres", "-D", str(self.data), "-p", str(self.port), *options]

    def environment(self) -> Mapping[str, str]:
        # With TLS its programs look for a certificate of their own at home, and ours may be closed to its account.
        own = {"HOME": str(self.directory)} if self._tls else {}
        return os.environ | own | ({"LANGUAGE": self._language} if self._language else {})  # as gettext looks for it

    def answers(self) -> bool:
        done = subprocess.run(
            [f"{binaries()}/pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)], check=False, timeout=10
        )
        return done.returncode == 0

    def url(self, database: str = "postgres", scheme: str = "postgresql") -> str:
        """The URL of a database, which is made if it is not there."""
        if database != "postgres" and not self._has(database):
            self.psql("postgres", f'CREATE DATABASE "{database}"')
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"

    def drop(self, database: str) -> None:
        self.psql("postgres", f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def psql(self, database: str, statement: str) -> str:
        """Run SQL past everything; return the rows, one a line, columns separated by `|`. Raises ServerFailed."""
        if self._tls:
            return self.run(*self.client(database), statement).strip()
        # Not by the program: to begin one takes a process that holds much longer than the statement.
        import psycopg
        from psycopg import pq

        where = f"host=127.0.0.1 port={self.port} user=postgres connect_timeout=60 options='-c statement_timeout=60s'"
        found = pq.PGconn.connect(f"{where} dbname='{database}'".encode())
        try:
            if found.status != pq.ConnStatus.OK:
                raise ServerFailed(f"{database}: {found.get_error_message()}")
            done = found.exec_(statement.encode())
            if done.status not in (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK, pq.ExecStatus.EMPTY_QUERY):
                raise ServerFailed(f"{statement}: {done.get_error_message()}")
            rows = [[done.get_value(row, each) or b"" for each in range(done.nfields)] for row in range(done.ntuples)]
        except psycopg.Error as error:
            raise ServerFailed(f"{statement}: {error}") from error
        finally:
            found.finish()
        return "\n".join("|".join(each.decode() for each in row) for row in rows).strip()

    def client(self, database: str) -> Sequence[str]:
        """The command, for `run`, of which the last argument is SQL; for what takes longer than `psql` waits."""
        return [
            f"{binaries()}/psql", "-h", "127.0.0.1", "-p", str(self.port), "-U", "postgres", "-d", database,
            "-v", "ON_ERROR_STOP=1", "-Atqc",
        ]  # fmt: skip

    def _has(self, database: str) -> bool:
        return self.psql("postgres", f"SELECT 1 FROM pg_database WHERE datname = '{database}'") == "1"


def binaries() -> str:
    """The directory of the newest PostgreSQL that can start a server; empty: there is none."""
    found = Server.find("initdb")
    if found:  # a link, perhaps; what belongs to it stands beside what it leads to
        return str(Path(found).resolve().parent)
    places = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    return str(Path(max(places, key=lambda each: int(each.split("/")[4]))).parent) if places else ""
