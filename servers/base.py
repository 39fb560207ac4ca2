"""One server process: start, wait until it answers, pause, kill, start again on the same data and port, stop.

A server dies with the process that started it (`setpriv --pdeathsig`), however that one ends; so start servers from
the main thread, since the signal follows the thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

#: Below the range from which systems take the ports of outgoing connections: while a server is down, no client's
#: connection can sit on its port.
_PORTS = range(15_000, 20_000)
#: Those that are spoken for, though their servers may not listen yet.
_given: set[int] = set()

#: Where `make servers` puts what no package manager has (Kafka's jars, the MongoDB-protocol server).
HOME_VARIABLE = "ENSUE_TEST_SERVERS_DIR"


class ServerMissing(Exception):
    """The program is not installed; the text says how to get it."""


class ServerFailed(Exception):
    """The server ended, or did not answer in time; the text has the end of its log."""


def home() -> Path:
    return Path(os.environ.get(HOME_VARIABLE) or ".servers").absolute()


def free_port() -> int:
    """Return a port of the loopback on which nobody listens now; hardly ever the same one twice."""
    if len(_given) > len(_PORTS) // 2:
        _given.clear()
    for port in random.sample(_PORTS, len(_PORTS)):
        if port in _given:
            continue
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise ServerFailed(f"no free port between {_PORTS.start} and {_PORTS.stop} on 127.0.0.1")


class Server:
    """Subclasses say which program, how it is called, and when it is ready.

    start and stop are safe to repeat. Data and port stay over kill, stop and start; `close` removes them.
    durable: whether the server syncs what it acknowledges (slower); most tests kill processes, not machines.
    """

    name: ClassVar[str]
    program: ClassVar[str]
    user: ClassVar[str] = ""  # the account it wants when we are root
    ready_s: ClassVar[float] = 30.0
    stop_s: ClassVar[float] = 20.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, *, port: int | None = None, durable: bool = False) -> None:
        missing = self.missing()
        if missing:
            raise ServerMissing(missing)
        self.port = port or free_port()
        self.durable = durable
        self.directory = Path(tempfile.mkdtemp(prefix=f"ensue-{self.name}-"))
        self.log = self.directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._account = _account(self.user)
        self._own(self.directory)

    # --- what subclasses say

    @classmethod
    def missing(cls) -> str:
        """Return one line that says what is not installed; empty when all is there."""
        return "" if cls.find(cls.program) else f"{cls.name}: {cls.program} is not installed (make servers)"

    @classmethod
    def find(cls, program: str) -> str | None:
        return shutil.which(
            program, path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
        )

    def prepare(self) -> None:
        """Make data directory and configuration; called at each start, so it must find what is there already."""

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        return os.environ

    def answers(self) -> bool:
        """Whether it serves now. Called until it does."""
        return listens(self.port)

    # --- its life

    @property
    def pid(self) -> int | None:
        return self._process.pid if self.running and self._process else None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self) -> None:
        """Start the process and return at once; see `wait_ready`."""
        if self.running:
            return
        self.prepare()
        guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=dict(self.environment()),
                cwd=self.directory,
                start_new_session=True,  # Ctrl-C is for us; and its children can be signalled as a group
                **self._account,
            )

    def start(self) -> Self:
        self.spawn()
        self.wait_ready()
        return self

    def wait_ready(self) -> None:
        """Return when it answers. Raises ServerFailed."""
        until = time.monotonic() + self.ready_s
        while not self.answers():
            self._check(until)
            time.sleep(0.02)

    async def ready(self) -> None:
        """As `wait_ready`, on an event loop that has other work."""
        until = time.monotonic() + self.ready_s
        while not await asyncio.to_thread(self.answers):
            self._check(until)
            await asyncio.sleep(0.02)

    def _check(self, until: float) -> None:
        if not self.running:
            raise ServerFailed(f"{self.name} ended before it was ready.\n{self.end_of_log()}")
        if time.monotonic() > until:
            raise ServerFailed(f"{self.name} was not ready after {self.ready_s:g} s.\n{self.end_of_log()}")

    def kill(self) -> None:
        """End it at whatever instruction it is (SIGKILL, its children too) and wait until it is gone."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(timeout=self.stop_s)

    def pause(self) -> None:
        """Let it stand still (SIGSTOP): its connections stay open and nothing answers. Returns when it does stand."""
        self._signal(signal.SIGSTOP)
        if self._process is not None and self.running:
            # Its threads stop one after the other: one that still ran answered what was sent after this call.
            os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order; by force if that takes longer than stop_s."""
        if self._process is None or not self.running:
            return
        self._signal(signal.SIGCONT)
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(timeout=self.stop_s)
        except subprocess.TimeoutExpired:
            self.kill()
        else:
            self._signal(signal.SIGKILL)  # a child that outlived it

    def restart(self) -> None:
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop it and remove its data."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    # --- its data

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def save_data(self, name: str) -> None:
        """Copy the data directory aside, while the server is down."""
        self._must_be_down()
        shutil.copytree(self.data, self.directory / f"saved-{name}", symlinks=True)
        self._own(self.directory / f"saved-{name}")

    def restore_data(self, name: str) -> None:
        """Put a saved copy back: the state of a server that forgot what it had acknowledged."""
        self._must_be_down()
        shutil.rmtree(self.data, ignore_errors=True)
        shutil.copytree(self.directory / f"saved-{name}", self.data, symlinks=True)
        self._own(self.data)

    def wipe_data(self) -> None:
        """Leave nothing of what it had."""
        self._must_be_down()
        shutil.rmtree(self.data, ignore_errors=True)

    def _must_be_down(self) -> None:
        if self.running:
            raise ServerFailed(f"{self.name} is running: stop or kill it before its data is touched")

    # --- helpers

    def make_directory(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True)
        self._own(path)
        return path

    def run(self, *command: str, limit_s: float = 60.0) -> str:
        """Run a program of the server's as its account and return what it printed. Raises ServerFailed."""
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=limit_s,
            env=dict(self.environment()), cwd=self.directory, check=False, **self._account,
        )  # fmt: skip
        text: str = done.stdout.decode(errors="replace")
        if done.returncode:
            raise ServerFailed(f"{command[0]} ended with status {done.returncode}:\n{text}")
        return text

    def end_of_log(self, lines: int = 20) -> str:
        text = self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
        return f"The end of {self.log}:\n" + "\n".join(text or ["(empty)"])

    def _own(self, path: Path) -> None:
        """Give a tree to the account that the server runs as."""
        if not self._account:
            return
        entry = pwd.getpwnam(self.user)
        for directory, _, files in os.walk(path):
            for each in [directory, *(os.path.join(directory, name) for name in files)]:
                os.chown(each, entry.pw_uid, entry.pw_gid, follow_symlinks=False)


def _account(user: str) -> dict[str, Any]:
    """What subprocess needs to run as `user`; nothing unless we are root and it exists."""
    if not user or os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return {}
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def says(port: int, sent: bytes, expected: bytes) -> bool:
    """Whether a server answers `sent` with something that has `expected` in it."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1.0) as connection:
            connection.settimeout(1.0)
            connection.sendall(sent)
            return expected in connection.recv(4096)
    except OSError:
        return False
