"""Who may do what, before any HTTP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection

from ensue.console.access import (
    NEEDS,
    Action,
    Actor,
    AuthorizeFailed,
    NotAllowed,
    NotAuthenticated,
    Role,
    actor_of,
    checked_authorize,
    deciding,
    require,
    why_not,
)
from ensue.deciding import Face
from ensue.errors import UsageError

CONNECTION = HTTPConnection({"type": "http", "headers": []})


def test_every_action_has_a_role_and_every_role_may_what_the_one_before_may() -> None:
    assert set(NEEDS) == set(Action)
    reader, operator, admin = (set(Actor("ann", [role]).allowed) for role in Role)
    assert reader == {Action.SEE}
    assert reader < operator < admin == set(Action)


def test_what_ends_something_for_good_needs_an_admin() -> None:
    for action in (Action.LETTER_EDIT, Action.GAP_ACCEPT, Action.SAGA_SKIP, Action.VIEW_DROP, Action.PUBLISH):
        with pytest.raises(NotAllowed, match=f"ann has operator; '{action.value}' needs admin"):
            require(Actor("ann", [Role.OPERATOR]), action)
        require(Actor("ann", ["reader", "admin"]), action)


def test_an_actor_without_roles_may_do_nothing() -> None:
    with pytest.raises(NotAllowed, match="ann has no role; 'see' needs reader"):
        require(Actor("ann", []), Action.SEE)


@pytest.mark.parametrize(
    ("name", "roles", "said"),
    [
        ("", ["reader"], "nobody decides"),
        ("a" * 201, ["reader"], "at most 200 characters"),
        ("ann", ["root"], "'root' is not a valid Role; expected reader, operator, admin"),
        ("ann", "admin", "roles='admin', expected several of"),
    ],
)
def test_an_actor_that_could_not_be_written_down_or_has_a_role_that_is_none_is_refused(
    name: str, roles: str, said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Actor(name, roles)


def test_a_decision_has_its_actor_its_face_and_a_reason() -> None:
    ann = Actor("ann", ["operator"])
    by = deciding(ann, Action.LETTER_RETRY, Face.API, "rates are there")
    assert (by.actor, by.origin, by.reason) == ("ann", Face.API, "rates are there")
    with pytest.raises(UsageError, match="dead-letters retry needs a reason"):
        deciding(ann, Action.LETTER_RETRY, Face.API, " \n")
    with pytest.raises(NotAllowed):
        deciding(ann, Action.LETTER_PURGE, Face.API, "because")


async def test_the_host_is_asked_by_a_function_or_a_coroutine() -> None:
    ann = Actor("ann", ["reader"])

    async def later(connection: HTTPConnection) -> Actor:
        return ann

    assert await actor_of(lambda connection: ann, CONNECTION) is ann
    assert await actor_of(later, CONNECTION) is ann


async def test_nobody_gets_in_by_default() -> None:
    with pytest.raises(UsageError, match="authorize=None, expected a function"):
        checked_authorize(None)
    with pytest.raises(NotAuthenticated):
        await actor_of(lambda connection: None, CONNECTION)
    with pytest.raises(AuthorizeFailed, match=r"authorize returned a bool, expected an .*Actor"):
        await actor_of(lambda connection: True, CONNECTION)  # type: ignore[arg-type,return-value]
    with pytest.raises(AuthorizeFailed, match="'root' is not a valid Role"):
        await actor_of(lambda connection: Actor("ann", ["root"]), CONNECTION)


async def test_who_is_asked_about_again_may_not_go_on_without_the_right_or_as_somebody_else() -> None:
    ann = Actor("ann", ["operator"])

    def ask(_: HTTPConnection) -> Actor | None:
        found = next(answers)
        if isinstance(found, Exception):
            raise found
        return found

    answers: Iterator[Actor | Exception | None] = iter([
        ann, Actor("ann", ["reader"]), None, Actor("kim", ["admin"]), HTTPException(401), OSError("postgresql://a:b@c/d"),
    ])  # fmt: skip
    said = [await why_not(ask, CONNECTION, ann, Action.LETTER_RETRY) for _ in range(6)]
    assert said[0] == ""
    assert "ann has reader; 'dead-letters retry' needs operator" in said[1]
    assert "comes from nobody who is known here" in said[2]
    assert "ann is not who is logged in there any more" in said[3]
    assert "the host answers 401 to ann" in said[4]
    assert "the host could not say who asks: OSError" in said[5]
