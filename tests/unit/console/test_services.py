"""Several services, each opened for itself: what is not there is said, and what is slow holds up nobody else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from tests.unit.console.desk import SERVICES, books, first, shop

from ensue import View
from ensue.console.services import NotFound, NotOpened, Services
from ensue.errors import UsageError
from ensue.operations.opening import Opened


def test_a_service_is_found_by_its_name_and_a_view_with_its_version() -> None:
    services = Services(SERVICES)
    assert services.names == ["desk_shop", "desk_books", "desk_seen@1", "desk_seen@2"]
    assert services.service("desk_books") is books
    assert services.view("desk_seen@1") is first
    with pytest.raises(NotFound, match="no service desk_seen here, only desk_shop, desk_books, desk_seen@1"):
        services.service("desk_seen")
    with pytest.raises(NotFound, match="desk_shop is a service, which has one state"):
        services.view("desk_shop")


def files_in(directory: Path) -> list[Path]:
    return [*directory.iterdir()]


async def test_what_was_never_made_is_not_made_by_looking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    services = Services(SERVICES, {"desk_shop": "desk:shop"})
    with pytest.raises(NotOpened, match="has no database at"):
        async with services.opened("desk_shop"):
            pass
    with pytest.raises(NotOpened, match="view desk_seen has no database at"):
        async with services.opened_view("desk_seen@1"):
            pass
    with pytest.raises(NotOpened):
        async with services.opened_decisions("desk_seen@1"):
            pass
    assert files_in(tmp_path) == []


@pytest.mark.usefixtures("desk")
async def test_an_error_tells_what_to_do_in_the_command_line_s_own_words() -> None:
    async with Services([shop], {"desk_shop": "desk:shop"}).opened("desk_shop") as access:
        assert access.target == "desk:shop"


@pytest.mark.usefixtures("desk")
async def test_of_several_one_that_fails_or_does_not_end_keeps_nothing_back_of_the_others() -> None:
    never = asyncio.Event()

    async def ask(access: Opened) -> str:
        if access.service is shop:
            await never.wait()
        if isinstance(access.service, View):
            raise UsageError("postgresql://ann:hidden@db/x is at fault")
        return access.service.name

    found = await Services([shop, books, first]).each(ask, answer_s=0.5)
    assert [(each.service, each.found, each.error) for each in found] == [
        ("desk_shop", None, "no answer within 0.5 s"),
        ("desk_books", "desk_books", ""),
        ("desk_seen@1", None, found[2].error),
    ]
    assert found[2].error
    assert "hidden" not in found[2].error
    [only] = await Services([shop, books]).each(ask, ["desk_books"])
    assert only.found == "desk_books"
