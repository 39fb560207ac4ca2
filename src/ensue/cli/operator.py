"""Who sits at the command line, and decides."""

from __future__ import annotations

import getpass
import os
import socket

import typer

from ensue.deciding import Deciding, Face

BY = typer.Option("--by", help="Who decides; is kept with the decision", show_default="you")
REASON = typer.Option("--reason", help="Why; is kept with the decision")


def user() -> str:
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container may run as somebody without a name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def deciding(by: str, reason: str) -> Deciding:
    """Who decides at the command line, unless they say otherwise, and why."""
    return Deciding(actor=by or user(), origin=Face.CLI, reason=reason)
