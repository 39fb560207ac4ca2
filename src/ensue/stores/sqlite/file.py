"""The file of a store: the user's, or one that is gone when the store is closed."""

from __future__ import annotations

import os
import shutil
import tempfile

from ensue.errors import StoreUnavailable


class StoreFile:
    """path: `:memory:` for one that is made at open. service: whose it is."""

    def __init__(self, path: str, service: str) -> None:
        self.temporary = path == ":memory:"
        self.path = path if self.temporary else os.path.abspath(path)
        self.directory = ""
        self._service = service
        self._id: tuple[int, int] | None = None

    def make(self) -> str:
        """Return the path to open; the file itself may have to be made."""
        if self.temporary:
            # A file and no `:memory:`: only a file has readers that see the last commit while a step is open.
            self.directory = tempfile.mkdtemp(prefix="ensue-")
            self.path = os.path.join(self.directory, f"{self._service}.db")
        return self.path

    def remember(self) -> None:
        """Which file it is that was opened, for `check`."""
        self._id = _id_of(self.path)

    def check(self) -> None:
        """Raise StoreUnavailable when another one is there now, or none."""
        if _id_of(self.path) != self._id:  # what is committed from here on is lost with the last one to close it
            raise StoreUnavailable(
                f"{self.path} was deleted or replaced while it was open: put back the file that was there, or restart "
                "this process to go on with what is there now"
            )

    def remove(self) -> None:
        """Remove it if it is temporary; safe to repeat."""
        if self.directory:
            shutil.rmtree(self.directory)
            self.directory = ""


def _id_of(path: str) -> tuple[int, int] | None:
    """Which file the path leads to; None: to none."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
