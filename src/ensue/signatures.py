"""Who is believed: whether records must be signed, with which keys, and what need not be. Values; nothing is read here.

A signature is an HMAC-SHA256 with a key of the service that sends: `<key id>.<64 hexadecimal digits>`. Whoever verifies
knows that key too, and could sign with it: keys tell services from strangers, and from each other only as far as each
is given the keys of those alone from whom it reads. See docs/how-to/who-may-write.md.
"""

from __future__ import annotations

import dataclasses
import hmac
import re
from collections.abc import Callable, Iterable

from ensue.errors import UsageError
from ensue.message import CONTROL_TOPIC, Message

#: A secret of fewer characters could be guessed. `python -c "import secrets; print(secrets.token_urlsafe(32))"`: 43.
SECRET_CHARS_MIN = 32
_KEY = re.compile(r"([a-z0-9_-]{1,100})/([A-Za-z0-9_-]{1,40}):(\S+)")


@dataclasses.dataclass(frozen=True, slots=True)
class Key:
    service: str
    """Whose records it signs."""
    id: str
    """Goes with each signature, so that a new key can come before the old one goes."""
    secret: str = dataclasses.field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) < SECRET_CHARS_MIN:
            raise UsageError(
                f"the key {self.service}/{self.id} has a secret of {len(self.secret)} characters, expected at least "
                f'{SECRET_CHARS_MIN}: python -c "import secrets; print(secrets.token_urlsafe(32))" makes one'
            )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Whom a service believes. A service that has a key of its own signs, whatever it asks of others."""

    signed: bool = False
    """Every record must be signed by its source; others are refused."""
    keys: tuple[Key, ...] = dataclasses.field(default=(), repr=False)
    """Of all services whose records are read, and the service's own. Of several of one service each is accepted, and
    the first one signs."""
    unsigned_topics: frozenset[str] = frozenset()
    """Where applications that do not sign may write: sources of which there is no key."""
    unsigned_sources: frozenset[str] = frozenset()
    """CloudEvents sources that do not sign."""
    _hashes: dict[tuple[str, str], hmac.HMAC] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        hashes: dict[tuple[str, str], hmac.HMAC] = {}
        for each in self.keys:
            if (each.service, each.id) in hashes:
                raise UsageError(f"there are two keys {each.service}/{each.id}: give the new one an id of its own")
            hashes[each.service, each.id] = hmac.new(each.secret.encode(), digestmod="sha256")
        object.__setattr__(self, "_hashes", hashes)
        if CONTROL_TOPIC in self.unsigned_topics:
            raise UsageError(
                f"unsigned_topics names {CONTROL_TOPIC}, through which services ask each other: leave it out"
            )
        services = {each.service for each in self.keys}
        if known := sorted(each for each in self.unsigned_sources if owner_of(each) in services):
            raise UsageError(
                f"unsigned_sources names {', '.join(known)}, of which there is a key: leave one of them out"
            )

    def check(self, service: str) -> None:
        """Raise UsageError when this service could not be believed itself."""
        if self.signed and not any(each.service == service for each in self.keys):
            known = ", ".join(sorted({each.service for each in self.keys})) or "none"
            raise UsageError(
                f"service {service} takes signed records only (ENSUE_TRUST=signed), and has no key of its own to sign "
                f"with; there are keys of: {known}. Write {service}/<key id>:<secret> into ENSUE_KEYS or the file that "
                "ENSUE_KEYS_FILE names"
            )

    def signer(self, service: str) -> Callable[[bytes], str] | None:
        """What signs with the first key of a service; None: it has none."""
        key = next((each for each in self.keys if each.service == service), None)
        if key is None:
            return None
        name, started = key.id, self._hashes[key.service, key.id]

        def sign(data: bytes) -> str:
            digest = started.copy()
            digest.update(data)
            return f"{name}.{digest.hexdigest()}"

        return sign

    def refusal(self, message: Message, signed: Callable[[Message], bytes]) -> str:
        """Why a record is not believed; empty: it is. signed: returns what its signature covers."""
        owner = owner_of(message.source)
        name, _, digest = message.envelope.signature.partition(".")
        started = self._hashes.get((owner, name)) if digest else None
        if started is not None:
            return (
                "" if _genuine(started, signed(message), digest) else f"its signature is not that of key {owner}/{name}"
            )
        if self._may_be_unsigned(message, owner):
            return ""
        if not digest:
            return "it is not signed"
        return f"it is signed with key {owner}/{name[:40]}, which is not known here"

    def refuses(self, owner: str, signature: str, data: bytes) -> str:
        """Why something that is no record, `data`, is not believed; empty: it is. owner: the service that signed it."""
        name, _, digest = signature.partition(".")
        started = self._hashes.get((owner, name)) if digest else None
        if started is not None:
            return "" if _genuine(started, data, digest) else f"its signature is not that of key {owner}/{name}"
        if not self.signed:
            return ""
        return f"it is signed with key {owner}/{name[:40]}, which is not known here" if digest else "it is not signed"

    def _may_be_unsigned(self, message: Message, owner: str) -> bool:
        """Never what Ensue's own loops say to each other, and never in the name of a service that signs."""
        if message.envelope.type.startswith("ensue.") or any(each.service == owner for each in self.keys):
            return False
        return message.topic in self.unsigned_topics or message.source in self.unsigned_sources


def _genuine(started: hmac.HMAC, data: bytes, digest: str) -> bool:
    expected = started.copy()
    expected.update(data)
    return hmac.compare_digest(expected.hexdigest().encode(), digest.encode())


def read_keys(lines: Iterable[str], where: str) -> tuple[Key, ...]:
    """Read keys, `<service>/<key id>:<secret>` a line; a line that begins with # is a comment.

    where: what an error names. Raises UsageError, which never tells what may be a secret.
    """
    keys: list[Key] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _KEY.fullmatch(text)
        if found is None:
            raise UsageError(f"{where}: key {number} is not written as <service>/<key id>:<secret>")
        keys.append(Key(*found.groups()))
    return tuple(keys)


def owner_of(source: str) -> str:
    """The service of a source: `orders` of `orders/4f2a`, and of `orders` itself, which asks for a resend. A version
    of a view asks in the name of the view, with its key.

    >>> owner_of("orders/4f2a"), owner_of("orders"), owner_of("history@2")
    ('orders', 'orders', 'history')
    """
    return source.partition("/")[0].partition("@")[0]
