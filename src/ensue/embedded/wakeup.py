"""Wake-up between all processes of one machine that share a file, without polling and without a server.

Each listener is a Unix datagram socket in a private directory that is named by the user and the real path of the file.
Whoever changed something sends a small datagram to each socket there. A wake-up is a hint and no message: one that
gets lost costs the waiter its timeout, nothing more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import socket
import stat
import struct
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from ensue.embedded.leftovers import sweep
from ensue.errors import UsageError
from ensue.texts import logger

#: Where there are no Unix datagram sockets, a wait ends after this long and its caller looks again.
POLL_S = 0.05
#: A directory changed less than this ago may change again within the same tick of the file system's clock.
_SETTLED_NS = 1_000_000_000
#: With more keys than this, a datagram says "everything": macOS takes no more than 2 KiB.
_KEYS_MAX = 64
_EVERYTHING = b"*"
#: So many datagrams at once mean that the queue may have been full (Linux: 10 by default) and others were dropped.
_OVERFLOW = 4
#: sockaddr_un holds 104 bytes on macOS and 108 on Linux, the final zero included.
_SOCKET_PATH_MAX = 100
_QUEUE_FULL = frozenset({errno.ENOBUFS, errno.ENOMEM})

_log = logger(__name__)


class Wakeup:
    """Tells waiting tasks, in this and in other processes, that something changed.

    A key is a small whole number (0 to 2**32 - 1) that the users of one file agree upon, such as the row id of a
    partition. Each key has a sequence that grows with every notification, so that none is lost between looking and
    waiting: take `sequence(key)`, look, and if there is nothing, `wait(key, seen)`.

    path: the file that is shared; None wakes this process only. Reaches processes of the same user and with the same
    temporary directory. Without Unix datagram sockets (Windows) waits end after 50 ms and their callers look again.
    All methods belong to the event loop in which it was opened.
    """

    def __init__(self, path: str | Path | None) -> None:
        self._directory = None if path is None else _directory_of(path)
        self._name = f"{os.getpid():x}-{secrets.token_hex(3)}"
        self._sequences: dict[int, int] = {}
        self._everything = 0
        self._waiters: dict[int, set[asyncio.Future[None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._listener: socket.socket | None = None
        self._peers: dict[str, socket.socket] = {}
        self._listed_mtime_ns = 0
        self._closed = False
        self._polling = False

    async def open(self) -> None:
        """Begin to listen, in the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._closed = False
        if self._directory is None or self._listener is not None:
            return
        try:
            self._listener = _bind(self._directory, self._name)
            self._loop.add_reader(self._listener.fileno(), self._received)
            sweep(os.path.dirname(self._directory), f"ensue-{os.getuid()}-")
        except (OSError, AttributeError, NotImplementedError) as error:
            # No such sockets here, or no usable temporary directory: slower, but still right.
            self._polling = True
            _log.warning("no wake-up between processes (%s): looking every %g s instead", error, POLL_S)
            self._stop_listening()

    async def close(self) -> None:
        """Stop listening and wake all who wait; safe to repeat."""
        self._closed = True
        self._stop_listening()
        for peer in self._peers.values():
            peer.close()
        self._peers.clear()
        self._listed_mtime_ns = 0
        self._wake_everything()

    def notify(self, keys: Iterable[int]) -> None:
        """Wake those who wait for one of `keys`, here and in other processes. Never raises, never blocks."""
        keys = tuple(keys)
        if not keys:
            return
        for key in keys:
            self._wake(key)
        if self._listener is None or self._directory is None:
            return
        self._refresh_peers(self._directory)
        if self._peers:
            many = len(keys) > _KEYS_MAX
            self._send(_EVERYTHING if many else struct.pack(f"<{len(keys)}I", *keys), self._directory)

    def sequence(self, key: int) -> int:
        """How often `key` was notified; grows only."""
        return self._sequences.get(key, 0) + self._everything

    async def wait(self, key: int, seen: int, timeout_s: float) -> int:
        """Return the sequence of `key` when it differs from `seen`, or after timeout_s, or at close.

        It may return early for nothing (see the class): look, then wait again for the rest.
        """
        if self._closed or timeout_s <= 0 or self.sequence(key) != seen:
            return self.sequence(key)
        loop = self._loop
        if loop is None:
            raise UsageError("Wakeup.wait() before open(): open it in the event loop that waits")
        waiter: asyncio.Future[None] = loop.create_future()
        waiters = self._waiters.setdefault(key, set())
        waiters.add(waiter)
        timer = loop.call_later(min(timeout_s, POLL_S) if self._polling else timeout_s, _settle, waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            waiters.discard(waiter)
            if not waiters and self._waiters.get(key) is waiters:
                del self._waiters[key]
        return self.sequence(key)

    # --- this process

    def _wake(self, key: int) -> None:
        self._sequences[key] = self._sequences.get(key, 0) + 1
        waiters = self._waiters.pop(key, None)
        if waiters:
            for waiter in waiters:
                _settle(waiter)

    def _wake_everything(self) -> None:
        self._everything += 1
        waiting, self._waiters = self._waiters, {}
        for waiters in waiting.values():
            for waiter in waiters:
                _settle(waiter)

    def _received(self) -> None:
        """The event loop calls this when datagrams have come."""
        listener = self._listener
        keys: set[int] = set()
        count = 0
        everything = False
        while listener is not None:
            try:
                datagram = listener.recv(4 * _KEYS_MAX)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                _log.warning("wake-up socket: %s", error)
                break
            count += 1
            if len(datagram) % 4:
                everything = True
            else:
                keys.update(key for (key,) in struct.iter_unpack("<I", datagram))
        if everything or count >= _OVERFLOW:
            self._wake_everything()
        else:
            for key in keys:
                self._wake(key)

    # --- other processes

    def _refresh_peers(self, directory: str) -> None:
        """Keep one connected socket for each listener in the directory.

        A socket of its own per listener: a stopped process that reads no more fills the buffer of its own socket
        only, and the others are still woken.
        """
        try:
            mtime_ns = os.stat(directory).st_mtime_ns
            if mtime_ns == self._listed_mtime_ns:
                return
            names = set(os.listdir(directory)) - {self._name}
        except OSError:  # the directory was cleaned away: nobody can be reached until they open again
            names, mtime_ns = set(), 0
        for name in self._peers.keys() - names:
            self._peers.pop(name).close()
        for name in names - self._peers.keys():
            peer = _connect(os.path.join(directory, name))
            if peer is not None:
                self._peers[name] = peer
        settled = time.time_ns() - mtime_ns > _SETTLED_NS
        self._listed_mtime_ns = mtime_ns if settled else 0

    def _send(self, datagram: bytes, directory: str) -> None:
        for name, peer in list(self._peers.items()):
            try:
                peer.send(datagram)
            except (BlockingIOError, InterruptedError):
                continue  # its queue is full, so it has wake-ups pending and will take them for "everything"
            except OSError as error:
                if error.errno in _QUEUE_FULL:
                    continue
                # Killed, or closed: the kernel refuses what nobody holds open any more.
                self._peers.pop(name).close()
                _unlink(os.path.join(directory, name))

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is None or self._directory is None:
            return
        if self._loop is not None and not self._loop.is_closed():
            with contextlib.suppress(NotImplementedError):
                self._loop.remove_reader(listener.fileno())
        listener.close()
        _unlink(os.path.join(self._directory, self._name))
        with contextlib.suppress(OSError):  # others are still in it
            os.rmdir(self._directory)


def announce(path: str | Path, key: int) -> None:
    """Wake those who wait for `key` in any process, from one that has no `Wakeup` of its own and no event loop. Never
    raises, never blocks: like any wake-up it is a hint, without which they wait a little longer."""
    if not hasattr(socket, "AF_UNIX"):
        return
    directory = _directory_of(path)
    try:
        names = os.listdir(directory)
    except OSError:  # nobody listens
        return
    for name in names:
        peer = _connect(os.path.join(directory, name))
        if peer is not None:
            with peer, contextlib.suppress(OSError):  # its queue is full, so it wakes up anyway; or it has just left
                peer.send(struct.pack("<I", key))


def _settle(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _directory_of(path: str | Path) -> str:
    """The private directory of a file: short, since the path of a socket holds some 100 bytes."""
    owner = os.getuid() if hasattr(os, "getuid") else 0
    file = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:16]
    name = f"ensue-{owner}-{file}"
    directory = os.path.join(tempfile.gettempdir(), name)
    room_for_name = 24
    return directory if len(directory) + room_for_name <= _SOCKET_PATH_MAX else os.path.join("/tmp", name)


def _bind(directory: str, name: str) -> socket.socket:
    """Return a listening socket in the directory, made when missing. Raises OSError when it cannot be trusted."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        listener.setblocking(False)
        while True:
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory, 0o700)
            found = os.lstat(directory)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
                raise PermissionError(f"{directory} is not a private directory of this user: remove it")
            try:
                listener.bind(os.path.join(directory, name))
                return listener
            except FileNotFoundError:
                continue  # the last listener left and took the directory away just now
    except BaseException:
        listener.close()
        raise


def _connect(path: str) -> socket.socket | None:
    """Return a socket connected to a listener, or None when nobody listens there."""
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        peer.setblocking(False)
        peer.connect(path)
        return peer
    except ConnectionRefusedError:
        _unlink(path)  # left behind by a killed process
    except OSError as error:
        _log.debug("wake-up socket %s: %s", path, error)
    peer.close()
    return None


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
