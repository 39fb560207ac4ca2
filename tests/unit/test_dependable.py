from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException

from ensue.dependable import dependable
from ensue.errors import UsageError


class Shop:
    def __init__(self) -> None:
        self.log: list[str] = []

    @dependable
    async def step(self) -> AsyncIterator[str]:
        self.log.append("open")
        try:
            yield "step"
        except BaseException as error:
            self.log.append(f"roll back {type(error).__name__}")
            raise
        self.log.append("commit")


async def test_block_commits_at_its_end_and_rolls_back_when_it_raises() -> None:
    shop = Shop()
    async with shop.step() as step:
        assert step == "step"
    with pytest.raises(ZeroDivisionError):
        async with shop.step():
            raise ZeroDivisionError
    assert shop.log == ["open", "commit", "open", "roll back ZeroDivisionError"]


async def test_same_method_serves_as_a_fastapi_dependency() -> None:
    shop = Shop()
    app = FastAPI()

    @app.get("/good")
    async def good(step: str = Depends(shop.step, scope="function")) -> str:
        return step

    @app.get("/bad")
    async def bad(step: str = Depends(shop.step, scope="function")) -> str:
        raise HTTPException(404)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        assert (await client.get("/good")).json() == "step"
        assert (await client.get("/bad")).status_code == 404
    assert shop.log == ["open", "commit", "open", "roll back HTTPException"]


async def test_a_plain_with_says_async_with() -> None:
    shop = Shop()
    with pytest.raises(UsageError, match=r"write `async with \.\.\.\.step\(\)`"), shop.step():  # type: ignore[attr-defined]
        pass
    assert shop.log == []


def test_one_that_has_not_begun_says_how_it_begins() -> None:
    with pytest.raises(AttributeError, match=r"no 'publish': write `async with \.\.\.\.step\(\) as it:`"):
        Shop().step().publish  # type: ignore[attr-defined]  # noqa: B018  # the point of the test
    assert not hasattr(Shop().step(), "__wrapped__")
