"""What of an answer is kept for an Idempotency-Key, and what is given again. For any framework."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from ensue.errors import UsageError

#: Where a kept answer says which places its step has published to: (service, topic, partition). Clients never see it.
PLACES: Final = "ensue-places"
#: Says that an answer was given before.
REPLAYED: Final = "Idempotency-Replayed"
#: Headers of an answer that are not given again: those of one connection, those that are made anew, and what the answer
#: told a browser to keep.
_NOT_KEPT = frozenset(
    {
        "age", "connection", "content-length", "date", "ensue-token", "idempotency-replayed", "keep-alive",
        "proxy-authenticate", "proxy-connection", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade",
        "x-correlation-id",
    }
)  # fmt: skip


def says_failed(status: int) -> bool:
    """Clients send a request again that was answered so: what it did is rolled back, and its answer is not kept."""
    return status >= 500


def kept_headers(headers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Those that are given again, their names in lower case. One that came several times has its values joined."""
    joined: dict[str, str] = {}
    for written, value in headers:
        name = written.lower()
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    hop_by_hop = {name.strip().lower() for name in joined.get("connection", "").split(",")}
    return {name: value for name, value in joined.items() if name not in _NOT_KEPT and name not in hop_by_hop}


def headers_again(kept: Mapping[str, str], *, places: bool = False) -> dict[str, str]:
    """places: somebody takes that header out, before the client sees it."""
    return {**{name: value for name, value in kept.items() if places or name != PLACES}, REPLAYED: "true"}


def cannot_be_kept(where: str, answer: object) -> UsageError:
    return UsageError(
        f"{where}: a {type(answer).__name__} has no body that could be kept for its Idempotency-Key; return a response "
        "with a body"
    )
