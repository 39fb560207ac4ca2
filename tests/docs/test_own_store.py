"""The store that docs/how-to/a-store-of-your-own.md writes keeps every promise: its own test, damage, and kill -9."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ensue.conformance.store_suite import ACCOUNTS
from ensue.errors import StoreOutdated, StoreUnavailable, UsageError

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/how-to/a-store-of-your-own.md"


def file_of_the_page(name: str) -> str:
    blocks = re.findall(rf'^```python title="{name}"\n(.*?)^```', PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks, name
    return "\n\n".join(blocks)


def imported(name: str) -> ModuleType:
    module = sys.modules[name] = ModuleType(name)
    exec(compile(file_of_the_page(f"{name}.py"), f"{PAGE.name}:{name}.py", "exec"), module.__dict__)
    return module


journal_store: Any = imported("journal_store")
TestJournalStore = imported("test_journal_store").TestJournalStore
SERVICE = "orders"


def test_the_page_has_no_more_lines_than_it_says() -> None:
    assert sum(bool(line.strip()) for line in file_of_the_page("journal_store.py").splitlines()) <= 300


def store_at(path: Path) -> Any:
    return journal_store.JournalStore(f"journal:///{path}", SERVICE)


async def put(store: Any, *rows: tuple[str, int]) -> None:
    async with store.transaction() as transaction:
        await transaction.insert_rows(ACCOUNTS, rows)


async def ids(path: Path) -> list[str]:
    """What a store finds in the file."""
    store = store_at(path)
    await store.open()
    try:
        rows = await store.rows().get(ACCOUNTS, ["a", "b", "c", "d", "e"])
        return sorted(row[0] for row in rows)
    finally:
        await store.close()


@pytest.fixture
async def lines(tmp_path: Path) -> list[bytes]:
    """A journal of its first line and three commits; the last one of two rows."""
    store = store_at(tmp_path / "whole")
    await store.open()
    await put(store, ("a", 1))
    await put(store, ("b", 1))
    await put(store, ("c", 1), ("d", 1))
    await store.close()
    found = (tmp_path / "whole").read_bytes().splitlines(keepends=True)
    assert len(found) == 4
    return found


# ----------------------------------------------------------------------------------------- what a crash leaves behind


async def test_a_commit_that_was_cut_off_anywhere_is_not_there_and_the_rest_is(
    tmp_path: Path, lines: list[bytes]
) -> None:
    *before, last = lines
    path = tmp_path / "torn"
    for length in range(len(last) - 1):
        path.write_bytes(b"".join(before) + last[:length])
        assert await ids(path) == ["a", "b"], f"cut after {length} bytes of {len(last)}"
    path.write_bytes(b"".join(before) + bytes(len(last) - 9) + last[-9:])  # the first page of it never reached the disk
    assert await ids(path) == ["a", "b"]


async def test_a_store_goes_on_after_a_commit_that_was_cut_off(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "torn"
    path.write_bytes(b"".join(lines)[:-5])
    store = store_at(path)
    await store.open()
    await put(store, ("e", 1))
    await store.close()
    assert await ids(path) == ["a", "b", "e"]


@pytest.mark.parametrize("line", [0, 1, 2])
async def test_damage_before_the_last_commit_is_refused_with_its_place(
    tmp_path: Path, lines: list[bytes], line: int
) -> None:
    broken = bytearray(lines[line])
    broken[len(broken) // 2] ^= 1
    path = tmp_path / "damaged"
    path.write_bytes(b"".join([*lines[:line], bytes(broken), *lines[line + 1 :]]))
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"line {line + 1} is damaged"):
        await store_at(path).open()
    assert path.read_bytes() == before


async def test_a_file_of_other_tables_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "old"
    path.write_bytes(journal_store._line(journal_store.State(0, "abcd")))
    with pytest.raises(StoreOutdated, match="version 0"):
        await store_at(path).open()


async def test_a_file_that_another_store_has_open_is_waited_for(tmp_path: Path) -> None:
    first, second = store_at(tmp_path / "one"), store_at(tmp_path / "one")
    await first.open()
    with pytest.raises(StoreUnavailable, match="another process"):
        await second.open()
    await first.close()
    await second.open()
    await second.close()


@contextmanager
def no_file_longer_than(length: int) -> Iterator[None]:
    """As a disk that is full: the kernel takes a part of a write, and refuses the next one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (length, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 10])
