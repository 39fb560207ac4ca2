"""`ensue sagas`: where sagas stand, and what a person orders of them."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import re
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.harness import SERVICES, Ended, books_of, work_until
from tests.unit.cli.services import Entered, Sold, board, flag, travel, traveller

from ensue import Saga
from ensue.message import SAGA
from ensue.saga.instance import Status

Command = Callable[..., Ended]
TRAVELLER = f"{SERVICES}:traveller"


def work(**expected: Status) -> None:
    """Let the service work until its sagas are like this."""

    async def done() -> bool:
        async with books_of(traveller) as (_, books):
            found = {name: await books.saga(f"travel:{name}") for name in expected}
        return all(each is not None and each.status is expected[name] for name, each in found.items())

    asyncio.run(work_until(done, traveller))


@pytest.fixture
def begun(home: object) -> None:
    """One saga is parked, one waits, and one is past its pivot."""

    async def start() -> None:
        async with traveller.running(work=False), traveller.step() as step:
            for name, amount in (("parked", 0), ("waits", 0), ("pivoted", 1)):
                step.start(travel, Sold(customer=name, amount=amount), id=name)
            step.tell(travel, "pivoted", Entered(customer="pivoted", amount=1))

    async def tell() -> None:
        async with traveller.running(work=False), traveller.step() as step:
            step.tell(travel, "parked", Entered(customer="parked", amount=1))

    asyncio.run(start())
    work(parked=Status.RUNNING, waits=Status.RUNNING, pivoted=Status.RUNNING)
    asyncio.run(tell())
    flag("no-way").touch()
    work(parked=Status.PARKED)
    flag("no-way").unlink()


def test_they_are_listed_and_shown(ensue: Command, begun: None) -> None:
    listed = ensue("sagas", "list", TRAVELLER, "--json").json
    assert listed["total"] == 3
    assert {each["saga"]: each["status"] for each in listed["sagas"]} == {
        "travel:parked": "PARKED",
        "travel:waits": "RUNNING",
        "travel:pivoted": "RUNNING",
    }
    assert "RuntimeError: no way" in ensue("sagas", "list", TRAVELLER, "--status", "PARKED").out
    assert "2 more: --limit 3" in ensue("sagas", "list", TRAVELLER, "--limit", 1).out
    assert ensue("sagas", "list", TRAVELLER, "--status", "UNDONE").out == "no sagas\n"
    shown = ensue("sagas", "show", TRAVELLER, "travel:parked").out
    assert "saga travel:parked: PARKED, version 1" in shown
    assert 'journal    ["issued",1,"receive","entries.Entered.v1"' in shown
    assert ensue("sagas", "show", TRAVELLER, "travel:waits", "--json").json["request"]["customer"] == "waits"
    assert "has no saga travel:none" in ensue("sagas", "show", TRAVELLER, "travel:none").err


def test_the_status_of_the_service_counts_them(ensue: Command, begun: None, monkeypatch: pytest.MonkeyPatch) -> None:
    [status] = ensue("status", TRAVELLER, "--json").json["services"]
    assert status["sagas"] == [
        {"saga": "travel", "version": 1, "status": "PARKED", "count": 1, "code": True},
        {"saga": "travel", "version": 1, "status": "RUNNING", "count": 2, "code": True},
    ]
    assert "sagas    1 travel v1 PARKED, 2 travel v1 RUNNING" in ensue("status", TRAVELLER).out
    monkeypatch.setattr(traveller, "_sagas", {})
    assert "no code  2 sagas of travel v1, RUNNING: they wait for a process that has" in ensue("status", TRAVELLER).out


async def otherwise(saga: Saga, ticket: Sold) -> None:
    await saga.sleep(datetime.timedelta(days=1))


def test_code_is_checked_against_those_that_have_begun(
    ensue: Command, begun: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert ensue("sagas", "check", TRAVELLER).out == "fine: 3\n"
    file = tmp_path / "journals"
    assert ensue("sagas", "export", TRAVELLER, file).out == f"3 sagas in {file}\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "give a file that is not there yet" in ensue("sagas", "export", TRAVELLER, file).err
    code = traveller.sagas["travel", 1]
    monkeypatch.setattr(traveller, "_sagas", {("travel", 1): dataclasses.replace(code, function=otherwise)})
    for options in ((), ("--journals", file)):
        ended = ensue("sagas", "check", TRAVELLER, *options)
        assert ended.code == 1
        assert ended.out.startswith("fine: 0\nwould park: 3 of travel v1, travel:"), ended
        said = "entry 1: the journal has receive entries.Entered.v1, the code asks for sleep (" + __file__
        assert said in ended.out
    monkeypatch.setattr(traveller, "_sagas", {})
    [group] = ensue("sagas", "check", TRAVELLER, "--json").json["groups"]
    assert (group["saga"], group["version"], group["reason"], group["count"]) == ("travel", 1, "no code", 3)
    assert "no code: 3 of travel v1, travel:" in ensue("sagas", "check", TRAVELLER).out
    file.write_bytes(file.read_bytes() + b"{}\n")
    assert "line 4 is no saga (KeyError: 'id')" in ensue("sagas", "check", TRAVELLER, "--journals", file).err
    assert "cannot be read: No such file" in ensue("sagas", "check", TRAVELLER, "--journals", tmp_path / "none").err


def test_a_parked_one_goes_on_and_another_is_undone(ensue: Command, begun: None) -> None:
    assert ensue("sagas", "retry", TRAVELLER, "travel:parked", "--why", "corrected").code == 0
    assert ensue("sagas", "cancel", TRAVELLER, "travel:waits", answer="n\n").code == 1
    assert ensue("sagas", "cancel", TRAVELLER, "travel:waits", answer="y\n").code == 0
    work(parked=Status.COMPLETED, waits=Status.UNDONE, pivoted=Status.RUNNING)
    shown = ensue("sagas", "show", TRAVELLER, "travel:parked").out
    assert re.search(rf"  decided    \S+ \S+ UTC retry by \S+@{re.escape(socket.gethostname())}: corrected\n", shown), (
        shown
    )
    retry, cancel = ensue("decisions", "list", TRAVELLER, "--json").json["decisions"]
    assert (retry["action"], retry["target"], retry["reason"]) == ("sagas retry", "travel:parked", "corrected")
    assert retry["before"]["status"] == "PARKED"
    assert (cancel["action"], cancel["target"], cancel["before"]["status"]) == (
        "sagas cancel",
        "travel:waits",
        "RUNNING",
    )


def test_a_person_settles_what_a_parked_one_is_at_and_each_decision_is_shown(ensue: Command, home: object) -> None:
    async def start() -> None:
        async with traveller.running(work=False), traveller.step() as step:
            step.start(board, Sold(customer="ann", amount=1), id="ann")

    asyncio.run(start())

    async def parked() -> bool:
        async with books_of(traveller) as (_, books):
            found = await books.saga("board:ann")
        return found is not None and found.status is expected

    expected = Status.PARKED
    flag("no-gate").touch()
    asyncio.run(work_until(parked, traveller))
    for options, said in (
        (("--result", "{"), "--result { is no JSON"),
        (("--result", '"A"'), "local find_gate does not come to"),
        (("--failure", "Nothing"), "no failure of that name and these fields is declared"),
        (("--failure", "NoGate", "--result", "1"), "it came to one of them"),
        (("--result", "1", "--operation", 5), "is not at an operation 5, only at 1: local find_gate"),
    ):
        ended = ensue("sagas", "skip", TRAVELLER, "board:ann", "--why", "closed", "--yes", *options)
        assert (ended.code, said in ended.err) == (1, True), ended
    skip = ("sagas", "skip", TRAVELLER, "board:ann", "--why", "by hand", "--who", "bob", "--result", 7)
    assert ensue(*skip, answer="n\n").code == 1
    assert ensue(*skip, "--yes").out == "saga board:ann: local find_gate is skipped as soon as a worker reads it\n"
    expected = Status.COMPLETED
    asyncio.run(work_until(parked, traveller))
    shown = ensue("sagas", "show", TRAVELLER, "board:ann").out
    assert re.search(r"  decided    \S+ \S+ UTC skip local find_gate by bob: by hand\n", shown), shown
    found = ensue("sagas", "show", TRAVELLER, "board:ann", "--json").json
    assert [each[0] for each in found["journal"]] == ["issued", "resolved"]
    [decision] = found["decisions"]
    assert (decision["what"], decision["who"], decision["why"]) == ("skip local find_gate", "bob", "by hand")
    [kept] = ensue("decisions", "list", TRAVELLER, "--json").json["decisions"]
    assert (kept["action"], kept["actor"], kept["after"]["result"]) == ("sagas skip", "bob", 7)


@pytest.mark.parametrize(
    ("what", "saga", "reason"),
    [
        ("retry", "travel:waits", "is RUNNING, and goes on by itself; nothing was ordered of any"),
        ("retry", "travel:none", "does not exist"),
        ("cancel", "travel:pivoted", "is past its pivot, and goes forward only"),
    ],
)
def test_what_would_be_in_vain_is_refused(ensue: Command, begun: None, what: str, saga: str, reason: str) -> None:
    options = ("--yes",) if what == "cancel" else ()
    ended = ensue("sagas", what, TRAVELLER, "travel:parked", saga, *options)
    assert (ended.code, reason in ended.err) == (1, True), ended
    assert ensue("sagas", "list", TRAVELLER, "--status", "PARKED", "--json").json["total"] == 1


def test_what_wakes_a_saga_is_neither_replayed_nor_taken_back(ensue: Command, home: object) -> None:
    async def start() -> None:
        async with traveller.running(work=False), traveller.step() as step:
            due = step.now + datetime.timedelta(days=1)
            step.emit("traveller.replies", SAGA, "travel:x", len("travel:x"), b"{}", due=due)

    asyncio.run(start())
    ended = ensue("replay", TRAVELLER, "--type", SAGA, "--yes")
    assert ended.code == 1
    assert "a second time" in ended.err
    [timer] = ensue("timers", "list", TRAVELLER, "--json").json["timers"]
    ended = ensue("timers", "cancel", TRAVELLER, timer["id"], "--yes")
    assert ended.code == 1
    assert f"ensue sagas cancel {TRAVELLER} travel:x" in ended.err
    assert len(ensue("timers", "list", TRAVELLER, "--json").json["timers"]) == 1
