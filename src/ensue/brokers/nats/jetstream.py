"""Requests to JetStream's API and what they answer, as values; errors of the server as ours."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import Any

import msgspec

from ensue.brokers.nats.link import Link
from ensue.brokers.nats.options import NatsOptions
from ensue.brokers.nats.wire import Wire
from ensue.errors import BrokerUnavailable
from ensue.message import Bounds

_encode = msgspec.json.Encoder().encode

STREAM_NOT_FOUND = 10059
NAME_IN_USE = 10058
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037
SUBJECTS_OVERLAP = 10065
#: How long one attempt waits before the same is asked again.
_ATTEMPT_S = 1.0


class ApiError(Exception):
    """What the server refused, by its own number."""

    def __init__(self, what: str, error: dict[str, Any]) -> None:
        self.code = int(error.get("err_code", 0))
        self.status = int(error.get("code", 0))
        self.description = str(error.get("description", ""))
        super().__init__(f"{what}: {self.description} (code {self.status}, {self.code})")


class StreamState(msgspec.Struct, frozen=True):
    messages: int = 0
    first_seq: int = 0
    last_seq: int = 0
    deleted: list[int] = []

    @property
    def bounds(self) -> Bounds:
        first = max(self.first_seq, 1) if self.messages else self.last_seq + 1
        return Bounds(first, self.last_seq)


class StreamInfo(msgspec.Struct, frozen=True):
    config: dict[str, Any]
    state: StreamState = StreamState()


class JetStream:
    """The API over a Link. Each call raises BrokerUnavailable without an answer, ApiError on a refusal."""

    def __init__(self, link: Link, options: NatsOptions) -> None:
        self._link = link
        self.options = options

    async def call(self, verb: str, body: object = None, *, wire: Wire | None = None, limit_s: float = 0.0) -> bytes:
        """Ask and return the answer. limit_s: for one attempt that must not be repeated (default: timeout_s in all).

        While a stream's leader is being elected a request is not answered late but never, so it is repeated.
        """
        wire = wire or await self._link.wire()
        subject = f"{self.options.api}.{verb}"
        payload = b"" if body is None else _encode(body)
        clock = asyncio.get_running_loop().time
        until = clock() + (limit_s or self.options.timeout_s)
        while True:
            try:
                left = max(until - clock(), 0.001)
                headers, payload = await wire.request(subject, payload, limit_s or min(left, _ATTEMPT_S))
                break
            except BrokerUnavailable:
                if not wire.alive:
                    raise
                if clock() >= until:
                    # Is it the server that is silent, or JetStream without a leader? A dead connection is given up.
                    await wire.answers_within(1.0)
                    raise
        if headers.startswith(b"NATS/1.0 503"):
            raise BrokerUnavailable(
                f"NATS at {wire.address}: JetStream does not answer to {subject}: it is not enabled (nats-server -js), "
                "not for this account, or the cluster has no leader yet",
                address=wire.address,
            )
        if b'"error":{' in payload:
            error = msgspec.json.decode(payload).get("error")
            if error:
                refused = ApiError(f"NATS at {wire.address}: {subject}", error)
                if refused.status >= 500:  # "temporarily unavailable", "insufficient resources"
                    raise BrokerUnavailable(str(refused), address=wire.address) from refused
                raise refused
        return payload

    # --- streams

    async def stream_info(self, name: str, *, deleted: bool = False) -> StreamInfo | None:
        """Return configuration and state, None for no such stream. deleted: with the list of holes."""
        try:
            answer = await self.call(f"STREAM.INFO.{name}", {"deleted_details": True} if deleted else None)
        except ApiError as error:
            if error.code == STREAM_NOT_FOUND:
                return None
            raise
        return msgspec.json.decode(answer, type=StreamInfo)

    async def stream_names(self, subject: str) -> list[str]:
        """Names of the streams that keep something of these subjects."""
        names: list[str] = []
        while True:
            answer = msgspec.json.decode(await self.call("STREAM.NAMES", {"subject": subject, "offset": len(names)}))
            found = answer.get("streams") or []
            names += found
            if not found or len(names) >= answer.get("total", 0):
                return names

    async def create(self, config: dict[str, Any], limit_s: float) -> dict[str, Any] | None:
        """Make a stream and return the configuration that came back; None when one of that name is configured else."""
        try:
            answer = await self.call(f"STREAM.CREATE.{config['name']}", config, limit_s=limit_s)
        except ApiError as error:
            if error.code == NAME_IN_USE:
                return None
            raise
        return msgspec.json.decode(answer, type=StreamInfo).config

    async def purge(self, name: str, before: int) -> int:
        """Delete what has a smaller sequence; return how many records that were."""
        # Not repeated: a second one would find nothing left to count.
        limit_s = self.options.timeout_s
        answer = msgspec.json.decode(await self.call(f"STREAM.PURGE.{name}", {"seq": before}, limit_s=limit_s))
        return int(answer.get("purged", 0))

    async def stored_at(self, name: str, subject: str, sequence: int) -> tuple[int, float] | None:
        """Sequence and time (epoch seconds) of the first record at or after `sequence`; None: there is none."""
        try:
            answer = await self.call(f"STREAM.MSG.GET.{name}", {"seq": sequence, "next_by_subj": subject})
        except ApiError as error:
            if error.code == MESSAGE_NOT_FOUND:
                return None
            raise
        found = msgspec.json.decode(answer)["message"]
        return int(found["seq"]), epoch_s(found["time"])


_FRACTION = re.compile(r"\.(\d+)")


def epoch_s(text: str) -> float:
    """Epoch seconds of RFC 3339 with up to nine decimals.

    >>> epoch_s("1970-01-01T00:00:01.500000001Z")
    1.500000001
    """
    fraction = _FRACTION.search(text)
    whole = datetime.fromisoformat(_FRACTION.sub("", text).replace("Z", "+00:00")).timestamp()
    return whole + (float(f"0.{fraction[1]}") if fraction else 0.0)
