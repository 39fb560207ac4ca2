"""One connection in the NATS protocol: lines in, lines out, and who waits for which answer.

Why not nats-py on this path: it takes 6 regular expressions and a header dictionary a message (41,000 messages/s, see
ADR 23), and a cancel that falls into its flush is swallowed. Source: NATS client protocol, docs.nats.io.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from itertools import count
from typing import Any, Protocol, cast

from ensue.brokers.flow import PacedProtocol
from ensue.errors import BrokerUnavailable
from ensue.texts import logger

log = logger("ensue.nats")

#: A server is believed to keep to these: INFO names all servers of a cluster, max_payload is 64 MB at most.
_LINE_BYTES_MAX, _MESSAGE_BYTES_MAX = 1 << 20, 1 << 27
#: What the server says when it takes nothing for a subject: all others go on.
_FORBIDDEN = re.compile(rb'Permissions Violation for Publish to "([^"]+)"')
_MSG, _HMSG, _PING, _ERR, _INFO = b"M"[0], b"H"[0], b"P"[0], b"-"[0], b"I"[0]


class Expecting(Protocol):
    """Who waits for answers to what it sent. Called on the event loop; must not raise."""

    def arrived(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None: ...

    def failed(self, error: BrokerUnavailable) -> None:
        """The connection is lost, or the server forbids something: nothing more arrives."""

    def forbidden(self, subject: str, error: BrokerUnavailable) -> None:
        """The server lets nobody send to that subject on this connection."""


class OneAnswer:
    """The answer to one request, sent to a subject."""

    def __init__(self, subject: str = "") -> None:
        self._subject = subject
        self.future: asyncio.Future[tuple[bytes, bytes]] = asyncio.get_running_loop().create_future()

    def arrived(self, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        if not self.future.done():
            self.future.set_result((headers, payload))

    def failed(self, error: BrokerUnavailable) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def forbidden(self, subject: str, error: BrokerUnavailable) -> None:
        if subject == self._subject:
            self.failed(error)


class Wire(PacedProtocol):
    """A connection, from INFO to its loss; it never reconnects (see Link).

    name: what the server's certificate has to be for, where it shows one.
    answers: by token, the last part of a subject below `inbox`, of which there is one subscription (number 1).
    """

    def __init__(self, address: str, inbox: str, name: str = "") -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.address = address
        self.name = name
        self.inbox = inbox
        self.info: dict[str, Any] = {}
        self.informed: asyncio.Future[None] = loop.create_future()
        self.lost: BrokerUnavailable | None = None
        #: The server has said that it stops soon (lame duck mode). It answers until then.
        self.leaving = False
        self.answers: dict[bytes, Expecting] = {}
        self.subscriptions: dict[bytes, Expecting] = {}
        self._token_at = len(inbox) + 1
        self._numbers = count(2)
        self._transport: asyncio.Transport | None = None
        self._pongs: list[asyncio.Future[None]] = []
        self._error = ""
        self._rest: list[bytes] = []  # an unfinished message
        self._have = 0
        self._need = 0
        self._gone = asyncio.Event()

    # --- what the loop calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its bases

    def connection_lost(self, error: Exception | None) -> None:
        why = self._error or (str(error) if error else "the server closed the connection")
        self.lost = BrokerUnavailable(f"NATS at {self.address}: {why}", address=self.address)
        waiting: list[asyncio.Future[None]] = [self.informed, *self._pongs]
        for future in waiting:
            if not future.done():
                future.set_exception(self.lost)
                future.exception()  # whoever waits gets it; nobody need wait
        self._pongs = []
        self._fail_all(self.lost)
        self.answers.clear()
        self.subscriptions.clear()
        self._writable.set()
        self._gone.set()

    def _fail_all(self, error: BrokerUnavailable) -> None:
        for each in [*self.answers.values(), *self.subscriptions.values()]:
            each.failed(error)

    def data_received(self, data: bytes) -> None:
        if self._rest:
            self._rest.append(data)
            self._have += len(data)
            if self._have < self._need:
                return
            data = b"".join(self._rest)
            self._rest = []
        try:
            at = self._parse(data)
        except Exception as error:
            # After this nobody knows where the next message begins.
            self._error = f"the server sent what is no NATS: {error!r}"
            self.abort()
            return
        if at < len(data):
            self._rest = [data[at:]]
            self._have = len(data) - at
            self._need -= at

    def _parse(self, data: bytes) -> int:
        """Handle all that is complete; return where the incomplete begins. `_need`: what that needs, from the start."""
        at, size = 0, len(data)
        find, answers, subscriptions, token_at = data.find, self.answers, self.subscriptions, self._token_at
        while True:
            end = find(b"\r\n", at)
            if end < 0:
                if size - at > _LINE_BYTES_MAX:
                    raise ValueError(f"a line of more than {_LINE_BYTES_MAX} bytes")
                self._need = 0
                return at
            kind = data[at]
            if kind in (_HMSG, _MSG):
                words = data[at:end].split()
                body = end + 2
                length = int(words[-1])
                if not 0 <= length <= _MESSAGE_BYTES_MAX:
                    raise ValueError(f"a message of {words[-1][:40]!r} bytes")
                whole = body + length + 2
                if whole > size:
                    self._need = whole
                    return at
                start = body
                headers = b""
                if kind == _HMSG:
                    start += int(words[-2])
                    if not body <= start <= whole - 2:
                        raise ValueError(f"headers of {words[-2][:40]!r} bytes")
                    headers = data[body:start]
                subject, number = words[1], words[2]
                if number == b"1":
                    expecting = answers.get(subject[token_at:])
                    reply = b""
                else:
                    expecting = subscriptions.get(number)
                    reply = words[3] if len(words) == (6 if headers else 5) else b""
                if expecting is not None:
                    expecting.arrived(subject, reply, headers, data[start : whole - 2])
                at = whole
            else:
                self._line(kind, data[at:end])
                at = end + 2

    def _line(self, kind: int, line: bytes) -> None:
        if kind == _PING:
            if line.startswith(b"PING"):
                self.send(b"PONG\r\n")
            elif self._pongs:
                pong = self._pongs.pop(0)
                if not pong.done():
                    pong.set_result(None)
        elif kind == _INFO:
            self.info |= json.loads(line[5:])
            if self.info.get("ldm") and not self.leaving:
                self.leaving = True
                log.info("NATS at %s is about to stop (lame duck mode): another server is looked for", self.address)
            if not self.informed.done():
                self.informed.set_result(None)
        elif kind == _ERR:
            # Either the server closes the connection now, or it forbids a subject and goes on.
            self._error = f"the server says {line[5:].decode(errors='replace')}"
            log.warning("NATS at %s: %s", self.address, self._error)
            if b"Permissions Violation" in line:
                error = BrokerUnavailable(f"NATS at {self.address}: {self._error}", address=self.address)
                self._error = ""
                subject = _FORBIDDEN.search(line)
                if subject is None:
                    self._fail_all(error)
                    return
                for each in [*self.answers.values(), *self.subscriptions.values()]:
                    each.forbidden(subject[1].decode(errors="replace"), error)

    # --- what we do

    @property
    def alive(self) -> bool:
        return self.lost is None and self._transport is not None and not self._transport.is_closing()

    @property
    def max_payload(self) -> int:
        return int(self.info.get("max_payload", 1 << 20))

    def send(self, data: bytes) -> None:
        if self.lost is not None:
            raise self.lost
        if self._transport is not None:
            self._transport.write(data)

    async def drain(self) -> None:
        """Return when the system has taken most of what was sent."""
        await self._writable.wait()
        if self.lost is not None:
            raise self.lost

    async def encrypt(self, context: ssl.SSLContext, host: str) -> None:
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        transport = await loop.start_tls(self._transport, self, context, server_hostname=host)
        if transport is None:  # the connection was lost meanwhile
            raise self.lost or BrokerUnavailable(f"NATS at {self.address}: closed while TLS began")
        self._transport = transport

    def ping(self) -> asyncio.Future[None]:
        """Done when the server has handled all that was sent before."""
        pong: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.send(b"PING\r\n")
        self._pongs.append(pong)
        return pong

    async def answers_within(self, limit_s: float) -> bool:
        """Whether the server still speaks to us; a connection over which it does not is given up."""
        try:
            async with asyncio.timeout(limit_s):
                await self.ping()
        except (TimeoutError, BrokerUnavailable):
            self.abort()
            return False
        return True

    def expect(self, expecting: Expecting) -> bytes:
        """Return the token under which its answers come. Give it back by `answers.pop`."""
        if self.lost is not None:
            raise self.lost
        token = b"%d" % next(self._numbers)
        self.answers[token] = expecting
        return token

    async def request(self, subject: str, payload: bytes, limit_s: float) -> tuple[bytes, bytes]:
        """Return headers and payload of the first answer. Raises BrokerUnavailable after limit_s."""
        answer = OneAnswer(subject)
        token = self.expect(answer)
        try:
            reply = f"{self.inbox}.{token.decode()}"
            self.send(f"PUB {subject} {reply} {len(payload)}\r\n".encode() + payload + b"\r\n")
            async with asyncio.timeout(limit_s):
                return await answer.future
        except TimeoutError as error:
            raise BrokerUnavailable(
                f"NATS at {self.address}: no answer to {subject} within {limit_s:g} s", address=self.address
            ) from error
        finally:
            self.answers.pop(token, None)

    def subscribe(self, expecting: Expecting) -> tuple[bytes, str]:
        """Return the number of a new subscription and the subject to which its messages are to be sent."""
        number = b"%d" % next(self._numbers)
        subject = f"{self.inbox}S.{number.decode()}"
        self.send(b"SUB %s.> %s\r\n" % (subject.encode(), number))
        self.subscriptions[number] = expecting
        return number, subject

    def unsubscribe(self, number: bytes) -> None:
        if self.subscriptions.pop(number, None) is not None and self.alive:
            self.send(b"UNSUB %s\r\n" % number)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self, limit_s: float = 1.0) -> None:
        """Send what is written and close; by force after limit_s."""
        if self._transport is None:
            return
        self._transport.close()
        try:
            async with asyncio.timeout(limit_s):
                await self._gone.wait()
        except TimeoutError:
            self._transport.abort()
            await self._gone.wait()
        finally:
            self._transport.abort()
