"""What killed processes leave in the temporary directory goes, what somebody listens to stays."""

from __future__ import annotations

import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensue.embedded.leftovers import YOUNG_S, sweep


@pytest.fixture
def parent() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="e", dir="/tmp") as short:  # the path of a socket holds 100 bytes
        yield Path(short)


def directory(parent: Path, name: str) -> Path:
    made = parent / name
    made.mkdir(mode=0o700)
    return made


def listener(place: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    bound.bind(str(place / "1-a"))
    return bound


def test_a_directory_whose_listeners_are_gone_is_removed(parent: Path) -> None:
    listener(directory(parent, "ensue-0-dead")).close()
    directory(parent, "ensue-0-empty")
    assert sweep(str(parent), "ensue-0-", now=time.time() + YOUNG_S + 1) == 2
    assert list(parent.iterdir()) == []


def test_a_directory_with_a_listener_stays(parent: Path) -> None:
    with listener(directory(parent, "ensue-0-alive")):
        assert sweep(str(parent), "ensue-0-", now=time.time() + YOUNG_S + 1) == 0
        assert (parent / "ensue-0-alive" / "1-a").exists()


def test_a_young_directory_stays_since_its_listener_may_be_about_to_bind(parent: Path) -> None:
    directory(parent, "ensue-0-young")
    assert sweep(str(parent), "ensue-0-") == 0


def test_what_is_not_ours_stays(parent: Path) -> None:
    (directory(parent, "ensue-0-notes") / "notes.txt").write_text("mine")
    directory(parent, "other")
    assert sweep(str(parent), "ensue-0-", now=time.time() + YOUNG_S + 1) == 0
    assert {each.name for each in parent.iterdir()} == {"ensue-0-notes", "other"}


def test_a_parent_that_is_not_there_is_no_error() -> None:
    assert sweep("/nowhere/at/all", "ensue-") == 0
