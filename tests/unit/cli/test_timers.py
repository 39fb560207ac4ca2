"""`ensue timers`: what waits is listed in the order of its due times, and is taken back by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from tests.unit.cli.harness import SERVICES, TILL, Ended, books_of
from tests.unit.cli.services import Sold, night, till

from ensue.tables import TIMERS

Command = Callable[..., Ended]
NIGHT = f"{SERVICES}:night"
#: Longer than any run of these tests.
LATER = datetime(2300, 1, 1, tzinfo=UTC)


@pytest.fixture
def set_for(home: object) -> Callable[..., list[str]]:
    """Publish as many events, one a day from LATER on, the last first; return the ids in the order of their times."""

    def publish(count: int) -> list[str]:
        async def publishing() -> list[str]:
            async with till.running(work=False), till.step() as step:
                return [
                    step.publish(Sold(customer=f"no {number}"), at=LATER + timedelta(days=number))
                    for number in reversed(range(count))
                ][::-1]

        return asyncio.run(publishing())

    return publish


def waiting() -> set[str]:
    async def look() -> set[str]:
        [lookup] = TIMERS.lookups
        async with books_of(till) as (store, _):
            return {row[0] for row in await store.rows().find(TIMERS, lookup, (), limit=100)}

    return asyncio.run(look())


def test_what_waits_is_listed_by_its_due_time(ensue: Command, set_for: Callable[[int], list[str]]) -> None:
    ids = set_for(3)
    listed = ensue("timers", "list", TILL, "--json").json
    assert listed["total"] == 3
    assert [each["id"] for each in listed["timers"]] == ids
    first = listed["timers"][0]
    assert (first["due_at"], first["key"], first["recurring"]) == (LATER.timestamp(), "no 0", None)
    assert (first["headers"]["type"], first["data"]["customer"]) == ("sales.Sold.v1", "no 0")
    shown = ensue("timers", "list", TILL).out
    assert "2300-01-01 00:00:00 UTC" in shown
    assert "more" not in shown


def test_the_list_is_paged(ensue: Command, set_for: Callable[[int], list[str]]) -> None:
    ids = set_for(5)

    def page(*options: object) -> list[str]:
        return [each["id"] for each in ensue("timers", "list", TILL, "--json", "--limit", 2, *options).json["timers"]]

    assert [page(), page("--after", ids[1]), page("--after", ids[3])] == [ids[:2], ids[2:4], ids[4:]]
    assert f"5 in all; more: --after {ids[1]}" in ensue("timers", "list", TILL, "--limit", 2).out
    assert ensue("timers", "list", TILL, "--after", ids[4]).out == "nothing more\n"
    assert "no such timer any more" in ensue("timers", "list", TILL, "--after", "gone").err


def test_nothing_waits(ensue: Command, set_for: Callable[[int], list[str]]) -> None:
    set_for(0)
    assert ensue("timers", "list", TILL).out == "nothing waits\n"


def test_an_event_is_taken_back(ensue: Command, set_for: Callable[[int], list[str]]) -> None:
    ids = set_for(3)
    refused = ensue("timers", "cancel", TILL, ids[1], answer="n\n")
    assert (refused.code, waiting()) == (1, set(ids))
    ended = ensue("timers", "cancel", TILL, ids[1], answer="y\n")
    assert f"timer {ids[1]}, key no 1: cancelled" in ended.out
    assert waiting() == {ids[0], ids[2]}


def test_all_are_taken_back_or_none(ensue: Command, set_for: Callable[[int], list[str]]) -> None:
    ids = set_for(2)
    ended = ensue("timers", "cancel", TILL, ids[0], "gone", ids[1], "--yes")
    assert ended.code == 1
    assert "no timer gone of till" in ended.err
    assert "nothing was cancelled" in ended.err
    assert waiting() == set(ids)
    assert ensue("decisions", "list", TILL, "--json").json["total"] == 0
    assert ensue("timers", "cancel", TILL, *ids, "-y", "--reason", "wrong day").code == 0
    assert waiting() == set()
    found = ensue("decisions", "list", TILL, "--json").json["decisions"]
    assert {(each["action"], each["target"], each["reason"]) for each in found} == {
        ("timers cancel", each, "wrong day") for each in ids
    }
    assert {each["before"]["type"] for each in found} == {"sales.Sold.v1"}


def test_the_next_run_of_a_recurring_step_is_shown_and_stays(ensue: Command) -> None:
    async def begin() -> None:
        async with night.running():
            pass

    asyncio.run(begin())
    [run] = ensue("timers", "list", NIGHT, "--json").json["timers"]
    assert (run["recurring"], run["topic"]) == ("clean_up", "ensue.every.night")
    ended = ensue("timers", "cancel", NIGHT, run["id"], "--yes")
    assert ended.code == 1
    assert "the next run of the recurring step clean_up of night" in ended.err
    assert ensue("timers", "list", NIGHT, "--json").json["total"] == 1


def test_the_topology_has_who_begins_a_recurring_step(ensue: Command) -> None:
    ended = ensue("topology", NIGHT)
    [row] = [line for line in ended.out.splitlines() if "ensue.every.night.clean_up.v1" in line]
    assert "night (clean_up)" in row
    assert ended.err == ""
