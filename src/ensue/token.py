"""Tokens: what was written, as positions, for a reader elsewhere to wait for. Values and rules; nothing is asked here.

A token says of each (source, topic, partition) which position a client has written. Its text is opaque to clients, who
hand it back as they got it. It is a client's input: whatever it holds, reading it is bounded.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Annotated, Final, NamedTuple

import msgspec

from ensue.codec import POSITION_MAX
from ensue.errors import TokenInvalid, UsageError
from ensue.signatures import Trust

#: A client may send so much; a step that published to more places has no token.
PARTS_MAX: Final = 64
TEXT_BYTES_MAX: Final = 8 * 1024
_VERSION = "1"
#: What a signature covers begins so: that of a token is never that of a record.
_SIGNED = b"ensue token\n"
_TEXT = re.compile(r"1\.([A-Za-z0-9_-]+)(?:\.([a-z0-9_-]{1,100}\.[A-Za-z0-9_-]{1,40}\.[0-9a-f]{64}))?", re.ASCII)

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Number = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
_Position = Annotated[int, msgspec.Meta(ge=1, le=POSITION_MAX)]


class Part(NamedTuple):
    """One source's position in one partition of a topic."""

    source: _Name
    topic: _Name
    partition: _Number
    position: _Position


_decode = msgspec.json.Decoder(list[Part]).decode
_encode = msgspec.json.Encoder().encode


@dataclasses.dataclass(frozen=True, slots=True)
class Token:
    """parts: each place once, in order. `a | b` is what both say: of each place the greater position.

    `str(token)` is its text, for a header say; `Token.parse` reads that. signature: `<service>.<key id>.<digits>` of
    who made it, where that service has a key; what is merged is signed by nobody.
    """

    parts: tuple[Part, ...] = ()
    signature: str = dataclasses.field(default="", compare=False)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Token:
        """Raises UsageError for more places than a token may have."""
        furthest: dict[tuple[str, str, int], int] = {}
        for source, topic, partition, position in parts:
            place = (source, topic, partition)
            furthest[place] = max(position, furthest.get(place, 0))
        if len(furthest) > PARTS_MAX:
            raise UsageError(
                f"a token of {len(furthest)} places, expected at most {PARTS_MAX}: a client waits for what one request "
                "did. Where many steps, or one for many keys, are to be waited for, wait for the last of each key"
            )
        return cls(tuple(Part(*place, position) for place, position in sorted(furthest.items())))

    def __or__(self, other: Token) -> Token:
        merged = Token.of((*self.parts, *other.parts))
        for each in (self, other):
            if merged == each:
                return each  # with its signature
        return merged

    def __bool__(self) -> bool:
        """Whether there is anything to wait for."""
        return bool(self.parts)

    def __str__(self) -> str:
        if not self.parts:
            return ""
        text = f"{_VERSION}.{_base64(_encode(self.parts))}" + (f".{self.signature}" if self.signature else "")
        if len(text) > TEXT_BYTES_MAX:
            raise UsageError(
                f"a token of {len(text)} bytes, expected at most {TEXT_BYTES_MAX}: its topics' names are long"
            )
        return text

    def signed(self, service: str, sign: Callable[[bytes], str] | None) -> Token:
        """As `service` signs it; as it is, when that has no key."""
        if sign is None or not self.parts:
            return self
        return Token(self.parts, f"{service}.{sign(_SIGNED + _encode(self.parts))}")

    @classmethod
    def parse(cls, text: str, trust: Trust | None = None) -> Token:
        """Read the text of a token, or of several, with commas between: what all of them say.

        trust: says which signatures are believed, and whether there must be one. Raises TokenInvalid.
        """
        if len(text) > TEXT_BYTES_MAX:
            raise _invalid(f"it has {len(text)} characters, expected at most {TEXT_BYTES_MAX}")
        found: list[Token] = []
        for each in filter(None, (piece.strip(" \t") for piece in text.split(","))):
            token = _read(each)
            if trust is not None and (refusal := _refusal(token, trust)):
                raise _invalid(refusal)
            found.append(token)
        if len(found) == 1:
            return found[0]
        places = {part[:3] for each in found for part in each.parts}
        if len(places) > PARTS_MAX:
            raise _invalid(f"it has {len(places)} parts, expected at most {PARTS_MAX}")
        return cls.of(part for each in found for part in each.parts)


def _read(text: str) -> Token:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise _invalid("it is not written as one")
    encoded, signature = match.groups()
    try:
        parts = _decode(base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _invalid("it is damaged") from None
    if not 1 <= len(parts) <= PARTS_MAX:
        raise _invalid(f"it has {len(parts)} parts, expected 1 to {PARTS_MAX}")
    return Token(Token.of(parts).parts, signature or "")


def _refusal(token: Token, trust: Trust) -> str:
    """Why a token is not believed; empty: it is."""
    owner, _, signature = token.signature.partition(".")
    return trust.refuses(owner, signature, _SIGNED + _encode(token.parts))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _invalid(why: str) -> TokenInvalid:
    return TokenInvalid(f"a token cannot be taken: {why}. Send tokens as they were received, or none")
