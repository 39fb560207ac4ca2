"""Redis: as a log, or as a store for views."""

from __future__ import annotations

from collections.abc import Sequence

from servers.base import Server, says


class RedisServer(Server):
    """durable: every write is synced to an append-only file; else a kill empties it."""

    name = "redis"
    program = "redis-server"

    def prepare(self) -> None:
        self.make_directory("data")

    def command(self) -> Sequence[str]:
        keeping = ["--appendonly", "yes", "--appendfsync", "always"] if self.durable else ["--appendonly", "no"]
        return [
            str(self.find(self.program)), "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.data),
            "--save", "", "--databases", "64", *keeping,
        ]  # fmt: skip

    def answers(self) -> bool:
        return says(self.port, b"PING\r\n", b"+PONG")

    def url(self, database: int = 0) -> str:
        return f"redis://127.0.0.1:{self.port}/{database}"
