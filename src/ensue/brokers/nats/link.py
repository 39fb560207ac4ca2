"""From options to a connection that works: one attempt at a time for all who ask, each host in turn, with backoff."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from typing import Any

from ensue.brokers.nats.options import NatsOptions
from ensue.brokers.nats.wire import Wire
from ensue.errors import BrokerUnavailable, UsageError
from ensue.texts import logger

log = logger("ensue.nats")

_FIRST_PAUSE_S = 0.05
_PAUSE_MAX_S = 2.0


class Link:
    """Holds at most one connection; makes a new one when it is asked for one and the last is lost."""

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._wire: Wire | None = None
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
        wire, self._wire = self._wire, None
        if wire is not None:
            await wire.close()

    async def wire(self) -> Wire:
        """Return a connection. Raises BrokerUnavailable after timeout_s (and a pause after earlier failures)."""
        if not self.is_open:
            raise BrokerUnavailable("the NATS broker is not open: call open() first")
        wire = self._wire
        if wire is not None and wire.alive:
            return wire
        if self._connecting is None:
            self._connecting = asyncio.create_task(self._connect())
            self._connecting.add_done_callback(self._connected)
        # Shielded: who gives up does not take the connection from the others that wait for it.
        return await asyncio.shield(self._connecting)

    def _connected(self, task: asyncio.Task[Wire]) -> None:
        if self._connecting is not task:
            return
        self._connecting = None
        if task.cancelled():
            return
        if task.exception() is None:
            self._pause_s = 0.0
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
        for host, port in hosts:
            try:
                async with asyncio.timeout(max(options.timeout_s / len(hosts), 0.5)):
                    return await connect(options, host, port)
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

    def _hosts(self) -> list[tuple[str, int]]:
        """Those of the URL, then those that a cluster told of; each attempt begins with another one."""
        known = list(self._options.hosts)
        if self._wire is not None:
            for place in self._wire.info.get("connect_urls") or ():
                host, _, port = place.rpartition(":")
                if (host.strip("[]"), int(port)) not in known:
                    known.append((host.strip("[]"), int(port)))
        begin = self._turn % len(known)
        self._turn += 1
        return known[begin:] + known[:begin]


async def connect(options: NatsOptions, host: str, port: int) -> Wire:
    """Return a connection that is authorized. Raises OSError, BrokerUnavailable, UsageError (files of TLS)."""
    loop = asyncio.get_running_loop()
    inbox = f"{options.inbox}.{secrets.token_hex(11)}"
    _, wire = await loop.create_connection(lambda: Wire(f"{host}:{port}", inbox), host, port)
    try:
        await wire.informed
        if options.tls or wire.info.get("tls_required"):
            if not (wire.info.get("tls_required") or wire.info.get("tls_available")):
                raise BrokerUnavailable(f"NATS at {host}:{port} speaks no TLS, and the URL begins with tls:")
            await wire.encrypt(options.ssl_context(), options.tls_hostname or host)
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
    if options.creds:
        hello |= _signed(options.creds, str(info.get("nonce", "")))
    elif options.user:
        hello |= {"user": options.user, "pass": options.password}
    elif options.token:
        hello["auth_token"] = options.token
    return hello


def _signed(path: str, nonce: str) -> dict[str, object]:
    """The answer to the server's nonce by a credentials file: its user token, and a signature by its seed."""
    try:
        import nkeys  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError as error:
        raise UsageError("the NATS URL names a creds file, which needs: pip install nkeys") from error
    try:
        with open(path, encoding="utf-8") as file:
            blocks = [line.strip() for line in file if line.strip() and not line.startswith(("-", "*"))]
        token = next(line for line in blocks if line.count(".") == 2)
        seed = next(line for line in blocks if line.startswith("SU") and "." not in line)
    except (OSError, StopIteration) as error:
        raise UsageError(f"the creds file {path} cannot be used: expected a user's JWT and its seed in it") from error
    signature = nkeys.from_seed(seed.encode()).sign(nonce.encode())
    return {"jwt": token, "sig": base64.urlsafe_b64encode(signature).rstrip(b"=").decode()}
