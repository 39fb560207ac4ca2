"""A version's place beside an SQLite file: another file, `history_v2.db` beside `history.db`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from typing import Any

from ensue.embedded.connection import parse_sqlite_url
from ensue.stores.places import place_name, store_name

#: Of a path, in bytes, on every file system that we know.
_NAME_MAX = 255 - len("-wal")


class OwnPlace:
    """See `ensue.ports.Place`. Of a database in memory the place is one too, of each process alone."""

    def __init__(self, url: str, service: str, suffix: str, connect_args: Mapping[str, Any] | None = None) -> None:
        path, _ = parse_sqlite_url(url)
        self.service = store_name(service, suffix)
        self._path = ""
        self.url = url
        if path != ":memory:":
            stem, extension = os.path.splitext(path)
            name = place_name(os.path.basename(stem), suffix, _NAME_MAX - len(extension), "file")
            self._path = os.path.join(os.path.dirname(path), name) + extension
            _, question, query = url.partition("?")
            self.url = f"sqlite:///{self._path}{question}{query}"

    async def make(self) -> None:
        """The store makes its file."""

    async def remove(self) -> None:
        """The file last: what a log of it holds is never put into a file that is made anew under its name."""
        for end in ("-wal", "-shm", ""):
            if self._path:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._path + end)
