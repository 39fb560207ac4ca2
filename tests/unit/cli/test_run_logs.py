"""`ensue run --log-format json`: every line of it is JSON, those of its children too."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable

import pytest
from tests.unit.cli.harness import LEDGER, TILL, Ended, Running


@pytest.mark.parametrize("how", ["option", "variable"])
def test_every_line_is_json(
    how: str, run: Callable[..., Running], home: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "variable":
        monkeypatch.setenv("ENSUE_LOG_FORMAT", "json")
    running = run(LEDGER, TILL, "--processes", "2", *(("--log-format", "json") if how == "option" else ()))
    running.wait_for(": ready as ", times=4)
    running.process.send_signal(signal.SIGTERM)
    assert running.end() == 0, running.seen
    lines = [json.loads(line) for line in running.seen.splitlines()]
    assert {"ensue.run"} <= {line["logger"] for line in lines}
    assert len({line["process"] for line in lines}) >= 2


def test_another_format_is_refused(ensue: Callable[..., Ended]) -> None:
    ended = ensue("run", LEDGER, "--log-format", "xml")
    assert (ended.code, ended.out) == (1, "")
    assert "--log-format is 'xml', expected one of text, json" in ended.err
