"""MariaDB: `mariadb-install-db`, then `mariadbd` with a binary log, as one that has replicas."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from servers.base import Server, says
from servers.certificates import Certificates, certificates


class MariaDbServer(Server):
    """User root, no password, over TCP. tls: it takes TLS connections alone; see `certificates`."""

    name = "mariadb"
    program = "mariadbd"
    user = "mysql"

    def __init__(self, *, port: int | None = None, durable: bool = False, tls: bool = False) -> None:
        super().__init__(port=port, durable=durable)
        self._tls = tls

    @property
    def certificates(self) -> Certificates:
        return certificates(self)

    def prepare(self) -> None:
        if self.data.exists():
            return
        self.make_directory("data")
        self.run(
            "mariadb-install-db", "--no-defaults", f"--datadir={self.data}", "--auth-root-authentication-method=normal",
            # Of its own: two installations at once fell over each other's temporary tables.
            "--skip-test-db", f"--tmpdir={self.directory}", *([f"--user={self.user}"] if self._account else []),
            *self._speed(),
        )  # fmt: skip

    def command(self) -> Sequence[str]:
        return [
            str(self.find(self.program)), "--no-defaults", f"--datadir={self.data}", "--bind-address=127.0.0.1",
            f"--port={self.port}", f"--socket={self.directory}/s.sock", f"--pid-file={self.directory}/pid",
            f"--tmpdir={self.directory}",
            "--log-bin=binlog", "--binlog-format=ROW", "--server-id=1", "--skip-name-resolve", "--max-connections=300",
            "--innodb-buffer-pool-size=128M", "--character-set-server=utf8mb4", *self._speed(),
            *self._encryption(),
        ]  # fmt: skip

    def _encryption(self) -> list[str]:
        if not self._tls:
            return []
        files = self.certificates
        return [f"--ssl-cert={files.certificate}", f"--ssl-key={files.key}", "--require-secure-transport=ON"]

    def _speed(self) -> list[str]:
        if self.durable:
            return ["--innodb-flush-log-at-trx-commit=1"]
        # 2: in the hands of the system at each commit, so a killed server keeps it; with 0 it would lose a second.
        return ["--innodb-flush-log-at-trx-commit=2", "--innodb-flush-method=nosync"]

    def answers(self) -> bool:
        return says(self.port, b"", b"MariaDB")

    def url(self, database: str, scheme: str = "mariadb") -> str:
        """The URL of a database, which is made if it is not there."""
        self.sql(f"CREATE DATABASE IF NOT EXISTS `{database}`")
        return f"{scheme}://root@127.0.0.1:{self.port}/{database}"

    def drop(self, database: str) -> None:
        self.sql(f"DROP DATABASE IF EXISTS `{database}`")

    def sql(self, statement: str, database: str = "mysql") -> str:
        """Run SQL past everything; return the rows, one a line, columns separated by tabs."""
        return self._client("mariadb", "-NB", "-e", statement, database).strip()

    def dump(self, database: str, name: str) -> None:
        """Keep what a database holds, for `load`."""
        self._client("mariadb-dump", "--single-transaction", f"--result-file={self._dumped(name)}", database)

    def load(self, database: str, name: str) -> None:
        """Drop each table that was dumped, and make and fill it anew, one after the other."""
        self._client("mariadb", "-e", f"source {self._dumped(name)}", database)

    def _dumped(self, name: str) -> Path:
        return self.directory / f"{name}.sql"

    def _client(self, program: str, *arguments: str) -> str:
        authority = [f"--ssl-ca={self.certificates.authority}"] if self._tls else []
        where = ("--no-defaults", "--protocol=tcp", "-h", "127.0.0.1", "-P", str(self.port), "-u", "root")
        return self.run(program, *where, *authority, *arguments)
