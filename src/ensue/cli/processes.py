"""One parent and its children, each a process with its share of the work. The parent only hands signals on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

from ensue.cli.serving import STOP_S
from ensue.texts import logger

log = logger("ensue.run")

#: A child that is not gone this long after the wish to stop is killed.
_PATIENCE_S = STOP_S + 1.0


def follow_parent() -> None:
    """In a child: stop when the parent is gone, however it went. Standard input is a pipe that ends then."""
    threading.Thread(target=_wait_for_parent, name="ensue-follow-parent", daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


async def supervise(command: Sequence[str], count: int) -> int:
    """Run `command` in `count` children until all have ended; return the worst of their exit statuses.

    SIGTERM and SIGINT go to the children as SIGTERM; a second one kills them. A child that ends is not started again:
    its partitions go to the others.
    """
    loop = asyncio.get_running_loop()
    children: list[Process] = []
    killing: asyncio.TimerHandle | None = None
    stopping = False

    def kill() -> None:
        _send(children, signal.SIGKILL)

    def stop() -> None:
        nonlocal stopping, killing
        if stopping:
            kill()
            return
        stopping = True
        killing = loop.call_later(_PATIENCE_S, kill)
        _send(children, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        for _ in range(count):
            if not stopping:
                # A process group of its own: Ctrl-C is for the parent, which hands it on.
                children.append(await asyncio.create_subprocess_exec(*command, stdin=PIPE, process_group=0))
        if stopping:  # the signal came while they were started
            _send(children, signal.SIGTERM)
        log.info("%d processes: %s", count, ", ".join(str(child.pid) for child in children))
        codes = await asyncio.gather(*(_ended(child) for child in children))
        # Told to stop before it could listen for it: as wanted, no failure.
        asked = 128 + signal.SIGTERM if stopping else 0
        return max((code for code in codes if code != asked), default=0)
    finally:
        kill()
        if killing is not None:
            killing.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _send(children: Sequence[Process], number: signal.Signals) -> None:
    for child in children:
        if child.returncode is None:
            child.send_signal(number)


async def _ended(child: Process) -> int:
    """Wait for a child; return its exit status, 128 + n when signal n killed it (as a shell does)."""
    code = await child.wait()
    if code:
        log.error("process %d ended with %s; others go on", child.pid, f"signal {-code}" if code < 0 else code)
    return 128 - code if code < 0 else code
