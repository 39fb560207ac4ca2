"""Who may do what over HTTP: roles, actors, and the role that each action needs. No I/O but what the host's `authorize`
does, and no default that lets anybody in (docs/adr/0054)."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ensue.addresses import masked
from ensue.deciding import Deciding, Face
from ensue.errors import EnsueError, UsageError
from ensue.texts import logger

log = logger("ensue.console")


class Role(enum.StrEnum):
    """What somebody may do; each may also do what those before it may."""

    READER = "reader"
    """See everything, payloads as far as the mode of payloads shows them; decide nothing."""
    OPERATOR = "operator"
    """What lets code run again, stops it, or can be taken back."""
    ADMIN = "admin"
    """What puts a person's word in the place of data, or ends something for good."""

    def covers(self, needed: Role) -> bool:
        """
        >>> Role.ADMIN.covers(Role.OPERATOR), Role.READER.covers(Role.OPERATOR)
        (True, False)
        """
        return _RANKS[self] >= _RANKS[needed]


_RANKS: Final[Mapping[Role, int]] = {role: rank for rank, role in enumerate(Role)}


class Action(enum.StrEnum):
    """Everything that can be asked for. The value of a decision is the `action` of its row: the command's name."""

    SEE = "see"
    """Look at anything; the only one that changes nothing."""
    LETTER_RETRY = "dead-letters retry"
    LETTER_DISCARD = "dead-letters discard"
    LETTER_EDIT = "dead-letters edit"
    LETTER_PURGE = "dead-letters purge"
    GAP_ACCEPT = "gaps accept"
    GAP_FORGET = "gaps forget"
    GAP_REWIND = "gaps rewind"
    PARTITION_PAUSE = "partitions pause"
    PARTITION_RESUME = "partitions resume"
    PARTITION_RELEASE = "partitions release"
    NEW_EPOCH = "db new-epoch"
    PUBLISH = "publish"
    OUTBOX_WITHDRAW = "outbox withdraw"
    REPLAY = "replay"
    SAGA_RETRY = "sagas retry"
    SAGA_SKIP = "sagas skip"
    SAGA_CANCEL = "sagas cancel"
    TIMER_CANCEL = "timers cancel"
    VIEW_REBUILD = "views rebuild"
    VIEW_PAUSE = "views pause"
    VIEW_RESUME = "views resume"
    VIEW_SWAP = "views swap"
    VIEW_ACCEPT_MISSING = "views accept-missing"
    VIEW_ROLLBACK = "views rollback"
    VIEW_DROP = "views drop"

    @property
    def decides(self) -> bool:
        """Whether it changes something, and leaves a row of who did it and why."""
        return self is not Action.SEE

    @property
    def needs(self) -> Role:
        """The least role that may do it."""
        return NEEDS[self]


#: The least role for each action. Written out in full: a new action has to be thought about.
NEEDS: Final[Mapping[Action, Role]] = {
    Action.SEE: Role.READER,
    Action.LETTER_RETRY: Role.OPERATOR,
    Action.LETTER_DISCARD: Role.OPERATOR,
    Action.LETTER_EDIT: Role.ADMIN,
    Action.LETTER_PURGE: Role.ADMIN,
    Action.GAP_ACCEPT: Role.ADMIN,
    Action.GAP_FORGET: Role.ADMIN,
    Action.GAP_REWIND: Role.ADMIN,
    Action.PARTITION_PAUSE: Role.OPERATOR,
    Action.PARTITION_RESUME: Role.OPERATOR,
    Action.PARTITION_RELEASE: Role.OPERATOR,
    Action.NEW_EPOCH: Role.ADMIN,
    Action.PUBLISH: Role.ADMIN,
    Action.OUTBOX_WITHDRAW: Role.ADMIN,
    Action.REPLAY: Role.ADMIN,
    Action.SAGA_RETRY: Role.OPERATOR,
    Action.SAGA_SKIP: Role.ADMIN,
    Action.SAGA_CANCEL: Role.OPERATOR,
    Action.TIMER_CANCEL: Role.ADMIN,
    Action.VIEW_REBUILD: Role.OPERATOR,
    Action.VIEW_PAUSE: Role.OPERATOR,
    Action.VIEW_RESUME: Role.OPERATOR,
    Action.VIEW_SWAP: Role.OPERATOR,
    Action.VIEW_ACCEPT_MISSING: Role.ADMIN,
    Action.VIEW_ROLLBACK: Role.OPERATOR,
    Action.VIEW_DROP: Role.ADMIN,
}


