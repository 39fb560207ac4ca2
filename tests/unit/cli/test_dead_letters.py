from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.harness import LEDGER, Ended, applied, books_of, entries, work_until
from tests.unit.cli.services import flag, ledger, till

from ensue.adapters import make_broker
from ensue.message import DeadLetterState, OutboxRecord


async def _letters(*states: DeadLetterState) -> list[Any]:
    async with books_of(ledger) as (_, books):
        return await books.letters(None, states)


@pytest.fixture
def poisoned(home: Path, sell: Callable[..., None]) -> None:
    """ann's second message is dead, her third waits behind it, bob's went through."""
    home.mkdir()
    flag("poison").touch()
    sell(("ann", 1), ("ann", -2), ("bob", 5), ("ann", 3))

    async def stands_still() -> bool:
        return await applied() == 2 and len(await _letters()) == 2

    asyncio.run(work_until(stands_still, till, ledger))


def _work_until_applied(count: int) -> None:
    async def enough() -> bool:
        return await applied() >= count

    asyncio.run(work_until(enough, ledger))


@pytest.mark.usefixtures("poisoned")
def test_the_list_shows_the_reason_and_who_waits(ensue: Callable[..., Ended]) -> None:
    ended = ensue("dead-letters", "list", LEDGER, "--json")
    assert [(each["state"], each["key"], each["error"].split("\n")[0]) for each in ended.json["letters"]] == [
        ("dead", "ann", "handler enter: negative amount -2"),
        ("waiting", "ann", ""),
    ]
    assert ended.json["total"] == 2
    text = ensue("dead-letters", "list", LEDGER, "--limit", 1).out
    assert "ValueError: handler enter: negative amount -2" in text
    assert "services.py" not in text
    assert " UTC" in text
    assert "1 more: --limit 2" in text
    assert ensue("dead-letters", "list", LEDGER, "--state", "waiting", "--json").json["total"] == 1
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert status["dead_letters"] == {"dead": 1, "waiting": 1}


@pytest.mark.usefixtures("poisoned")
def test_one_letter_is_shown_with_headers_data_and_who_waits_behind_it(ensue: Callable[..., Ended]) -> None:
    first, second = ensue("dead-letters", "list", LEDGER, "--json").json["letters"]
    assert first["id"] == f"sales/{first['partition']}:1"
    shown = ensue("dead-letters", "show", LEDGER, first["id"], "--json").json
    assert shown["data"] == {"customer": "ann", "amount": -2}
    assert shown["headers"]["type"] == "sales.Sold.v1"
    assert shown["behind"] == [second["id"]]
    text = ensue("dead-letters", "show", LEDGER, first["id"]).out
    assert "  reason   ValueError: handler enter: negative amount -2\n" in text
    assert re.search(r'^ +File ".*/tests/unit/cli/services\.py", line \d+, in enter$', text, re.MULTILINE)
    assert 'raise ValueError(f"negative amount {event.amount}")' in text
    assert re.search(r"set aside \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC,", text)
    assert '"amount": -2' in text
    assert f"waiting behind it: 1 of the same key: {second['id']}" in text
    assert "waits behind its key's first" in ensue("dead-letters", "show", LEDGER, second["id"]).out


@pytest.mark.usefixtures("poisoned")
def test_after_the_fix_a_retry_puts_the_key_s_messages_through_in_order(ensue: Callable[..., Ended]) -> None:
    [letter, _] = ensue("dead-letters", "list", LEDGER, "--json").json["letters"]
    flag("poison").unlink()
    ended = ensue("dead-letters", "retry", LEDGER, letter["id"])
    assert ended.code == 0
    assert f"dead letter {letter['id']}, key ann: released" in ended.out
    assert f"No worker of ledger lives: it takes effect when one runs (ensue run {LEDGER})" in ended.out
    _work_until_applied(4)
    assert [amount for customer, amount in entries() if customer == "ann"] == [1, -2, 3]
    assert ensue("dead-letters", "list", LEDGER).out == "no dead letters\n"


