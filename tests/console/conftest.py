"""One world for all tests of the console: services with letters, sagas and decisions, and whoever visits them."""

from __future__ import annotations

import asyncio
import html
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.console.world import Asked, Wired, absent, answer, bank, desk

import ensue.console
from ensue import Service
from ensue.console.access import Actor
from ensue.saga.instance import Status

#: What strangers write into keys and data: markup, what ends an attribute, NUL, marks that turn the direction of text.
HOSTILE = "</td><script>alert(1)</script>\"'><img src=x onerror=alert(2)>\x00\u202egnp\u200b&amp;{{7*7}}"
#: As long as a record may be.
LONG = "long " * 178_000


async def until(looked: Callable[[], Awaitable[bool]]) -> None:
    """Look until it is so; pytest-timeout bounds the wait."""
    while not await looked():  # noqa: ASYNC110 - another process may do it
        await asyncio.sleep(0.01)


async def wire(*wires: tuple[str, int, str], letters: int) -> None:
    """Publish in the bank and run it until it has set so many letters aside."""
    async with bank.running() as runtime:
        async with bank.step() as step:
            for account, pence, note in wires:
                step.publish(Wired(account=account, pence=pence, note=note))
        books = runtime.context.books

        async def aside() -> bool:
            return len(await books.letters()) == letters

        await until(aside)


async def ask(*names: str) -> None:
    """Have sagas begun in the desk, and run it until each of them is parked."""
    async with desk.running() as runtime:
        async with desk.step() as step:
            for each in names:
                step.start(answer, Asked(who=each), id=each)
        books = runtime.context.books

        async def parked() -> bool:
            return (await books.saga_groups()).get(("answer", 1, Status.PARKED)) == len(names)

        await until(parked)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """bank: bob's -2 and what waits behind it, eve's, nobody's, and a hostile one. desk: a parked saga."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("ENSUE_HOME", str(home))
        patch.setenv("ENSUE_PARTITIONS", "2")
        wires = [
            ("ann", 1, ""), ("bob", -2, ""), ("bob", 3, ""), ("eve", -5, ""), ("nobody", 1, ""),
            (HOSTILE.replace("\x00", ""), -1, HOSTILE), ("long", -1, LONG),
        ]  # fmt: skip
        asyncio.run(wire(*wires, letters=6))
        asyncio.run(ask("kim"))
        yield home


def admin(_: object) -> Actor:
    return Actor("ann@desk", ["admin"])


class Browser(httpx.AsyncClient):
    """As a browser that keeps cookies and says where a form comes from."""

    async def page(self, path: str, status: int = 200) -> str:
        answer = await self.get(path)
        assert answer.status_code == status, answer.text
        return answer.text

    async def submit(self, shown: str, path: str, **fields: object) -> httpx.Response:
        """Send a form with the token that a page has shown, and with what is hidden in the form that does this."""
        given = {name: str(each) for name, each in fields.items()}
        return await self.post(path, data={"form": token_of(shown), **hidden_in(shown, path, given["do"]), **given})


def hidden_in(page: str, path: str, do: str) -> dict[str, str]:
    for action, form in re.findall(r'<form method="post" action="([^"]*)"[^>]*>(.*?)</form>', page, re.DOTALL):
        hidden = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form)
        found = {name: html.unescape(value) for name, value in hidden}
        if (action, found["do"]) == (path, do):
            return found
    return {}


def token_of(page: str) -> str:
    found = re.search(r'name="form" value="([^"]+)"', page)
    assert found is not None, "the page has no form"
    return found[1]


Open = Callable[..., Browser]


@pytest.fixture
async def browse() -> AsyncIterator[Open]:
    """`browse(roles=["reader"], payloads="masked")`: a browser before a console of bank, desk and absent."""
    opened: list[Browser] = []

    def browser(
        authorize: Callable[..., Actor | Awaitable[Actor | None] | None] = admin,
        payloads: str | Mapping[str, str] = "full",
        services: Sequence[Service] = (bank, desk, absent),
        answer_s: float = 30.0,
        options: Mapping[str, Any] = {"publishing": True},
        **headers: str,
    ) -> Browser:
        application = ensue.console.app(*services, authorize=authorize, payloads=payloads, answer_s=answer_s, **options)
        found = Browser(
            transport=httpx.ASGITransport(application), base_url="http://console.test",
            headers={"Sec-Fetch-Site": "same-origin", "Origin": "http://console.test"} | headers,
        )  # fmt: skip
        opened.append(found)
        return found

    yield browser
    for each in opened:
        await each.aclose()


def unrepaired() -> None:
    (Path(os.environ["ENSUE_HOME"]) / "repaired").unlink(missing_ok=True)
