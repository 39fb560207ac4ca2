"""The pytest plugin: fixtures that are there as soon as Ensue is installed. Works with any asyncio plugin of pytest.

It is loaded in every run of pytest, also of projects that do not use it, so it imports nothing of weight by itself.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from ensue.app import Service
    from ensue.testing.world import World


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("ensue")
    group.addoption(
        "--ensue-seed", type=int, default=0, metavar="N", help="what the chance in ensue_world begins with (default: 0)"
    )


@pytest.fixture
def ensue_world(request: pytest.FixtureRequest) -> Callable[..., AbstractAsyncContextManager[World]]:
    """`ensue.testing.run` with the seed of the command line; a failing test reports it.

    async def test_order_is_opened(ensue_world):
        async with ensue_world(orders, customers) as world:
            ...
            await world.settle()
    """
    seed: int = request.config.getoption("--ensue-seed")

    @asynccontextmanager
    async def world(*services: Service, **options: Any) -> AsyncIterator[World]:
        from ensue.testing.world import run

        used = options.setdefault("seed", seed)
        request.node.add_report_section("call", "ensue", f"seed {used}; again with: pytest --ensue-seed={used}")
        async with run(*services, **options) as running:
            yield running

    return world


@pytest.fixture
def ensue_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of this test's own for embedded databases and broker; where the environment points is out of reach.

    For tests that let a service find its settings by itself, e.g. in an app that starts it, `install(app, orders)`.
    """
    for name in list(os.environ):
        variable = name.removesuffix("_FILE")
        if variable == "ENSUE_BROKER" or (variable.startswith("ENSUE_") and variable.endswith("_DATABASE")):
            monkeypatch.delenv(name)
    home = tmp_path / "ensue"
    monkeypatch.setenv("ENSUE_HOME", str(home))
    return home
