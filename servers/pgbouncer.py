"""PgBouncer in transaction mode, in front of a PostgresServer."""

from __future__ import annotations

from collections.abc import Sequence

from servers.base import Server
from servers.postgres import PostgresServer


class PgBouncer(Server):
    """pool_size: connections to PostgreSQL for each database."""

    name = "pgbouncer"
    program = "pgbouncer"
    user = "postgres"

    def __init__(self, postgres: PostgresServer, *, port: int | None = None, pool_size: int = 5) -> None:
        super().__init__(port=port)
        self._postgres = postgres
        self._pool_size = pool_size

    def prepare(self) -> None:
        users = self.directory / "users.txt"
        users.write_text('"postgres" ""\n')
        (self.directory / "pgbouncer.ini").write_text(
            "[databases]\n"
            f"* = host=127.0.0.1 port={self._postgres.port} user=postgres\n"
            "[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {self.port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {users}\n"
            f"pool_mode = transaction\ndefault_pool_size = {self._pool_size}\nmax_client_conn = 200\n"
            "ignore_startup_parameters = extra_float_digits\n"
        )
        self._own(self.directory)

    def command(self) -> Sequence[str]:
        return [str(self.find(self.program)), str(self.directory / "pgbouncer.ini")]

    def url(self, database: str = "postgres", scheme: str = "postgresql") -> str:
        self._postgres.url(database)  # made if it is not there
        return f"{scheme}://postgres@127.0.0.1:{self.port}/{database}"
