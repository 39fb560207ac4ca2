"""Who sits at the command line."""

from __future__ import annotations

import getpass
import os
import socket


def user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as somebody without a name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"
