"""What a view refuses, where it is declared or where it is asked for; and what it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ensue.testing
from ensue import Event, Service, Step, UsageError, View


class ViewUnitSeen(Event, topic="view.unit", key="name"):
    name: str


class ViewUnitTold(Event, topic="view.unit.told", key="name"):
    name: str


def test_a_version_is_a_subscription_of_its_own_under_the_settings_of_the_view(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ENSUE_HISTORY_DATABASE", f"sqlite:///{tmp_path}/history.db")
    view = View("history", version=2)
    assert (view.name, view.view, view.version) == ("history@2", "history", 2)
    assert view.place().url == f"sqlite:///{tmp_path}/history_v2.db"
    assert view.place("check").service == "history@check"


@pytest.mark.parametrize("option", ["publishes", "calls", "prunes", "outside_max"])
def test_what_makes_it_do_more_than_fold_is_refused_at_the_declaration(option: str) -> None:
    refused: Any = {option: []}
    with pytest.raises(UsageError, match=f"{option}=...\\): a view"):
        View("history", version=1, **refused)


def test_other_mistakes_of_a_declaration() -> None:
    with pytest.raises(UsageError, match="no such option"):
        View("history", version=1, color="blue")
    for wrong in (0, -1, True, "2", 1.0):
        with pytest.raises(UsageError, match="whole number from 1"):
            View("history", version=wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="lower-case"):
        View("history@2", version=1)


def test_handlers_that_a_view_cannot_have_are_refused_at_the_line() -> None:
    view = View("history", version=1)
    for name in ("every", "handles", "saga", "local", "outside"):
        with pytest.raises(UsageError, match="a view publishes nothing"):
            getattr(view, name)("what it would take")
    with pytest.raises(UsageError, match="would have other rows"):

        @view.on(since="now")
        async def late(event: ViewUnitSeen) -> None: ...


async def test_a_handler_that_publishes_fails_at_that_line_and_nothing_goes_out() -> None:
    source = Service("view_unit_source", publishes=[ViewUnitSeen])
    view = View("history", version=1)

    @view.on
    async def tell(event: ViewUnitSeen, step: Step) -> None:
        step.publish(ViewUnitTold(name=event.name))

    async with ensue.testing.run(source, view) as world:
        async with source.step() as step:
            step.publish(ViewUnitSeen(name="a"))
        await world.settle()
        [letter] = await world.dead_letters(view)
        assert "view history@1 publishes ViewUnitTold" in letter.error
        assert await world.published(ViewUnitTold) == []


async def test_there_are_no_steps_from_outside(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/broker.db"
    view = View("history", version=1, database=f"sqlite:///{tmp_path}/history.db", broker=url)

    @view.on
    async def see(event: ViewUnitSeen) -> None: ...

    async with view.running() as runtime:
        with pytest.raises(UsageError, match="steps from outside"):
            async with view.step():
                pass
        with pytest.raises(UsageError, match="no steps from outside"):
            runtime.step()
        with pytest.raises(UsageError, match="commands"):
            await view.call(None)


def test_what_to_write_names_a_view_as_code_does() -> None:
    with pytest.raises(UsageError, match=r"install\(app, history\).*`async with history\.running\(\):`"):
        _ = View("history", version=2).runtime
