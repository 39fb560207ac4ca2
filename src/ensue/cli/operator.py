"""Who sits at the command line, and decides."""

from __future__ import annotations

import getpass
import os
import socket

from ensue.deciding import Deciding, Face


def user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as somebody without a name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def deciding(by: str, reason: str) -> Deciding:
    """Who decides at the command line, unless they say otherwise, and why."""
    return Deciding(actor=by or user(), origin=Face.CLI, reason=reason)
