from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.harness import LEDGER, SERVICES, Ended, applied, books_of, entries, work_until
from tests.unit.cli.services import Stamp, clerk, flag, ledger, till

from ensue.adapters import make_broker
from ensue.cli import dead_letters
from ensue.cli.operator import user
from ensue.codec import decode_envelope
from ensue.conformance.store_suite import letter
from ensue.deciding import Deciding, Face
from ensue.engine.books import Books
from ensue.errors import UsageError
from ensue.message import REPLY, DeadLetterState, OutboxRecord, Partition
from ensue.operations.group_decisions import End, groups, retry_group
from ensue.operations.opening import opened
from ensue.reply import Reply, read_reply


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
def test_nothing_is_decided_on_all_of_them_without_a_yes(ensue: Callable[..., Ended]) -> None:
    for command, question in (("discard", "Give up 1 message(s) for good"), ("retry", "Try 1 message(s) again")):
        for answer in ("", "n\n"):  # nobody is there to answer
            ended = ensue("dead-letters", command, LEDGER, "--all", answer=answer)
            assert ended.code == 1
            assert question in ended.out
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
        in ensue("dead-letters", "retry", LEDGER, "--all", "--yes").out
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


async def _set_aside(count: int, *states: DeadLetterState, key: str = "k", data: bytes = b"{}") -> None:
    """Letters of one moment, in these states in turn."""
    partition = Partition("ledger", "sales", 0)
    async with books_of(ledger) as (store, books):
        checkpoint = await books.checkpoint(partition)
        async with store.transaction() as transaction:
            letters = []
            for at in range(count):
                each = letter()
                each.partition, each.state, each.parked_at = partition, states[at % len(states)], 1000.0
                each.key, each.data = key, data
                letters.append(each)
            await books.add_letters(transaction, checkpoint, letters)
            await books.save_checkpoint(transaction, partition, checkpoint)


async def test_many_are_listed_in_order_a_line_each(ensue: Callable[..., Ended]) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(1201, DeadLetterState.DEAD, DeadLetterState.WAITING)
    ended = await asyncio.to_thread(ensue, "dead-letters", "list", LEDGER, "--limit", 1200)
    lines = ended.out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == [f"sales/0:{number}" for number in range(1, 1201)]
    assert lines[-1] == "1 more: --limit 1201"
    shown = (await asyncio.to_thread(ensue, "dead-letters", "list", LEDGER, "--limit", 1200, "--json")).json
    assert [each["id"] for each in shown["letters"]] == [f"sales/0:{number}" for number in range(1, 1201)]
    assert shown["total"] == 1201


async def test_whatever_a_letter_holds_it_is_shown_and_steers_no_terminal(ensue: Callable[..., Ended]) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    key, data = "k\x9b2J\u2028\u202e", b"[" * 30_000 + b"]" * 30_000
    await _set_aside(1, DeadLetterState.DEAD, key=key, data=data)
    for command in (("list", LEDGER), ("show", LEDGER, "sales/0:1")):
        ended = await asyncio.to_thread(ensue, "dead-letters", *command)
        as_json = await asyncio.to_thread(ensue, "dead-letters", *command, "--json")
        assert (ended.code, as_json.code) == (0, 0)
        assert all(line.isprintable() for line in (ended.out + as_json.out).split("\n"))
        found = as_json.json["letters"][0] if command[0] == "list" else as_json.json
        assert found["key"] == key
    assert found["data"] == repr(data)


