"""A server of the MongoDB wire protocol: FerretDB over SQLite, which `make servers` builds into .servers/bin."""

from __future__ import annotations

import os
from collections.abc import Sequence

from servers.base import Server, home


class MongoDbServer(Server):
    """CRUD and one-document atomicity; no transactions and no change streams."""

    name = "mongodb"
    program = "ferretdb"

    @classmethod
    def missing(cls) -> str:
        return "" if os.access(_program(), os.X_OK) else "mongodb: ferretdb is not there (make servers)"

    def prepare(self) -> None:
        self.make_directory("data")

    def command(self) -> Sequence[str]:
        return [_program(), f"127.0.0.1:{self.port}", str(self.data)]

    def url(self, database: str = "test") -> str:
        return f"mongodb://127.0.0.1:{self.port}/{database}"


def _program() -> str:
    return str(home() / "bin" / "ferretdb")
