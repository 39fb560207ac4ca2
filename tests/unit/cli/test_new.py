"""`ensue new`: the project that it makes passes its tests, and nothing that is there is touched."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.harness import ROOT, Ended

from ensue import UsageError
from ensue.cli.main import app as commands
from ensue.cli.new import project

Command = Callable[..., Ended]


@pytest.fixture
def here(ensue: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "here"
    directory.mkdir()
    monkeypatch.chdir(directory)
    return directory


def in_project(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python there, as somebody who has installed Ensue and set no variable."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command], cwd=directory, env=environment, capture_output=True, text=True, timeout=100
    )


def test_a_new_project_passes_its_tests_at_once(ensue: Command, here: Path) -> None:
    ended = ensue("new", "tea-shop")
    assert ended.code == 0, ended.err
    assert "tea-shop/ is there: pyproject.toml, README.md, .gitignore, tea_shop/__init__.py" in ended.out
    done = in_project(here / "tea-shop", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    shown = in_project(here / "tea-shop", "-m", "ensue", "topology", "tea_shop.services:orders",
                       "tea_shop.services:customers")  # fmt: skip
    assert "orders.OrderCreated.v1" in shown.stdout, shown.stderr
    assert shown.stderr == ""  # no end of an event is loose, and none is unknown


def test_its_tests_can_fail(ensue: Command, here: Path) -> None:
    ensue("new", "shop2")
    services = here / "shop2/shop2/services.py"
    services.write_text(services.read_text().replace('order.status = "OPEN"', 'order.status = "OPNE"'))
    done = in_project(here / "shop2", "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert done.returncode == 1
    assert "2 failed, 2 passed" in done.stdout


def test_its_services_are_the_example_of_two_services() -> None:
    assert project("shop1")["shop1/services.py"] == (ROOT / "examples/two_services.py").read_text()


def test_it_asks_for_extras_that_there_are(ensue: Command) -> None:
    made = tomllib.loads(project("tea-shop")["pyproject.toml"])
    assert made["project"]["name"] == "tea-shop"
    assert made["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["tea_shop"]
    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = {extra for text in project("tea-shop").values() for extra in re.findall(r"ensue\[([\w,]+)\]", text)}
    asked = {each for extras in asked for each in extras.split(",")}
    assert "fastapi" in asked
    assert asked <= ours.keys()


def test_commands_that_its_readme_names_are_there(ensue: Command) -> None:
    names = {each.name or each.callback.__name__ for each in commands.registered_commands if each.callback}
    names |= {each.name for each in commands.registered_groups if each.name}
    named = set(re.findall(r"\bensue ([a-z-]+)", project("tea-shop")["README.md"]))
    assert {"run", "status", "topology"} <= named
    assert named <= names


def test_a_directory_with_something_in_it_is_left_alone(ensue: Command, here: Path) -> None:
    (here / "shop3").mkdir()
    (here / "shop3/notes.txt").write_text("mine")
    ended = ensue("new", "shop3")
    assert ended.code == 1
    assert "shop3/ is there and not empty (notes.txt): choose another name, or remove it" in ended.err
    assert [each.name for each in (here / "shop3").iterdir()] == ["notes.txt"]
    (here / "shop4").write_text("a file")
    assert "shop4 is there and no directory" in ensue("new", "shop4").err


def test_an_empty_directory_will_do(ensue: Command, here: Path) -> None:
    (here / "shop5").mkdir()
    assert ensue("new", "shop5").code == 0
    assert (here / "shop5/shop5/services.py").exists()


def test_where_nobody_may_write_it_says_so(ensue: Command, here: Path) -> None:
    (here / "away").symlink_to(here / "nowhere" / "deep")
    assert "away is there and no directory" in ensue("new", "away").err


@pytest.mark.parametrize("name", ["Shop", "2shop", "", "a/b", "../up", "-x-", "a--b", "shöp", "a b"])
def test_what_can_be_no_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a project: expected lower-case letters"):
        project(name)


@pytest.mark.parametrize("name", ["class", "async"])
def test_a_word_of_python_is_no_package_and_said_to_be_one(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is a word of Python's, and no package: choose another"):
        project(name)


def test_its_readme_says_where_ensue_comes_from_as_long_as_no_index_has_it() -> None:
    """Its commands are typed as they stand there: without that one, pip would look for a package that is not there."""
    begin = re.search(r"## Begin\n\n```shell\n(.*?)```", project("tea-shop")["README.md"], re.DOTALL)
    assert begin is not None
    lines = begin[1].splitlines()
    assert len(lines) == 6  # as `ensue new` says
    assert [number for number, line in enumerate(lines) if "/path/to/ensue[console,fastapi,reload]" in line] == [3]


@pytest.mark.parametrize("name", ["json", "ensue", "tests"])
def test_a_package_that_would_hide_another_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"a package {name} would hide another one"):
        project(name)