async def test_what_dies_while_somebody_is_asked_is_not_given_up_with_the_rest(
    ensue: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(2, DeadLetterState.DEAD)
    asked: list[str] = []

    def think(question: str, yes: bool) -> None:
        asked.append(question)
        worker = threading.Thread(target=lambda: asyncio.run(_set_aside(3, DeadLetterState.DEAD)))
        worker.start()
        worker.join()

    monkeypatch.setattr(dead_letters, "confirm", think)
    ended = await asyncio.to_thread(ensue, "dead-letters", "discard", LEDGER, "--all")
    assert (ended.code, asked) == (0, ["Give up 2 message(s) for good?"])
    assert len(await _letters(DeadLetterState.DISCARDED)) == 2
    assert len(await _letters(DeadLetterState.DEAD)) == 3
    ended = await asyncio.to_thread(ensue, "dead-letters", "retry", LEDGER, "--all")
    assert (ended.code, asked[1:]) == (0, ["Try 3 message(s) again, all at once?"])
    assert (len(await _letters(DeadLetterState.RELEASED)), len(await _letters(DeadLetterState.DEAD))) == (3, 3)


async def test_of_several_ids_one_that_is_decided_already_keeps_no_other_back(ensue: Callable[..., Ended]) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(3, DeadLetterState.DEAD)
    first, *others = (f"sales/0:{number}" for number in (1, 2, 3))
    assert (await asyncio.to_thread(ensue, "dead-letters", "retry", LEDGER, first, first)).code == 0
    ended = await asyncio.to_thread(ensue, "dead-letters", "retry", LEDGER, first, *others)
    assert ended.code == 1
    assert f"dead letter {first} is released: only one that is dead" in ended.err
    assert "2 of 3 are released" in ended.err
    assert len(await _letters(DeadLetterState.RELEASED)) == 3


async def test_what_somebody_else_decides_meanwhile_is_passed_over(
    ensue: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(3, DeadLetterState.DEAD)
    decide = Books.decide

    async def twice(books: Books, letter_id: str, state: DeadLetterState, *also: Any) -> Any:
        """The second letter is decided in another shell right before, the third one takes effect."""
        if letter_id != "sales/0:1":
            await decide(books, letter_id, state)
        if letter_id == "sales/0:3":
            async with books_of(ledger) as (store, others), store.transaction() as transaction:
                found = await others.letter(letter_id)
                assert found is not None
                await others.remove_letter(transaction, found)
        return await decide(books, letter_id, state, *also)

    monkeypatch.setattr(Books, "decide", twice)
    ended = await asyncio.to_thread(ensue, "dead-letters", "retry", LEDGER, "--all", "--yes")
    assert ended.code == 0
    assert "2 passed over: somebody else has decided them meanwhile; 1 released here" in ended.out


async def test_discarded_and_refused_letters_can_be_deleted_and_no_others(ensue: Callable[..., Ended]) -> None:
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(1300, DeadLetterState.DISCARDED, DeadLetterState.DEAD)
    await _set_aside(1, DeadLetterState.REFUSED)
    refused = await asyncio.to_thread(ensue, "dead-letters", "purge", LEDGER, "--older", "soon", "--yes")
    assert (refused.code, "such as 30d or 12h" in refused.err) == (1, True)
    none = await asyncio.to_thread(ensue, "dead-letters", "purge", LEDGER, "--older", "99999d", "--yes")
    assert none.out == "0 deleted\n"
    ended = await asyncio.to_thread(ensue, "dead-letters", "purge", LEDGER, "--older", "30d", "--yes")
    assert ended.out == "651 deleted\n"
    async with books_of(ledger) as (_, books):
        assert await books.letter_totals() == {DeadLetterState.DEAD: 650}


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("which", ["--all", "by id"])
def test_whoever_waits_for_a_command_that_is_discarded_is_told(which: str, ensue: Callable[..., Ended]) -> None:
    async def letters() -> list[Any]:
        async with books_of(clerk) as (_, books):
            return await books.letters(None, [DeadLetterState.DEAD])

    async def stands_still() -> bool:
        if len(await letters()) == 2:
            return True
        if not sent:
            async with clerk.running(work=False), clerk.step() as step:
                sent.append(step.ask(Stamp(customer="ann"), reply_to="till.replies", reply_key="saga-1"))
                step.send(Stamp(customer="bob"))
        return False

    async def answers() -> list[tuple[str, str, Reply]]:
        async with books_of(clerk) as (store, _):
            records = await store.outbox_after(2, 10)
        found = [(decode_envelope(each.envelope), each) for each in records]
        assert {(each.type, each.causation_id) for each, _ in found} == {(REPLY, sent[0])}
        return [(each.topic, each.key, read_reply(each.data)) for _, each in found]

    sent: list[str] = []
    asyncio.run(work_until(stands_still, clerk))
    ids = ["--all"] if which == "--all" else [each.id for each in asyncio.run(letters())]
    assert ensue("dead-letters", "discard", f"{SERVICES}:clerk", *ids, "--yes").code == 0
    assert asyncio.run(answers()) == [("till.replies", "saga-1", Reply(sent[0], failure="Discarded"))]


def _decided(ensue: Callable[..., Ended]) -> list[Any]:
    found: list[Any] = ensue("decisions", "list", LEDGER, "--json").json["decisions"]
    return found


@pytest.mark.usefixtures("poisoned")
def test_who_decided_on_a_letter_and_why_is_kept_with_what_it_was(ensue: Callable[..., Ended]) -> None:
    assert ensue("decisions", "list", LEDGER).out == "no decisions\n"
    [letter, _] = ensue("dead-letters", "list", LEDGER, "--json").json["letters"]
    ensue("dead-letters", "retry", LEDGER, letter["id"], "--by", "ann", "--reason", "rates\nare there")
    [first] = _decided(ensue)
    assert {name: first[name] for name in ("actor", "origin", "action", "target", "reason", "before", "after")} == {
        "actor": "ann",
        "origin": "cli",
        "action": "dead-letters retry",
        "target": letter["id"],
        "reason": r"rates\nare there",
        "before": {"state": "dead", "attempts": 1, "error_type": "ValueError"},
        "after": {"state": "released"},
    }
    assert abs(first["decided_at"] - time.time()) < 60
    assert ensue("dead-letters", "retry", LEDGER, letter["id"]).code == 1  # refused, so nothing was decided
    _work_until_dead_again()
    assert ensue("dead-letters", "discard", LEDGER, "--all", "--yes").code == 0
    assert ensue("dead-letters", "purge", LEDGER, "--older", "0d", "--yes").code == 0
    _, second, third = _decided(ensue)
    assert (second["action"], second["actor"], second["after"]) == (
        "dead-letters discard",
        user(),
        {"state": "discarded"},
    )
    assert (third["action"], third["before"]) == ("dead-letters purge", {"ids": [letter["id"]]})
    lines = ensue("decisions", "list", LEDGER, "--jsonl").out.splitlines()
    assert [json.loads(each)["id"] for each in lines] == [first["id"], second["id"], third["id"]]
    assert "more than 1: earlier ones with a higher --limit" in ensue("decisions", "list", LEDGER, "--limit", 1).out
    assert "nobody decides" in ensue("dead-letters", "retry", LEDGER, letter["id"], "--by", " ").err


def _work_until_dead_again() -> None:
    async def dead() -> bool:
        return len(await _letters(DeadLetterState.DEAD)) == 1

    asyncio.run(work_until(dead, ledger))


@pytest.mark.usefixtures("poisoned")
def test_what_cannot_be_written_down_is_not_done(ensue: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any, **__: Any) -> None:
        raise UsageError("no room for it")

    monkeypatch.setattr(Books, "record", fails)
    for command in (("retry", "--all", "--yes"), ("discard", "--all", "--yes")):
        assert "no room for it" in ensue("dead-letters", command[0], LEDGER, *command[1:]).err
    assert len(asyncio.run(_letters(DeadLetterState.DEAD))) == 1
    assert asyncio.run(_letters(DeadLetterState.RELEASED, DeadLetterState.DISCARDED)) == []


def _groups(ensue: Callable[..., Ended]) -> list[Any]:
    found: list[Any] = ensue("dead-letters", "groups", LEDGER, "--json").json["groups"]
    return found


@pytest.fixture
def many(home: Path, sell: Callable[..., None]) -> None:
    """Of 13 customers each the first message is dead, and the second of the first one waits behind it."""
    home.mkdir()
    flag("poison").touch()
    sell(*[(f"c{number:02}", -number - 1) for number in range(13)], ("c00", 7))

    async def stands_still() -> bool:
        return len(await _letters()) == 14

    asyncio.run(work_until(stands_still, till, ledger))


def _retry_beside(ensue: Callable[..., Ended], *arguments: object) -> Ended:
    """Run the command while a worker runs."""

    async def both() -> Ended:
        async with ledger.running() as runtime:
            await runtime.ready()
            return await asyncio.to_thread(ensue, "dead-letters", "retry", LEDGER, *arguments)

    return asyncio.run(both())


@pytest.mark.usefixtures("many")
def test_failures_are_shown_by_their_cause(ensue: Callable[..., Ended]) -> None:
    [group] = _groups(ensue)
    assert (group["handler"], group["error_type"], group["dead"], group["retrying"]) == ("enter", "ValueError", 13, 0)
    assert re.fullmatch(r"services\.py:\d+ in enter", group["place"])
    text = ensue("dead-letters", "groups", LEDGER).out
    assert group["name"] in text
    assert "ValueError: negative amount" in text


@pytest.mark.usefixtures("many")
def test_a_group_is_tried_again_in_waves_and_what_waits_behind_it_follows(ensue: Callable[..., Ended]) -> None:
    [group] = _groups(ensue)
    flag("poison").unlink()
    ended = _retry_beside(ensue, "--group", group["name"], "--reason", "amounts may be negative")
    assert ended.code == 0, ended
    last = {line.partition(":")[0]: line for line in ended.out.splitlines()}
    assert list(last) == ["wave 1 of 3", "wave 2 of 3", "wave 3 of 3"]
    assert last["wave 1 of 3"] in (
        "wave 1 of 3: 1 released, 1 behind them, 2 took effect, 12 not released",
        "wave 1 of 3: 1 released, 1 took effect, 12 not released",
    )  # by which of them is the first one set aside
    assert last["wave 3 of 3"] == "wave 3 of 3: 2 released, 2 took effect"
    assert len(entries()) == 14
    assert [amount for customer, amount in entries() if customer == "c00"] == [-1, 7]
    decided = ensue("decisions", "list", LEDGER, "--json").json["decisions"]
    assert len(decided) == 13
    assert {(each["reason"], each["after"]["group"]) for each in decided} == {
        ("amounts may be negative", group["name"])
    }
    assert "there is no group" in ensue("dead-letters", "retry", LEDGER, "--group", group["name"]).err


@pytest.mark.usefixtures("many")
def test_the_first_that_fails_again_stops_the_others(ensue: Callable[..., Ended]) -> None:
    [group] = _groups(ensue)
    ended = _retry_beside(ensue, "--group", group["name"])
    assert ended.code == 1
    assert f"group {group['name']} is tried no further" in ended.err
    assert "failed again (ensue dead-letters show tests.unit.cli.services:ledger sales/" in ended.err
    assert "12 were not released" in ended.err
    assert ended.out.splitlines()[-1].endswith("1 failed again, 12 not released")
    assert len(ensue("decisions", "list", LEDGER, "--json").json["decisions"]) == 1
    [group] = _groups(ensue)
    assert group["dead"] == 13


@pytest.mark.usefixtures("many")
def test_a_group_is_not_tried_where_nobody_would_see_whether_it_fails(ensue: Callable[..., Ended]) -> None:
    [group] = _groups(ensue)
    ended = ensue("dead-letters", "retry", LEDGER, "--group", group["name"])
    assert ended.code == 1
    assert "no worker of ledger lives, so nobody tries anything, and it could not be seen" in ended.err
    assert f"ensue run {LEDGER}" in ended.err
    assert len(asyncio.run(_letters(DeadLetterState.DEAD))) == 13
    for command in ("retry", "discard"):
        assert "say which" in ensue("dead-letters", command, LEDGER, "--all", "--group", group["name"]).err
        assert "there is no group what" in ensue("dead-letters", command, LEDGER, "--group", "what").err
    ended = ensue("dead-letters", "discard", LEDGER, "--group", group["name"], answer="y\n")
    assert "Give up 13 message(s) for good?" in ended.out
    assert _groups(ensue) == []


async def test_a_wave_to_which_nothing_happens_ends(ensue: Callable[..., Ended], home: Path) -> None:
    """A worker lives, and nobody has the partition, say."""
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(3, DeadLetterState.DEAD)
    now = 0.0

    class Clock:
        def now(self) -> float:
            return now

        def monotonic(self) -> float:
            return now

        async def sleep(self, seconds: float) -> None:
            nonlocal now
            now += seconds

    async with opened(ledger) as access:
        await access.books.heartbeat("somewhere else:1:a", 60.0)
        [group] = await groups(access)
        by = Deciding(actor="ann", origin=Face.API)
        seen = [each async for each in retry_group(access, group.name, by, clock=Clock(), patience_s=5.0)]
    assert [(each.end, each.pending, each.left) for each in seen] == [(None, 1, 2), (End.STILL, 1, 2)]
    assert now >= 5.0


@pytest.mark.usefixtures("poisoned")
def test_an_edited_letter_takes_effect_with_its_new_data_and_the_old_is_kept(
    ensue: Callable[..., Ended], tmp_path: Path
) -> None:
    [letter, _] = ensue("dead-letters", "list", LEDGER, "--json").json["letters"]
    [raw] = [bytes(each.data) for each in asyncio.run(_letters(DeadLetterState.DEAD))]
    file = tmp_path / "corrected.json"
    file.write_text('{"customer": "ann", "amount": 2}\n')
    ended = ensue("dead-letters", "edit", LEDGER, letter["id"], "--data", f"@{file}", "--reason", "sign was wrong")
    assert ended.code == 0, ended
    assert f"dead letter {letter['id']}, key ann: edited, released" in ended.out
    assert f"No worker of ledger lives: it takes effect when one runs (ensue run {LEDGER})" in ended.out
    _work_until_applied(4)
    assert [amount for customer, amount in entries() if customer == "ann"] == [1, 2, 3]
    [decision] = _decided(ensue)
    assert (decision["action"], decision["target"], decision["reason"]) == (
        "dead-letters edit",
        letter["id"],
        "sign was wrong",
    )
    assert decision["before"]["data"].encode() == raw
    assert decision["before"]["envelope"]["type"] == "sales.Sold.v1"
    assert decision["after"] == {"state": "released", "data": '{"customer": "ann", "amount": 2}'}


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        ('{"customer": "ann", "amount": "2"}', "Expected `int`, got `str` - at `$.amount`"),
        ('{"amount": 2}', "missing required field `customer`"),
        ("{", "Input data was truncated"),
        ('{"customer": "bob", "amount": 2}', "has the key ann, and the new data customer=bob"),
        ('{"customer":"ann","amount":-2}', "has this data already"),
        ("@nowhere.json", "nowhere.json cannot be read: No such file"),
        ('{"customer": "ann", "amount": 2, "curency": "EUR"}', "has no field curency"),
        pytest.param('{"customer": "ann", "x": "' + 900_000 * "x" + '"}', "expected at most 900000", id="too large"),
    ],
)
def test_what_no_handler_could_read_or_what_has_another_key_is_refused(
    data: str, said: str, ensue: Callable[..., Ended]
) -> None:
    [dead, waiting] = asyncio.run(_letters())
    ended = ensue("dead-letters", "edit", LEDGER, dead.id, "--data", data)
    assert (ended.code, said in ended.err) == (1, True), ended.err[:1000]
    assert asyncio.run(_letters()) == [dead, waiting]
    assert _decided(ensue) == []


