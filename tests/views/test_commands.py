"""`ensue views`, as an operator types it; and what a client of a version that is not ready gets."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from tests.views.commands import second
from tests.views.ledger import LedgerPosted, database_of, make_scribe, make_view, until, versions_of

from ensue.cli.main import main
from ensue.engine.books.views import ViewBook
from ensue.integrations.fastapi import install
from ensue.stores.sqlite import SqliteStore
from ensue.views import states
from ensue.views.states import ViewRow


class Operator:
    """Who types commands; they run in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, command: str, *arguments: str, code: int = 0) -> str:
        """Return what it printed, on standard error where it is to fail."""
        with pytest.raises(SystemExit) as ended:
            main([*command.split(), *arguments])
        out, err = self._capsys.readouterr()
        assert (ended.value.code or 0) == code, (out, err)
        return err if code else out


@pytest.fixture(autouse=True)
def given_way(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How far a command has given way: the process of the tests would do so until its end."""
    found: list[int] = []
    monkeypatch.setattr("ensue.cli.views.give_way", found.append)
    return found


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Operator:
    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    monkeypatch.setenv("ENSUE_LEASE_TTL_S", "0.6")
    return Operator(capsys)


FIRST, SECOND = "tests.views.commands:first", "tests.views.commands:second"


def test_an_operator_builds_swaps_goes_back_and_drops(operator: Operator, tmp_path: Path) -> None:
    assert "has no database at" in operator("views list", FIRST, code=1)
    for command, *more in (["views check"], ["views at", "2026-11-27T17:00:00Z"], ["status"]):
        refused = operator(command, SECOND, *more, code=1)
        assert "view seen has no version 2 at" in refused
        assert "seen_v2.db" in refused
        assert "ENSUE_SEEN_DATABASE" in refused
    assert "version 1 is the first one" in operator("views rebuild", FIRST, "--detach")
    assert "is active already" in operator("views rebuild", FIRST, "--detach", code=1)
    assert "version 2 is being built" in operator("views rebuild", SECOND, "--detach", "--rate", "5")
    assert "is paused" in operator("views pause", FIRST)
    assert "possible when it is building" in operator("views pause", FIRST, code=1)
    assert "at most 7 events a second" in operator("views resume", SECOND, "--rate", "7")
    refused = operator("views swap", SECOND, code=1)
    assert "it is not ready" in refused
    assert "no worker feeds version 2" in refused
    assert refused.count("nothing of it is read yet") == 1  # of all its partitions
    [found] = json.loads(operator("views list", SECOND, "--json"))["views"]
    assert (found["active"], found["building"], found["rate"], found["state"]) == (1, 2, 7.0, "building")
    assert [each["version"] for each in found["versions"]] == [1, 2]
    assert found["by"]

    assert "version 2 is ready" in operator("views rebuild", SECOND)
    assert "ready" in operator("views list", SECOND)
    assert "version 2 is asked, version 1 is fed as before" in operator("views swap", SECOND, "--reason", "new totals")
    # Version 1 has read nothing and nobody feeds it, so it is not known to be as far.
    assert "rollback to version 1 is refused" in operator("views rollback", FIRST, code=1)
    assert "version 2 is active: swap to another one" in operator("views drop", FIRST, "2", "--yes", code=1)
    assert "version 1 is removed" in operator("views drop", FIRST, "1", "--yes")
    assert "version 1 is removed" in operator("views drop", FIRST, "1", "--yes")  # safe to repeat
    assert sorted(each.name for each in tmp_path.glob("seen*.db")) == ["seen.db", "seen_v2.db"]
    decided = [json.loads(each) for each in operator("decisions list", SECOND, "--jsonl").splitlines()]
    # Whoever drops a version again may remove what the first drop has left of its place: that is theirs.
    actions = ["rebuild", "rebuild", "pause", "resume", "swap", "drop", "drop"]
    assert [(each["action"], each["target"]) for each in decided] == [(f"views {each}", "seen") for each in actions]
    swap = decided[-3]
    assert (swap["before"]["active"], swap["after"]["active"], swap["reason"]) == (1, 2, "new totals")
    assert "views swap" in operator("decisions list", FIRST)  # whose place is gone


def test_a_rebuild_gives_way_while_another_version_answers_and_opens_no_store_for_each_look(
    operator: Operator, given_way: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[SqliteStore] = []
    open_ = SqliteStore.open

    async def noted(store: SqliteStore) -> None:
        opened.append(store)
        await open_(store)

    operator("views rebuild", FIRST)
    assert given_way == []  # nobody answers but this version
    operator("views rebuild", SECOND, "--detach")
    assert given_way == []  # this process builds nothing
    monkeypatch.setattr(SqliteStore, "open", noted)
    operator("views rebuild", SECOND)
    names = sorted(Path(each._file.path).name for each in opened)
    assert names.count("seen_v1.db") == 1, names  # of whoever looks
    assert names.count("seen_v2.db") == 2, names  # and of the version itself
    operator("views rebuild", SECOND, "--nice", "3")
    assert given_way == [10, 3]
    program = "import os; from ensue.cli.giving_way import give_way; give_way(0); print(os.nice(0)); give_way(4)"
    show = [sys.executable, "-c", f"{program}; print(os.nice(0))"]
    shown = subprocess.run(show, capture_output=True, text=True, check=True).stdout.split()
    assert int(shown[1]) == min(int(shown[0]) + 4, 19)


def test_a_time_without_a_zone_is_refused_and_what_to_write_instead_is_a_time(operator: Operator) -> None:
    for text, instead in (("2026-11-27", "2026-11-27T00:00:00Z"), ("2026-11-27T17:00", "2026-11-27T17:00:00Z")):
        assert f"write {instead}, or" in operator("views at", FIRST, text, code=1)
        assert "view seen has no version 1" in operator("views at", FIRST, instead, code=1)


def test_what_is_made_and_looked_at_for_a_version_is_named_where_it_is(operator: Operator, tmp_path: Path) -> None:
    for command in ("db init", "db check", "status"):
        assert f"{tmp_path}/seen_v2.db" in operator(command, SECOND)
    assert sorted(each.name for each in tmp_path.glob("seen*.db")) == ["seen.db", "seen_v2.db"]  # and the view's row


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "mariadb"])
def test_what_makes_the_tables_makes_the_version_s_place_first(
    kind: str, operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """So whoever runs it needs no right to make any."""
    url, _ = database_of(request, kind, tmp_path)
    monkeypatch.setenv("ENSUE_SEEN_DATABASE", url)
    assert "has no database at" in operator("db check", SECOND, code=1)
    said = operator("db init", SECOND)
    assert "Ensue's tables and 0 of seen@2's own are there; source seen@2/" in said
    assert operator("db init", SECOND) == said  # safe to repeat
    assert "everything is there" in operator("db check", SECOND)
    assert "has no database at" in operator("db check", FIRST, code=1)

    async def row() -> ViewRow:
        base = second.make_base()
        await base.open()
        try:
            return await ViewBook(base, "seen").row()  # whose table is there
        finally:
            await base.close()

    assert asyncio.run(row()).state is states.State.NEW


def test_a_service_has_no_versions_and_a_views_losses_are_accepted_where_it_is_kept(operator: Operator) -> None:
    assert "is a Service, which has one state" in operator("views list", "tests.views.commands:teller", code=1)
    assert f"ensue views accept-missing {FIRST}" in operator("gaps accept", FIRST, code=1)


async def test_over_http_a_version_that_is_not_ready_says_how_far_it_is(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, new = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2)
    app = FastAPI()
    install(app, new, health=True)

    @app.get("/accounts")
    async def accounts(rows: Any = Depends(new.rows, scope="function")) -> str:
        return "there are rows"

    scribe = make_scribe(tmp_path)
    async with scribe.running(), old.running() as runtime, versions_of(new) as versions:
        async with scribe.step() as step:
            for number in range(50):
                step.publish(LedgerPosted(account=f"account-{number}", amount=1))
        async with app.router.lifespan_context(app):
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://view")

            async def ask(path: str, status: int) -> Any:
                answer = await client.get(path)
                return answer.json() if answer.status_code == status else None

            found = await ask("/accounts", 503)
            assert found["type"] == "urn:ensue:problem:view-not-ready"
            assert (found["version"], found["active"], found["total"]) == (2, 1, 0)
            assert await ask("/livez", 200)
            assert await ask("/healthz", 200)  # nothing is wrong with the process
            assert "is not built" in (await ask("/readyz", 503))["detail"]

            await versions.rebuild(2, "me", rate=10)

            async def told() -> bool:
                found = await ask("/accounts", 503)
                return bool(found["total"] >= 50 and found["done"] > 0)

            await until(told, "how far it is")
            await versions.book.change(states.resume("me", 0.0))

            async def ready() -> bool:
                return not await versions.obstacles(2, runtime.context.broker)

            await until(ready, "version 2")
            await versions.swap(2, "me", runtime.context.broker)
            await until(lambda: ask("/accounts", 200), "the first answer")
            await until(lambda: ask("/readyz", 200), "readiness")
            await client.aclose()


async def test_a_paused_build_does_nothing_until_it_is_resumed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, new = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2)
    scribe = make_scribe(tmp_path)
    async with scribe.running(), old.running() as runtime, versions_of(new) as versions:
        broker = runtime.context.broker
        async with scribe.step() as step:
            for number in range(50):
                step.publish(LedgerPosted(account=f"account-{number}", amount=1))
        await versions.rebuild(2, "me")
        await versions.book.change(states.pause("me"))
        async with new.running() as building:
            await building.ready()
            assert building.context.brake.wait_s(0.0) == float("inf")

            async def fifty() -> bool:
                return (await versions.progress(1, broker)).done >= 50

            await until(fifty, "version 1, which is not paused")
            applied = [each.counters.applied for each in (await building.context.books.checkpoints()).values()]
            assert sum(applied) == 0
            await versions.book.change(states.resume("me"))

            async def ready() -> bool:
                return not await versions.obstacles(2, broker)

            await until(ready, "version 2, which goes on")


async def test_two_processes_that_begin_a_view_at_once_agree_on_its_first_version(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    views = [make_view(tmp_path, url, each) for each in (1, 2)]
    async with AsyncExitStack() as stack, versions_of(views[0]) as versions:
        await asyncio.gather(*(stack.enter_async_context(each.running()) for each in views))
        row = await versions.book.row()
        assert row.active in (1, 2)
        assert row.fed == (row.active,)
