"""The log on standard error, for processes whose application has not set logging up."""

from __future__ import annotations

import logging
import sys

from ensue.texts import logger

FORMAT = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"


def log_to_stderr(level: str | None = None) -> None:
    """Show what is logged on standard error, unless the application has set logging up by now, all of it or `ensue`'s.

    level: of everything, `info` say, for a process that is Ensue's own. None: the process is somebody else's, whose
    loggers are left alone: only Ensue's are shown, from INFO, or from the level that the application gave to `ensue`.
    """
    ours = logger("ensue")
    if ours.hasHandlers():
        return
    if level is not None:
        logging.basicConfig(stream=sys.stderr, level=level.upper(), format=FORMAT)
        return
    shown = logging.StreamHandler(sys.stderr)
    shown.setFormatter(logging.Formatter(FORMAT))
    ours.addHandler(shown)
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)
