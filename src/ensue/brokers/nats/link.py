"""From options to a connection that works: one attempt at a time for all who ask, each host in turn, with backoff."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from typing import Any

from ensue.addresses import host_and_port
from ensue.brokers.nats.options import DEFAULT_PORT, NatsOptions
from ensue.brokers.nats.wire import Wire
from ensue.errors import BrokerUnavailable, UsageError, not_installed
from ensue.texts import logger

log = logger("ensue.nats")

_FIRST_PAUSE_S = 0.05
_PAUSE_MAX_S = 2.0


class Link:
    """Holds one connection; makes a new one when it is asked for one and the last is lost, or its server is to stop."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._wire: Wire | None = None
        self._left: list[Wire] = []  # whose servers are to stop: what was asked there is still answered
        self._connecting: asyncio.Task[Wire] | None = None
        self._pause_s = 0.0
        self._not_before = 0.0
        self._turn = 0
        self.is_open = False

    async def open(self) -> None:
        self.is_open = True
        try:
            await self.wire()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        self.is_open = False
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
            await asyncio.wait((connecting,))
            if not connecting.cancelled() and connecting.exception() is None:
                await connecting.result().close()
        wires, self._wire, self._left = [*self._left, self._wire], None, []
        for wire in wires:
            if wire is not None:
                await wire.close()

    async def wire(self) -> Wire:
        """Return a connection. Raises BrokerUnavailable after timeout_s (and a pause after earlier failures)."""
        if not self.is_open:
            raise BrokerUnavailable("the NATS broker is not open: call open() first")
        wire = self._wire
        if wire is not None and wire.alive:
            if wire.leaving and self._connecting is None and self._hosts():
                self._begin()
            return wire
        if self._connecting is None:
            self._begin()
        assert self._connecting is not None
        # Shielded: who gives up does not take the connection from the others that wait for it.
        return await asyncio.shield(self._connecting)

    def _begin(self) -> None:
        self._connecting = asyncio.create_task(self._connect())
        self._connecting.add_done_callback(self._connected)

    def _connected(self, task: asyncio.Task[Wire]) -> None:
        if self._connecting is not task:
            return
        self._connecting = None
        if task.cancelled():
            return
        if task.exception() is None:
            self._pause_s = 0.0
            self._left = [each for each in (*self._left, self._wire) if each is not None and each.alive]
            self._wire = task.result()
        else:
            self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _PAUSE_MAX_S)
            self._not_before = asyncio.get_running_loop().time() + self._pause_s

    async def _connect(self) -> Wire:
        if self._pause_s:
            await asyncio.sleep(self._not_before - asyncio.get_running_loop().time())
        options = self._options
        hosts = self._hosts()
        failures: list[str] = []
        cause: BaseException | None = None
        for host, port, name in hosts:
            try:
                async with asyncio.timeout(max(options.timeout_s / len(hosts), 0.5)):
                    return await connect(options, host, port, name)
            except TimeoutError as error:
                failures.append(f"{host}:{port} does not answer")
                cause = error
            except (OSError, BrokerUnavailable) as error:
                failures.append(f"{host}:{port}: {error}")
                cause = error
        raise BrokerUnavailable(
            f"NATS at {options.address} cannot be reached: {'; '.join(failures)}. Is it running?",
            address=options.address,
        ) from cause

    def _hosts(self) -> list[tuple[str, int, str]]:
        """Those of the URL, then those that a cluster told of; each attempt begins with another one.

        A cluster tells before TLS begins, so anybody on the way may have: with TLS, who is told of has to show a
        certificate for the name under which the server was met that told. None of a server that is about to stop.
        """
        known = {where: where[0] for where in self._options.hosts}
        if (wire := self._wire) is not None:
            for place in wire.info.get("connect_urls") or ():
                known.setdefault(host_and_port(place, DEFAULT_PORT), wire.name)
            if wire.alive and wire.leaving:
                known.pop(host_and_port(wire.address, DEFAULT_PORT), None)
        hosts = [(host, port, name) for (host, port), name in known.items()]
        begin = self._turn % max(len(hosts), 1)
        self._turn += 1
        return hosts[begin:] + hosts[:begin]


async def connect(options: NatsOptions, host: str, port: int, name: str) -> Wire:
    """Return a connection that is authorized; with TLS, to who has a certificate for `name`.

    Raises OSError, BrokerUnavailable, UsageError (files of TLS or of keys).
    """
    loop = asyncio.get_running_loop()
    shown = f"[{host}]" if ":" in host else host
    inbox = f"{options.inbox}.{secrets.token_hex(11)}"
    _, wire = await loop.create_connection(lambda: Wire(f"{shown}:{port}", inbox, name), host, port)
    try:
        await wire.informed
        if options.tls or wire.info.get("tls_required"):
            if not (wire.info.get("tls_required") or wire.info.get("tls_available")):
                raise BrokerUnavailable(f"NATS at {host}:{port} speaks no TLS, and the URL demands it")
            await wire.encrypt(options.ssl_context(), options.tls_hostname or name)
        hello = json.dumps(_hello(options, wire.info)).encode()
        wire.send(b"CONNECT %s\r\nSUB %s.* 1\r\n" % (hello, inbox.encode()))
        await wire.ping()
    except BaseException:
        wire.abort()
        raise
    return wire


def _hello(options: NatsOptions, info: dict[str, Any]) -> dict[str, object]:
    hello: dict[str, object] = {
        "verbose": False, "pedantic": False, "lang": "python-ensue", "version": "1", "protocol": 1, "name": "ensue",
        "headers": True, "no_responders": True,
    }  # fmt: skip
    if options.creds or options.nkey:
        hello |= _signed(options, str(info.get("nonce", "")).encode())
    elif options.user:
        hello |= {"user": options.user, "pass": options.password}
    elif options.token:
        hello["auth_token"] = options.token
    return hello


def _signed(options: NatsOptions, nonce: bytes) -> dict[str, object]:
    """The answer to the server's nonce: a signature by the seed in a file, and who that is, by a token or a key."""
    try:
        import nkeys  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise not_installed("the NATS URL names a creds or nkey file, which", "nats") from error
    path = options.creds or options.nkey
    try:
        with open(path, encoding="utf-8") as file:
            blocks = [line.strip() for line in file if line.strip() and not line.startswith(("-", "*", "#"))]
        token = next(line for line in blocks if line.count(".") == 2) if options.creds else ""
        pair = nkeys.from_seed(next(line for line in blocks if line.startswith("SU") and "." not in line).encode())
    except (OSError, StopIteration, ValueError, nkeys.NkeysError):
        expected = "a user's JWT and its seed in it" if options.creds else "a user's seed in it, which begins with SU"
        # Without a cause: what nkeys says may show the seed.
        raise UsageError(f"the NATS URL's file {path} cannot be used: expected {expected}") from None
    signature = base64.urlsafe_b64encode(pair.sign(nonce)).rstrip(b"=").decode()
    who = {"jwt": token} if options.creds else {"nkey": pair.public_key.decode()}
    return {**who, "sig": signature}