@pytest.mark.usefixtures("poisoned")
def test_a_letter_that_waits_is_not_edited_before_its_first(ensue: Callable[..., Ended]) -> None:
    [_, waiting] = asyncio.run(_letters())
    ended = ensue("dead-letters", "edit", LEDGER, waiting.id, "--data", '{"customer": "ann", "amount": 5}')
    assert "is waiting: only one that is dead or retrying can be decided" in ended.err


async def test_of_a_large_wave_what_fails_at_once_keeps_the_others_back(
    ensue: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    """400 letters: the first three waves take effect, and of the last one the very first letter fails."""
    await asyncio.to_thread(ensue, "db", "init", LEDGER)
    await _set_aside(400, DeadLetterState.DEAD)
    decide = Books.decide
    released = 0

    async def and_at_once(books: Books, letter_id: str, state: DeadLetterState, *also: Any) -> Any:
        """A worker that is quick: what was released took effect, or failed, before the next one is."""
        nonlocal released
        released += 1
        letter = await decide(books, letter_id, state, *also)
        async with books_of(ledger) as (store, others), store.transaction() as transaction:
            if released <= 111:
                await others.remove_letter(transaction, letter)
            else:
                letter.state = DeadLetterState.RETRYING
                await others.change_letter(transaction, letter)
        return letter

    monkeypatch.setattr(Books, "decide", and_at_once)
    async with opened(ledger) as access:
        await access.books.heartbeat("somewhere else:1:a", 60.0)
        [group] = await groups(access)
        by = Deciding(actor="ann", origin=Face.API)
        seen = [each async for each in retry_group(access, group.name, by)]
    assert [each.wave for each in seen if each.end is End.THROUGH] == [1, 2, 3]
    last = seen[-1]
    assert (last.wave, last.end, last.released, len(last.failed), last.left) == (4, End.FAILED, 100, 100, 189)
