"""`ensue console` as a process: a link that is good once, from this machine; and what it refuses to begin."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.unit.cli.harness import ROOT

from ensue.cli.main import main


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
