"""What a statement of a user's session does besides its work, told from its text before it is sent.

It may end the transaction that the step shares with other messages: then it is refused, since what a COMMIT (or a
statement that commits by itself) has made durable cannot be done again without doubling it. It may leave something on
the connection for those who use it next. It may set a savepoint, or go back to one, and events go with it.
A procedure that commits cannot be seen here; what it has done shows afterwards, in the state of the connection.
"""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ensue.stores import rules

_NEVER = r"(?!)"
#: Longer texts (rows in bulk) are told by how they begin, or looked at each time when a semicolon is in them.
_KEPT_CHARS, _KEPT = 4_000, 2_000
_SAVEPOINT = re.compile(r"\s*SAVEPOINT\s+(\S+?)[\s;]*$", re.I)
_BACK = re.compile(r"\s*ROLLBACK\s+(?:(?:WORK|TRANSACTION)\s+)?TO\s+(?:SAVEPOINT\s+)?(\S+?)[\s;]*$", re.I)
_ASSIGNED = re.compile(r"\s*(?:SET\s+)?(?:@@)?(?:(?:SESSION|LOCAL)\s*[.\s]\s*)?([a-z_]\w*)\s*:?=", re.I)
_TEMPORARY = re.compile(r"\s*CREATE\s.*?\bTABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?((?:`[^`]*`|[^\s(`])+)", re.I | re.S)
_SET = re.compile(r"\s*SET\b", re.I)
_BODY = re.compile(r"\s*CREATE\b", re.I)


class Left(enum.IntEnum):
    """What is left behind, and until when."""

    NOTHING = 0
    IN_STEP = 1
    """Until the transaction ends."""
    ON_CONNECTION = 2


class Effect(NamedTuple):
    """ends: the words by which it would end the transaction. savepoint: the name of one that it sets; back: of one to
    which it goes back. assigned, made: names of settings and of temporary tables."""

    ends: str = ""
    left: Left = Left.NOTHING
    savepoint: str = ""
    back: str = ""
    assigned: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


NONE = Effect()


class Words:
    """A database's words, as regular expressions.

    noise: comments and quoted texts. ends: how a statement begins that ends the transaction, or changes what the step
    relies on. in_step, on_connection: how one begins that leaves something; within, in_step_within: what leaves
    something wherever it stands, on the connection or in the step.
    """

    def __init__(
        self,
        *,
        noise: str,
        ends: str,
        in_step: str = _NEVER,
        on_connection: str = _NEVER,
        within: str = _NEVER,
        in_step_within: str = _NEVER,
    ) -> None:
        self._noise = re.compile(noise, re.S)
        self._ends = re.compile(rf"[\s(]*((?:{ends})\b)", re.I | re.S)
        self._in_step = re.compile(rf"\s*(?:{in_step})", re.I | re.S)
        self._on_connection = re.compile(rf"\s*(?:{on_connection})\b", re.I | re.S)
        self._within = re.compile(within, re.I | re.S)
        self._in_step_within = re.compile(in_step_within, re.I | re.S)
        self._known: Callable[[str], Effect] = functools.lru_cache(_KEPT)(self._look)

    def effect(self, text: str) -> Effect:
        if len(text) <= _KEPT_CHARS:
            return self._known(text)
        return self._look(text) if ";" in text else self._known(text[:_KEPT_CHARS])

    def _look(self, text: str) -> Effect:
        plain = self._noise.sub(" ", text)
        parts = [plain] if _BODY.match(plain) else plain.split(";")  # what a function or trigger does has its own ;
        ends = next((found[1] for part in parts if (found := self._ends.match(part))), "")
        left = max(map(self._left, parts))
        savepoint, back = _SAVEPOINT.match(text), _BACK.match(text)
        effect = Effect(
            ends=" ".join(ends.upper().split()),
            left=left,
            savepoint=_name(savepoint),
            back=_name(back),
        )
        if left:
            settings = (each for part in parts if _SET.match(part) for each in part.split(","))
            names = (found[1].lower() for each in settings if (found := _ASSIGNED.match(each)))
            made = _TEMPORARY.match(text)
            effect = effect._replace(assigned=tuple(names), made=(made[1],) if made else ())
        return NONE if effect == NONE else effect

    def _left(self, part: str) -> Left:
        if self._in_step.match(part):
            return Left.IN_STEP
        if self._on_connection.match(part) or self._within.search(part):
            return Left.ON_CONNECTION
        return Left.IN_STEP if self._in_step_within.search(part) else Left.NOTHING


def _name(found: re.Match[str] | None) -> str:
    return found[1].strip('"`').lower() if found else ""


class Watch:
    """What the statements of one transaction's session have done besides their work.

    left: at most. altered: the transaction does not find the connection as it was made. assigned, made: see Effect.
    published: see `StepTransaction.follow`.
    """

    __slots__ = ("_savepoints", "_words", "altered", "assigned", "left", "made", "published")

    def __init__(self, words: Words) -> None:
        self._words = words
        self.begin()

    def begin(self) -> None:
        """Nothing is known of a new transaction."""
        self.left = Left.NOTHING
        self.altered = False
        self.assigned: set[str] = set()
        self.made: set[str] = set()
        self.published: list[Any] = []
        self._savepoints: list[tuple[str, int]] = []

    def before(self, text: str) -> Effect:
        """Raise UsageError for a statement that would end the transaction, or undo what others have done in it."""
        effect = self._words.effect(text)
        if effect.ends:
            raise rules.ends_the_step(effect.ends)
        if effect.back and all(name != effect.back for name, _ in self._savepoints):
            raise rules.unknown_savepoint(effect.back)
        if effect.left:
            self.left = max(self.left, effect.left)
            self.altered = True
            self.assigned.update(effect.assigned)
            self.made.update(effect.made)
        return effect

    def after(self, effect: Effect) -> None:
        """It has been done, without an error."""
        if effect.savepoint:
            self._savepoints.append((effect.savepoint, len(self.published)))
        elif effect.back:
            while self._savepoints:
                name, published = self._savepoints[-1]
                if name == effect.back:  # it is still there: it can be gone back to again
                    del self.published[published:]
                    return
                self._savepoints.pop()

    def follow(self, published: list[Any]) -> None:
        self.published = published
        self._savepoints.clear()

    def forget_savepoints(self) -> None:
        """Those of a message that has ended are of no concern to the next one."""
        self._savepoints.clear()

    def restored(self) -> None:
        """The connection is as it was made, as far as this transaction can tell."""
        self.altered = False
        self.assigned.clear()
        self.made.clear()
