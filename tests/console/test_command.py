"""`ensue console` as a process: a link that is good once, from this machine; and what it refuses to begin."""

from __future__ import annotations

import asyncio
import html
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from tests.console.test_pages import Read
from tests.unit.cli.harness import ROOT

from ensue.cli.main import main

PROXY = ["--auth", "proxy-header=X-User", "--trusted-proxy", "127.0.0.1/32"]
ROLES = [*PROXY, "--roles-header", "X-Roles"]


@pytest.mark.usefixtures("world")
def test_the_link_is_good_once_and_the_console_is_for_this_machine(world: Path) -> None:
    command = [sys.executable, "-m", "ensue", "console", "tests.console.world:bank", "--http", ":0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))), "COLUMNS": "300"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        found = re.search(r"console of bank: (http://127\.0\.0\.1:\d+)(/enter\?token=\S+)$", said.strip())
        assert found is not None, said
        base, path = found[1], found[2]
        with pytest.raises(httpx.ConnectError):
            httpx.get(base.replace("127.0.0.1", "127.0.0.2"))  # another address of this machine
        with httpx.Client(base_url=base, timeout=20) as nobody:
            assert nobody.get("/failures").status_code == 401
            assert nobody.get("/enter?token=wrong").status_code == 401
            assert nobody.get(path, headers={"Host": "evil.test"}).status_code == 403
        with httpx.Client(base_url=base, timeout=20) as browser:
            entered = browser.get(path)
            assert (entered.status_code, entered.headers["location"]) == (303, "/")
            assert "SameSite=strict" in entered.headers["set-cookie"]
            assert "HttpOnly" in entered.headers["set-cookie"]
            page = browser.get("/failures")
            assert page.status_code == 200
            assert "ValueError" in page.text
            assert browser.get("/", headers={"Host": "evil.test"}).status_code == 403
        with httpx.Client(base_url=base, timeout=20) as second:
            again = second.get(path)
            assert again.status_code == 401
            assert "has been used already" in again.text
    finally:
        process.send_signal(signal.SIGTERM)
        _, complained = process.communicate(timeout=20)
    assert process.returncode == 0, complained
    assert path.partition("=")[2] not in complained  # no secret in its log


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--http", "0.0.0.0:0"], "without --auth the console is for this machine alone"),
        (["--auth", "proxy-header=X-User"], "without --trusted-proxy"),
        (["--trusted-proxy", "10.0.0.5/32"], "give that too"),
        (["--role", "king"], "--role is 'king', expected one of reader, operator, admin"),
        (["--payloads", "some"], "--payloads is 'some'"),
        (["--payloads", "reader=masked"], "whoever comes in has the one role of --role: give one mode"),
        (["--payloads", "none", "--payloads", "full"], "whoever comes in has the one role of --role: give one mode"),
        (["--roles-header", "X-Roles"], "give that too"),
        ([*PROXY, "--roles-header", "x-user"], "whoever is named admin would be one"),
        ([*PROXY, "--roles-header", "X-Roles", "--role", "reader"], "so give one of them"),
        ([*ROLES, "--payloads", "king=full"], "--payloads is 'king', expected one of reader, operator, admin"),
        ([*ROLES, "--payloads", "reader=all"], "--payloads reader is 'all', expected one of none, masked"),
        ([*ROLES, "--payloads", "admin=full"], "expected a mode for reader"),
        ([*ROLES, "--payloads", "reader=full", "--payloads", "full"], "expected ROLE=MODE"),
        ([*ROLES, "--payloads", "reader=none", "--payloads", "reader=full"], "reader is there twice"),
        ([*ROLES, "--payloads", "reader=full", "--payloads", "admin=none"], "admin would be shown less (none)"),
        (["--answer", "0"], "--answer: answer_s=0.0, expected seconds, such as 30"),
        (["--answer", "inf"], "--answer: answer_s=inf, expected seconds"),
        (["--schemas", "nowhere"], "or say where they are with schemas= (--schemas)"),
    ],
)
def test_what_would_let_strangers_in_or_is_not_there_is_refused(
    options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ending:
        main(["console", "tests.console.world:bank", *options])
    assert ending.value.code == 1
    assert why in capsys.readouterr().err


Asks = Callable[[httpx.AsyncClient], Awaitable[None]]


def console_of(options: list[str], asks: Asks, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console as the command makes it, up to the server that would listen: asked in its place."""

    async def serve(application: Starlette, *_: object) -> None:
        transport = httpx.ASGITransport(application, client=("127.0.0.1", 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://desk.test") as browser:
            await asks(browser)

    monkeypatch.setattr("ensue.cli.console._serve", serve)
    with pytest.raises(SystemExit) as ending:
        main(["console", "tests.console.world:bank", *ROLES, "--http", "127.0.0.1:0", *options])
    assert not ending.value.code


@pytest.mark.usefixtures("world")
def test_each_role_that_the_proxy_names_is_shown_what_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, bool] = {}

    async def asks(browser: httpx.AsyncClient) -> None:
        for roles in ("reader", "staff, admin"):
            headers = {"x-user": "ann", "x-roles": roles}
            letters = await browser.get("/letters?service=bank", headers=headers)
            path = re.findall(r'href="(/letter\?[^"]+)"', letters.text)[0]
            shown = Read((await browser.get(html.unescape(path), headers=headers)).text).text
            assert "pence" in shown
            seen[roles] = "***" not in shown

    console_of(["--payloads", "reader=masked", "--payloads", "admin=full"], asks, monkeypatch)
    assert seen == {"reader": False, "staff, admin": True}


@pytest.mark.usefixtures("world")
def test_a_page_that_a_database_keeps_waiting_ends_when_the_option_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asks(browser: httpx.AsyncClient) -> None:
        answer = await browser.get("/letters?service=bank", headers={"x-user": "ann", "x-roles": "reader"})
        assert answer.status_code == 504
        assert "No answer within 0.25 s" in answer.text

    @asynccontextmanager
    async def hangs(*_: object, **__: object) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr("ensue.console.services.Services.opened", hangs)
    console_of(["--answer", "0.25"], asks, monkeypatch)
