"""Sweeps away what killed processes left behind in the temporary directory: sockets that nobody listens to."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time

#: A directory that changed less than this ago is left alone: its listener may be about to bind.
YOUNG_S = 60.0
#: So many directories at most are looked at in one sweep, since somebody waits for it (some 20 µs each).
SWEEP_MAX = 200


def sweep(parent: str, prefix: str, *, now: float | None = None) -> int:
    """Remove this user's directories `parent`/`prefix`* in which no socket has a listener; return how many.

    A socket is tried, not guessed about: the kernel refuses a connection to what no living process holds open, in
    whichever container it lives. Never raises; what cannot be removed stays.
    """
    now = time.time() if now is None else now
    removed = 0
    try:
        with os.scandir(parent) as entries:
            names = [entry.path for entry in entries if entry.name.startswith(prefix)][:SWEEP_MAX]
    except OSError:
        return 0
    for path in names:
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            mine = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
            if mine and now - found.st_mtime > YOUNG_S and not _has_listener(path):
                os.rmdir(path)
                removed += 1
    return removed


def _has_listener(directory: str) -> bool:
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return True  # none of ours: a plain file refuses connections too, and is not to be lost
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.setblocking(False)
            try:
                peer.connect(path)
                return True
            except ConnectionRefusedError:
                os.unlink(path)
    return False
