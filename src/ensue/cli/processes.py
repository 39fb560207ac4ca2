"""One parent and its children, each a process with its share of the work. The parent hands signals on, and starts a
child again that has ended by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import threading
from asyncio.subprocess import PIPE, Process
from collections.abc import Sequence

from ensue.cli.restarts import Restarts
from ensue.cli.serving import STOP_S
from ensue.texts import logger

log = logger("ensue.run")

#: A child that is not gone this long after the wish to stop is killed.
_PATIENCE_S = STOP_S + 1.0
#: What a child ends with that was told to stop before it could listen for that.
_ASKED = 128 + signal.SIGTERM


def follow_parent() -> None:
    """In a child: stop when the parent is gone, however it went. Standard input is a pipe that ends then."""
    threading.Thread(target=_wait_for_parent, name="ensue-follow-parent", daemon=True).start()


def _wait_for_parent() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


class Supervisor:
    """Children, one for each command, until somebody says stop: by SIGTERM or SIGINT, or `stop`.

    A child that ends before that, however it does, is started again: at once after `reload`, else after a pause that
    grows. It is never given up; each end and each start is in the log. patient: after a failure wait for `reload`
    instead, since the code has to change first.
    """

    def __init__(
        self, commands: Sequence[Sequence[str]], restarts: Restarts | None = None, *, patient: bool = False
    ) -> None:
        self._slots = [_Slot(command, number) for number, command in enumerate(commands, 1)]
        self._restarts = restarts or Restarts()
        self._patient = patient
        self._stopping = False

    async def run(self) -> int:
        """Return the worst exit status of the children that were stopped; 0: all went in good order."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        try:
            codes = await asyncio.gather(*(self._keep(slot) for slot in self._slots))
            return max((code for code in codes if code != _ASKED), default=0)
        finally:
            self._kill()
            await asyncio.gather(*(slot.gone() for slot in self._slots))
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def stop(self) -> None:
        """Have all children stop, and `run` return. Called again it kills them."""
        if self._stopping:
            self._kill()
            return
        self._stopping = True
        for slot in self._slots:
            slot.end()

    def reload(self) -> None:
        """Have each child end in good order and another one start; one that waits after a failure starts now."""
        for slot in self._slots:
            slot.reloading = True
            slot.end()

    def _kill(self) -> None:
        for slot in self._slots:
            slot.kill()

    async def _keep(self, slot: _Slot) -> int:
        """Keep one child running; return the exit status of the last one."""
        clock, failures = asyncio.get_running_loop().time, 0
        while not self._stopping:
            slot.woken.clear()
            slot.reloading = False
            begun = clock()
            how, code = await self._run(slot)
            if self._stopping:
                if code not in (0, _ASKED):
                    log.error("%s ended with %s when it was told to stop", slot.name, how)
                return code
            if slot.reloading:
                failures = 0
                continue
            failures = self._restarts.failures(failures, clock() - begun)
            if self._patient:
                log.error("%s ended with %s; another one starts when the code changes", slot.name, how)
                await slot.woken.wait()
                continue
            pause = self._restarts.pause_s(failures)
            log.error(
                "%s ended with %s; another one starts in %g s (failure %d in a row)", slot.name, how, pause, failures
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(slot.woken.wait(), pause)
        return 0

    async def _run(self, slot: _Slot) -> tuple[str, int]:
        """Run a child to its end; return how it ended, in words, and its exit status as a shell has it."""
        slot.child = None
        try:
            # A process group of its own: Ctrl-C is for the parent, which hands it on.
            child = await asyncio.create_subprocess_exec(*slot.command, stdin=PIPE, process_group=0)
        except OSError as error:  # no memory, or too many processes: as with a child that could not start
            return f"{error.strerror}: it could not start", 1
        slot.child = child
        log.info("%s starts", slot.name)
        if self._stopping or slot.reloading:  # the wish came while it was started
            slot.end()
        code = await child.wait()
        return (f"signal {-code}", 128 - code) if code < 0 else (f"status {code}", code)


class _Slot:
    """One of the children, whichever process that is by now."""

    def __init__(self, command: Sequence[str], number: int) -> None:
        self.command = command
        self.number = number
        self.child: Process | None = None
        self.reloading = False
        #: Set when a pause after a failure is over before its time.
        self.woken = asyncio.Event()

    @property
    def name(self) -> str:
        return f"process {self.number}" if self.child is None else f"process {self.number} (pid {self.child.pid})"

    def end(self) -> None:
        """Have the child end in good order, by force if that takes too long; and no pause go on."""
        self.woken.set()
        child = self.child
        if child is not None and child.returncode is None:
            child.send_signal(signal.SIGTERM)
            asyncio.get_running_loop().call_later(_PATIENCE_S, _end_by_force, child)

    async def gone(self) -> None:
        """Wait for the end of a child that was killed, so that it is no zombie of whoever goes on."""
        if self.child is not None:
            await self.child.wait()

    def kill(self) -> None:
        if self.child is not None:
            _end_by_force(self.child)


def _end_by_force(child: Process) -> None:
    if child.returncode is None:
        child.kill()