@pytest.mark.usefixtures("poisoned")
def test_what_is_discarded_is_recorded_and_holds_nothing_back(ensue: Callable[..., Ended]) -> None:
    ended = ensue("dead-letters", "discard", LEDGER, "--all", "--yes")
    assert ended.code == 0
    _work_until_applied(3)
    assert [amount for customer, amount in entries() if customer == "ann"] == [1, 3]
    assert ensue("dead-letters", "list", LEDGER, "--json").json["letters"] == []
    [kept] = ensue("dead-letters", "list", LEDGER, "--state", "discarded", "--json").json["letters"]
    assert (kept["key"], kept["error"].split("\n")[0]) == ("ann", "handler enter: negative amount -2")
    again = ensue("dead-letters", "retry", LEDGER, kept["id"])
    assert again.code == 1
    assert "discarded" in again.err


@pytest.mark.usefixtures("poisoned")
def test_nothing_is_discarded_without_a_yes(ensue: Callable[..., Ended]) -> None:
    ended = ensue("dead-letters", "discard", LEDGER, "--all")  # nobody is there to answer
    assert ended.code == 1
    assert "Give up 1 message(s) for good" in ended.out
    assert ensue("dead-letters", "list", LEDGER, "--state", "dead", "--json").json["total"] == 1


@pytest.mark.usefixtures("poisoned")
def test_one_that_waits_cannot_be_decided_before_its_first(ensue: Callable[..., Ended]) -> None:
    [_, waiting] = ensue("dead-letters", "list", LEDGER, "--json").json["letters"]
    ended = ensue("dead-letters", "retry", LEDGER, waiting["id"])
    assert ended.code == 1
    assert "is waiting: only one that is dead or retrying can be decided" in ended.err


def test_garbage_cannot_be_retried_but_discarded(ensue: Callable[..., Ended]) -> None:
    async def put_garbage() -> None:
        record = OutboxRecord("sales", 0, "k\x1b[31m", b"no envelope", b"\xff")
        broker = make_broker(ledger.settings().broker)
        await broker.open()
        try:
            await broker.ensure_topic("sales", 2)
            await broker.append("sales", 0, "stranger", [record])
        finally:
            await broker.close()

        async def set_aside() -> bool:
            return len(await _letters(DeadLetterState.DEAD)) == 1

        await work_until(set_aside, ledger)

    asyncio.run(put_garbage())
    [letter] = ensue("dead-letters", "list", LEDGER, "--json").json["letters"]
    ended = ensue("dead-letters", "retry", LEDGER, letter["id"])
    assert ended.code == 1
    assert "is no message" in ended.err
    assert f"ensue dead-letters discard {LEDGER} {letter['id']}" in ended.err
    assert (
        "1 left as they are: no messages, they can only be discarded"
        in ensue("dead-letters", "retry", LEDGER, "--all").out
    )
    assert ensue("dead-letters", "list", LEDGER, "--json").json["letters"][0]["state"] == "dead"
    text = ensue("dead-letters", "show", LEDGER, letter["id"]).out
    assert "it holds nothing back" in text
    assert "\x1b[31m" not in text
    assert ensue("dead-letters", "discard", LEDGER, letter["id"], "-y").code == 0


def test_a_letter_that_is_not_there_is_an_error_that_says_where_to_look(ensue: Callable[..., Ended]) -> None:
    ensue("db", "init", LEDGER)
    for command in ("show", "retry", "discard"):
        ended = ensue("dead-letters", command, LEDGER, "sales/0:42")
        assert ended.code == 1
        assert "there is no dead letter sales/0:42" in ended.err
        assert "ensue dead-letters list" in ended.err
    assert "say which" in ensue("dead-letters", "retry", LEDGER).err
    assert "say which" in ensue("dead-letters", "retry", LEDGER, "sales/0:1", "--all").err
