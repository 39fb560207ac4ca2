"""One AMQP 0.9.1 connection on asyncio, with channels. It never reconnects: a broken one tells all who wait, and ends.

Why a client of our own: a log needs a dozen methods, but those at 20,000 records a second, with confirmations that are
counted rather than awaited one by one, and with channels that survive the cancellation of any call (ADR 24).
"""

from __future__ import annotations

import asyncio
import struct
from typing import cast

from ensue.brokers.flow import PacedProtocol
from ensue.brokers.rabbitmq import frames
from ensue.brokers.rabbitmq.channel import Channel
from ensue.brokers.rabbitmq.settings import RabbitMqSettings
from ensue.errors import BrokerUnavailable
from ensue.texts import logger

log = logger("ensue.rabbitmq")

_FRAME = struct.Struct(">BHI")
#: Stream queues came with 3.9.
VERSION_MIN = (3, 9)
_FRAME_MAX = 131_072


class Refused(BrokerUnavailable):
    """The server does not want us: credentials, virtual host, or version. Waiting does not help."""


class Connection(PacedProtocol):
    """`await Connection.open(settings)`; then `channel()`. Everything after a loss raises BrokerUnavailable."""

    def __init__(self, settings: RabbitMqSettings, where: tuple[str, int]) -> None:
        super().__init__()
        self.settings = settings
        self.where = where
        self.place = settings.place_of(where)
        #: Why the server takes nothing that is published now; empty: it does.
        self.blocked = ""
        self._unblocked = asyncio.Event()
        self._unblocked.set()
        self.frame_max = _FRAME_MAX
        self._channels: dict[int, Channel] = {}
        self._free: list[int] = []
        self._next = 1
        self._channel_max = 2047
        self._transport: asyncio.Transport | None = None
        self._rest = b""
        self._error: BrokerUnavailable | None = None
        self._methods: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._closed = asyncio.Event()
        self._heartbeat: asyncio.Task[None] | None = None
        self._heard = True

    @classmethod
    async def open(cls, settings: RabbitMqSettings) -> Connection:
        """Connect to one of the hosts, in turn, within settings.timeout_s.

        Raises BrokerUnavailable; Refused when it is no use to try again.
        """
        failures: list[BrokerUnavailable] = []
        for each in settings.hosts:
            try:
                return await _open_at(settings, each, settings.timeout_s / len(settings.hosts))
            except Refused:
                raise
            except BrokerUnavailable as error:
                failures.append(error)
        if len(failures) == 1:
            raise failures[0]
        raise BrokerUnavailable("; ".join(map(str, failures)), place=settings.place) from failures[-1]

    async def another(self) -> Connection:
        """Return one more connection to the same server. Raises BrokerUnavailable."""
        return await _open_at(self.settings, self.where, self.settings.timeout_s)

    async def close(self) -> None:
        """Tell the server, at most for a moment, and release everything."""
        transport = self._transport
        if transport is not None and not self._closed.is_set():
            if self._error is None:
                bye = struct.pack(">H", 200) + frames.short("bye") + bytes(4)
                transport.write(frames.method_frame(0, frames.CONNECTION_CLOSE, bye))
            self._fail(BrokerUnavailable(f"the broker at {self.place} is closed"))
            transport.close()
            try:
                async with asyncio.timeout(1.0):
                    await self._closed.wait()
            except TimeoutError:
                pass  # the other side takes nothing more: what was not sent is dropped
            finally:
                transport.abort()
        if self._heartbeat is not None:
            self._heartbeat.cancel()

    @property
    def is_open(self) -> bool:
        return self._error is None

    def check(self) -> None:
        """Raise what ended this connection."""
        if self._error is not None:
            raise self._error.again()

    @property
    def timeout_s(self) -> float:
        return self.settings.timeout_s

    # --- channels

    async def channel(self) -> Channel:
        """Return a new open channel. Raises BrokerUnavailable."""
        self.check()
        if self._free:
            number = self._free.pop()
        elif self._next <= self._channel_max:
            number, self._next = self._next, self._next + 1
        else:
            raise BrokerUnavailable(
                f"rabbitmq at {self.place} allows {self._channel_max} channels of a connection: all in use"
            )
        channel = Channel(self, number)
        self._channels[number] = channel
        try:
            await channel.call(frames.CHANNEL_OPEN, b"\x00", frames.CHANNEL_OPEN_OK)
        except BaseException:
            channel.close()
            raise
        return channel

    def release(self, number: int) -> None:
        """Both sides have closed the channel: its number may be used again."""
        if self._channels.pop(number, None) is not None:
            self._free.append(number)

    def write(self, data: bytes) -> None:
        self.check()
        assert self._transport is not None
        self._transport.write(data)

    async def drain(self) -> None:
        """Wait while the server takes less than we write, or nothing, at most timeout_s. Raises BrokerUnavailable."""
        if not (self._writable.is_set() and self._unblocked.is_set()):
            try:
                async with asyncio.timeout(self.settings.timeout_s):
                    await self._writable.wait()
                    await self._unblocked.wait()
            except TimeoutError as error:
                raise BrokerUnavailable(
                    f"rabbitmq at {self.place} takes no data: {self.blocked or 'a memory or disk alarm?'}"
                ) from error
        self.check()

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=1 << 20)
        self._transport.write(frames.PROTOCOL)

    def connection_lost(self, error: Exception | None) -> None:
        self._closed.set()
        self._fail(BrokerUnavailable(f"rabbitmq at {self.place}: {error or 'the connection was closed'}"))

    def data_received(self, data: bytes) -> None:
        self._heard = True
        data = self._rest + data if self._rest else data
        at, length = 0, len(data)
        try:
            while length - at >= 8:
                kind, number, size = _FRAME.unpack_from(data, at)
                end = at + 7 + size
                if size > self.frame_max:
                    raise ValueError(f"a frame of {size} bytes, more than the {self.frame_max} that were agreed on")
                if end >= length:
                    break
                if data[end] != 0xCE:
                    raise ValueError("a frame does not end where it says")
                self._frame(kind, number, data[at + 7 : end])
                at = end + 1
            self._rest = data[at:] if at else data
        except Exception as error:
            # After this nobody knows where the next frame begins.
            self._fail(BrokerUnavailable(f"rabbitmq at {self.place} sent what is no AMQP 0.9.1: {error!r}"))
            assert self._transport is not None
            self._transport.abort()

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if number:
            channel = self._channels.get(number)
            if channel is not None:
                channel.frame(kind, payload)
        elif kind == frames.METHOD:
            method = int.from_bytes(payload[:4], "big")
            if method == frames.CONNECTION_CLOSE:
                self._closed_by_server(payload)
            elif method in (frames.CONNECTION_BLOCKED, frames.CONNECTION_UNBLOCKED):
                self._note_blocked(frames.read_short(payload, 4)[0] if method == frames.CONNECTION_BLOCKED else "")
            else:
                self._methods.put_nowait((method, payload))

    def _note_blocked(self, reason: str) -> None:
        self.blocked = reason and f"it has blocked publishing ({reason})"
        if reason:
            self._unblocked.clear()
            log.warning("rabbitmq at %s: %s: what is published waits", self.place, self.blocked)
        else:
            self._unblocked.set()
            log.info("rabbitmq at %s takes what is published again", self.place)

    def _closed_by_server(self, payload: bytes) -> None:
        code = int.from_bytes(payload[4:6], "big")
        text, _ = frames.read_short(payload, 6)
        # 403: credentials; 530: no such virtual host, or no access to it.
        kind = Refused if code in (403, 530) else BrokerUnavailable
        assert self._transport is not None
        self._transport.write(frames.method_frame(0, frames.CONNECTION_CLOSE_OK))
        self._fail(kind(f"rabbitmq at {self.place} closed the connection: {code} {text}", code=code))
        self._transport.close()

    def _fail(self, error: BrokerUnavailable) -> None:
        if self._error is not None:
            return
        self._error = error
        self._writable.set()
        self._unblocked.set()
        self._methods.put_nowait(None)
        if self._heartbeat is not None:
            self._heartbeat.cancel()
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.fail(error)

    # --- handshake and heartbeat

    async def _handshake(self) -> None:
        settings = self.settings
        start = await self._method(frames.CONNECTION_START)
        server, at = frames.read_table(start, 6)
        version = server.get(b"version")
        _check_version(version.decode(errors="replace") if isinstance(version, bytes) else "", self.place)
        offered = start[at + 4 : at + 4 + int.from_bytes(start[at : at + 4], "big")].decode(errors="replace").split()
        if settings.mechanism not in offered:
            raise Refused(
                f"rabbitmq at {self.place} does not offer {settings.mechanism} here, but {', '.join(offered)}: see "
                "mechanism= in the URL, and auth_mechanisms (and rabbitmq_auth_mechanism_ssl) on the server",
                found=offered, expected=settings.mechanism,
            )  # fmt: skip
        capabilities = {
            "publisher_confirms": True, "consumer_cancel_notify": True, "authentication_failure_close": True,
            "basic.nack": True, "connection.blocked": True,
        }  # fmt: skip
        about = frames.table({"product": "ensue", "capabilities": capabilities})
        proof = f"\0{settings.user}\0{settings.password}" if settings.mechanism == "PLAIN" else ""
        self.write(
            frames.method_frame(
                0,
                frames.CONNECTION_START_OK,
                about + frames.short(settings.mechanism) + frames.long(proof.encode()) + frames.short("en_US"),
            )
        )
        tune = await self._method(frames.CONNECTION_TUNE)
        channel_max, frame_max, heartbeat = struct.unpack_from(">HIH", tune, 4)
        self._channel_max = min(channel_max or 65535, 65535)
        self.frame_max = min(frame_max or _FRAME_MAX, _FRAME_MAX)
        heartbeat = min(heartbeat or settings.heartbeat_s, settings.heartbeat_s)
        self.write(
            frames.method_frame(
                0, frames.CONNECTION_TUNE_OK, struct.pack(">HIH", self._channel_max, self.frame_max, heartbeat)
            )
        )
        self.write(frames.method_frame(0, frames.CONNECTION_OPEN, frames.short(settings.vhost) + b"\x00\x00"))
        await self._method(frames.CONNECTION_OPEN_OK)
        self._heartbeat = asyncio.create_task(self._beat(heartbeat))

    async def _method(self, expected: int) -> bytes:
        while True:
            found = await self._methods.get()
            if found is None:
                self.check()
            elif found[0] == expected:
                return found[1]

    async def _beat(self, seconds: int) -> None:
        """Say that we live, and end the connection when the server says nothing for two heartbeats."""
        silent = 0
        while True:
            await asyncio.sleep(seconds / 2)
            silent = 0 if self._heard else silent + 1
            self._heard = False
            if silent >= 4:
                self._fail(BrokerUnavailable(f"rabbitmq at {self.place} is silent for {2 * seconds} s"))
                assert self._transport is not None
                self._transport.abort()
                return
            self.write(frames.HEARTBEAT_FRAME)


def _check_version(version: str, place: str) -> None:
    found = tuple(int(each) if each.isdigit() else 0 for each in version.split(".")[:2])
    if found < VERSION_MIN:
        raise Refused(
            f"rabbitmq at {place} is version {version}, expected 3.9 or newer (stream queues)",
            found=version, expected="3.9",
        )  # fmt: skip


async def _open_at(settings: RabbitMqSettings, where: tuple[str, int], limit_s: float) -> Connection:
    connection = Connection(settings, where)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(limit_s):
            await loop.create_connection(lambda: connection, *where, ssl=settings.tls)
            await connection._handshake()
    except TimeoutError as error:
        await connection.close()
        raise BrokerUnavailable(
            f"rabbitmq at {connection.place} did not answer within {limit_s:g} s", place=connection.place
        ) from error
    except OSError as error:
        await connection.close()
        raise BrokerUnavailable(f"rabbitmq at {connection.place}: {error}", place=connection.place) from error
    except BaseException:
        await connection.close()
        raise
    return connection
