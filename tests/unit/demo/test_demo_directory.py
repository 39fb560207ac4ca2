"""The directory of a run: no other run's, nobody else's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from shop.demo.directory import MARK, CannotRun, prepared


def test_fresh_run_begins_with_nothing_of_the_run_before(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with prepared(directory, fresh=True, orders=10):
        (directory / "orders.db").write_text("old")
    with prepared(directory, fresh=True, orders=20):
        assert [each.name for each in directory.iterdir()] == [MARK]


def test_kept_data_stay(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    with prepared(directory, fresh=True, orders=10):
        (directory / "orders.db").write_text("old")
    with prepared(directory, fresh=False, orders=10):
        assert (directory / "orders.db").read_text() == "old"


def test_data_of_other_orders_are_not_gone_on_with(tmp_path: Path) -> None:
    with prepared(tmp_path, fresh=True, orders=10):
        pass
    with pytest.raises(CannotRun, match="holds a run with --orders 10, this is one with the whole year"):  # noqa: SIM117
        with prepared(tmp_path, fresh=False, orders=None):
            pytest.fail("went on with it")


def test_files_that_are_no_demos_are_not_removed(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CannotRun, match="no demo's"), prepared(tmp_path, fresh=True, orders=10):
        pytest.fail("went on with it")
    assert (tmp_path / "thesis.txt").exists()


def test_two_runs_do_not_share_a_directory(tmp_path: Path) -> None:
    with prepared(tmp_path, fresh=True, orders=10):
        with pytest.raises(CannotRun, match=f"process {os.getpid()}"), prepared(tmp_path, fresh=True, orders=10):
            pytest.fail("went on with it")
        assert (tmp_path / MARK).exists()


def test_mark_of_a_process_that_is_gone_does_not_block_even_when_its_number_is_used_again(tmp_path: Path) -> None:
    earlier = psutil.Process().create_time() - 1000
    (tmp_path / MARK).write_text(json.dumps({"orders": 10, "pid": os.getpid(), "process_started": earlier}))
    with prepared(tmp_path, fresh=True, orders=10) as directory:
        assert directory == tmp_path


def test_a_directory_that_cannot_be_made_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotRun, match=r"^[^\n]*file/x cannot hold a run's data .*choose another --directory$"):  # noqa: SIM117
        with prepared(tmp_path / "file" / "x", fresh=True, orders=10):
            pytest.fail("ran there")


def test_data_of_orders_placed_in_another_way_are_not_gone_on_with(tmp_path: Path) -> None:
    with prepared(tmp_path, fresh=True, orders=10, placement="orchestration"):
        pass
    said = "holds a run with --orders 10 --placement orchestration, this is one with --orders 10:"
    with pytest.raises(CannotRun, match=said), prepared(tmp_path, fresh=False, orders=10):
        pytest.fail("went on with it")
    with prepared(tmp_path, fresh=False, orders=10, placement="orchestration"):
        pass
    said = "this is one with --orders 10 --placement orchestration --customers event-sourced:"
    with (
        pytest.raises(CannotRun, match=said),
        prepared(tmp_path, fresh=False, orders=10, placement="orchestration", customers="event-sourced"),
    ):
        pytest.fail("went on with it")