class Actor(msgspec.Struct, frozen=True):
    """Somebody who was let in. name: goes into the rows of what they decide, e.g. ann@desk. roles: `Role`s, or their
    names; none at all may do nothing. Raises UsageError for a name that is empty or too long, and for an unknown role.

    >>> Actor("ann@desk", ["operator"]).may(Action.LETTER_RETRY)
    True
    """

    name: str
    roles: Collection[Role | str]

    def __post_init__(self) -> None:
        Deciding(actor=self.name, origin=Face.API)  # what cannot be written down must not get as far as deciding
        if isinstance(self.roles, str):
            raise UsageError(f"actor {self.name}: roles={self.roles!r}, expected several of {_listed(Role)}")
        try:
            roles = frozenset(Role(each) for each in self.roles)
        except ValueError as error:
            raise UsageError(
                f"actor {self.name}: {error}; expected {_listed(Role)}: translate the host's own roles in `authorize`"
            ) from error
        msgspec.structs.force_setattr(self, "roles", roles)

    def may(self, action: Action) -> bool:
        return any(Role(each).covers(action.needs) for each in self.roles)

    @property
    def allowed(self) -> list[Action]:
        """All that they may do, for who shows buttons."""
        return [each for each in Action if self.may(each)]


class NotAuthenticated(EnsueError):
    """Nobody was recognized: HTTP 401."""


class AuthorizeFailed(EnsueError):
    """The host's `authorize` is at fault: HTTP 500, the log says why, and nobody is let in."""


class NotAllowed(EnsueError):
    """Somebody was recognized who may not do this, or not from there: HTTP 403."""


#: The host's own: who sends this request? None refuses; so does raising NotAuthenticated or NotAllowed. A Starlette
#: HTTPException answers as itself; what else is raised is an error of the host's. It is asked for each request anew.
Authorize = Callable[[HTTPConnection], Actor | Awaitable[Actor | None] | None]


def checked_authorize(authorize: object) -> Authorize:
    """Raise UsageError unless it is something that can be asked: there is no default."""
    if not callable(authorize):
        raise UsageError(
            f"authorize={authorize!r:.60}, expected a function that takes a request and returns an Actor, or None for "
            "nobody: who may see and steer services is not guessed"
        )
    return authorize


async def actor_of(authorize: Authorize, connection: HTTPConnection) -> Actor:
    """Ask the host who it is. Raises NotAuthenticated for nobody; AuthorizeFailed when the host makes an actor of what
    is none, or returns something else."""
    try:
        answer = authorize(connection)
        found = await answer if inspect.isawaitable(answer) else answer
    except UsageError as error:
        raise AuthorizeFailed(f"authorize: {error}") from error
    if found is None:
        raise NotAuthenticated("this request comes from nobody who is known here: log in as the host has it")
    if not isinstance(found, Actor):  # True, say, or the host's own user
        raise AuthorizeFailed(f"authorize returned a {type(found).__name__}, expected an ensue.console.Actor or None")
    return found


async def why_not(authorize: Authorize, connection: HTTPConnection, actor: Actor, action: Action) -> str:
    """Ask the host again in the midst of what takes long. Returns why the actor may not go on with it; empty: they may.
    A host that fails at it ends it: a right that cannot be looked up is none."""
    try:
        now = await actor_of(authorize, connection)
        require(now, action)
    except EnsueError as error:
        return masked(str(error))
    except HTTPException as error:
        return f"the host answers {error.status_code} to {actor.name} by now"
    except Exception as error:
        log.exception("authorize, asked again for %s", actor.name)
        return f"the host could not say who asks: {type(error).__name__}; the log says more"
    return "" if now.name == actor.name else f"{actor.name} is not who is logged in there any more"


def require(actor: Actor, action: Action) -> None:
    """Raise NotAllowed when the actor's roles do not cover the action."""
    if not actor.may(action):
        has = _listed(Role(each) for each in actor.roles) or "no role"
        raise NotAllowed(
            f"{actor.name} has {has}; {action.value!r} needs {action.needs.value}",
            actor=actor.name, action=action.value, needs=action.needs.value,
        )  # fmt: skip


def deciding(actor: Actor, action: Action, face: Face, reason: str) -> Deciding:
    """What the row of a decision has of its actor. Raises NotAllowed; UsageError without a reason: over HTTP nobody
    decides without one, since the shell's history does not tell either."""
    require(actor, action)
    if not reason.strip():
        raise UsageError(f"{action.value} needs a reason: it is kept with the decision, for whoever asks later why")
    return Deciding(actor=actor.name, origin=face, reason=reason)


def _listed(roles: Iterable[Role]) -> str:
    return ", ".join(sorted((each.value for each in roles), key=lambda name: _RANKS[Role(name)]))