async def test_a_commit_that_the_disk_does_not_take_is_nothing_and_the_next_one_is_whole(
    tmp_path: Path, room: int
) -> None:
    path = tmp_path / "full"
    store = store_at(path)
    await store.open()
    await put(store, ("a", 1))
    with no_file_longer_than(path.stat().st_size + room), pytest.raises(StoreUnavailable):
        await put(store, ("b", 1))
    assert list(await store.rows().get(ACCOUNTS, ["b"])) == []
    await put(store, ("c", 1))
    await store.close()
    assert await ids(path) == ["a", "c"]


# ------------------------------------------------------------------------------------------------ services, kill -9

#: Twenty orders more than there are, then wait until the customers know of all of them.
_CHILD = """
import asyncio
from shop import ORDERS, Customer, Order, OrderCreated, customers, orders

async def main():
    async with orders.running(), customers.running():
        async with orders.rows() as rows:
            begin = await rows.count(Order)
        for number in range(begin, begin + 20):
            async with orders.step() as step:
                await ORDERS.save(step.transaction, {}, {str(number): Order(str(number), number)})
                step.publish(OrderCreated(order_id=str(number), customer_id="ada", total=number))
        wanted = Customer("ada", sum(range(begin + 20)), begin + 20)
        async with customers.rows() as rows:
            while (found := await rows.get(Customer, "ada")) != wanted:
                assert found is None or found.orders <= wanted.orders, found
                await asyncio.sleep(0.01)
        print(found)

asyncio.run(main())
"""
_DEATHS = ("step.outbox_written:3", "step.committed:7", "relay.appended:2", "consumer.checkpoint_written:2",
           "consumer.committed:2")  # fmt: skip


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ENSUE_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(directory), str(ROOT / "src")]),
        "ENSUE_ORDERS_DATABASE": "journal:///data/orders.journal",
        "ENSUE_CUSTOMERS_DATABASE": "journal:///data/customers.journal",
    }
    return subprocess.run(
        [sys.executable, *command], cwd=directory, env=environment, stdout=-1, stderr=-1, text=True, timeout=100
    )


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A directory with the page's two files, the store installed as a package is: with its entry point."""
    for name in ("journal_store.py", "shop.py"):
        (tmp_path / name).write_text(file_of_the_page(name))
    (tmp_path / "child.py").write_text(_CHILD)
    [project] = re.findall(r'^```toml title="pyproject.toml"\n.*?^(journal = .*?)\n```', PAGE.read_text(), re.M | re.S)
    about = tmp_path / "journal_store-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: journal-store\nVersion: 1\n")
    (about / "entry_points.txt").write_text(f"[ensue.stores]\n{project.replace(chr(34), '')}\n")
    return tmp_path


@pytest.mark.timeout(300)
def test_services_on_it_that_are_killed_again_and_again_count_every_order_once(installed: Path) -> None:
    for death in _DEATHS:
        died = run(installed, "-m", "ensue.testing.faulty", death, "child.py")
        assert died.returncode == -signal.SIGKILL, f"{death}: {died}"
    ended = run(installed, "child.py")
    assert ended.returncode == 0, ended.stderr
    orders = int(re.search(r"orders=(\d+)", ended.stdout)[1])  # type: ignore[index]  # a test fails then
    assert orders > 20
    assert ended.stdout == f"Customer(customer_id='ada', spent={sum(range(orders))}, orders={orders})\n"

    status = run(installed, "-m", "ensue", "status", "shop:customers")
    assert status.returncode == 0, status.stderr
    assert "orders/0" in status.stdout


def test_a_scheme_that_nobody_has_is_refused_with_those_that_there_are(installed: Path) -> None:
    (installed / "entry.py").write_text("from ensue.adapters import make_store\nmake_store('jurnal:///x', 'orders')")
    refused = run(installed, "entry.py")
    assert "UsageError: database URL with scheme 'jurnal': expected one of journal, mariadb," in refused.stderr
