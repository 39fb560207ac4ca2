"""The page "the life of one event" names files and functions: they exist, and one order really passes through them."""

from __future__ import annotations

import ast
import asyncio
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

import httpx
import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/explanation/life-of-one-event.md").read_text()
#: (file, function) in the order of the page.
STATIONS = [
    (line.group(1), name)
    for line in re.finditer(r"^`([\w/]+\.py)`: (.+)$", PAGE, re.MULTILINE)
    for name in re.findall(r"`([^`]+)`", line.group(2))
]
#: In each of these at least one station must lie, or the page skips a part of the way.
PARTS = (
    "integrations", "engine/runtime", "stores/sqlite", "engine/relay", "brokers/embedded", "plan",
    "engine/consumer", "engine/dispatch", "repository", "shop/orders", "shop/customers", "shop/order_history",
)  # fmt: skip


def names_in(file: str) -> set[str]:
    """Every function of a file, by its name with that of its class; functions in functions by their own name."""
    found: set[str] = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef):
                visit(child, f"{child.name}.")
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                found.add(prefix + child.name)
                visit(child, "")
            else:
                visit(child, prefix)

    visit(ast.parse((ROOT / file).read_text()), "")
    return found


def test_every_named_function_exists() -> None:
    assert 30 < len(STATIONS) <= 40, "more, and nobody follows it in one sitting"
    missing = [f"{file}: {name}" for file, name in STATIONS if name not in names_in(file)]
    assert not missing


def test_every_named_file_exists() -> None:
    files = re.findall(r"`((?:src|examples|tests)/[\w/]+\.py)`", PAGE)
    assert [file for file in files if not (ROOT / file).is_file()] == []


def test_no_part_of_the_way_is_left_out() -> None:
    assert [part for part in PARTS if not any(part in file for file, _ in STATIONS)] == []


class Recorder:
    """Notes each call of our own functions, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self._known: dict[Any, tuple[str, str] | None] = {}

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        code = frame.f_code
        if code not in self._known:
            file = Path(code.co_filename)
            ours = file.is_relative_to(ROOT / "src") or file.is_relative_to(ROOT / "examples")
            name = code.co_qualname.rpartition("<locals>.")[2]
            self._known[code] = (file.relative_to(ROOT).as_posix(), name) if ours else None
        known = self._known[code]
        if known is not None:
            self.calls.append(known)


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    before = sys.getprofile()
    yield Recorder()
    sys.setprofile(before)


def first_station_not_reached(calls: list[tuple[str, str]]) -> tuple[str, str] | None:
    rest = iter(calls)
    return next((station for station in STATIONS if not any(call == station for call in rest)), None)


async def eventually(client: httpx.AsyncClient, path: str, wanted: str) -> None:
    """Ask until the answer holds `wanted`. The way of one order takes milliseconds; the limit is generous."""
    give_up_at = time.monotonic() + 60
    while wanted not in (answer := await client.get(path)).text:
        assert time.monotonic() < give_up_at, f"{path} still answers {answer.text}, expected {wanted}"
        await asyncio.sleep(0.005)


async def test_one_order_passes_through_all_of_them_in_this_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Recorder
) -> None:
    from shop.customers import customers
    from shop.customers.app import app as customers_app
    from shop.order_history import order_history
    from shop.order_history.app import app as history_app
    from shop.orders import orders
    from shop.orders.app import app as orders_app

    monkeypatch.setenv("ENSUE_HOME", str(tmp_path))
    customer_id = uuid4()
    async with (
        orders.running(),
        customers.running(),
        order_history.running(),
        httpx.AsyncClient(transport=httpx.ASGITransport(orders_app), base_url="http://orders") as to_orders,
        httpx.AsyncClient(transport=httpx.ASGITransport(customers_app), base_url="http://customers") as to_customers,
        httpx.AsyncClient(transport=httpx.ASGITransport(history_app), base_url="http://history") as to_history,
    ):
        new = {"customer_id": str(customer_id), "name": "Ada", "credit_limit": "100.00"}
        assert (await to_customers.post("/customers", json=new)).status_code == 201
        path = f"/customers/{customer_id}/orders"
        await eventually(to_history, path, "Ada")

        sys.setprofile(recorder)
        answer = await to_orders.post("/orders", json={"customer_id": str(customer_id), "total": "30.00"})
        assert answer.status_code == 201
        await eventually(to_history, path, '"status":"OPEN"')
        sys.setprofile(None)

    assert first_station_not_reached(recorder.calls) is None


def test_a_way_that_leaves_out_a_station_is_noticed() -> None:
    assert first_station_not_reached(STATIONS) is None
    place = len(STATIONS) // 2
    assert first_station_not_reached(STATIONS[:place] + STATIONS[place + 1 :]) is not None
