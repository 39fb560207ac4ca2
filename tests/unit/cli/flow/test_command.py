"""`ensue flow` on small services: what waits, what is bounded, what strangers wrote, what cannot be asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from tests.unit.cli.harness import LEDGER, SERVICES, TILL, Ended, applied, books_of, entries, work_until
from tests.unit.cli.services import Sold, ledger, night, shy, till

from ensue.adapters import make_broker
from ensue.message import DeadLetterState, HeldPartition, OutboxRecord
from ensue.operations.flow.gather import gather

Command = Callable[..., Ended]
LATER = datetime(2300, 1, 1, tzinfo=UTC)


def sell(flow_of: str = "ann", amounts: tuple[int, ...] = (1,), at: datetime | None = None) -> str:
    """Publish in one step; return the flow's id."""

    async def publish() -> str:
        async with till.running(work=False), till.step() as step:
            for amount in amounts:
                step.publish(Sold(customer=flow_of, amount=amount), at=at)
            return step.correlation_id

    return asyncio.run(publish())


def work(count: int) -> None:
    async def done() -> bool:
        return await applied() == count

    asyncio.run(work_until(done, till, ledger))


def sell_poison(home: Path, *customers: str) -> list[str]:
    """Make a dead letter of the ledger for each; return their flows."""
    flows = [sell(each, amounts=(-1,)) for each in customers]
    (home / "poison").write_text("")

    async def dead() -> bool:
        async with books_of(ledger) as (_, books):
            return len(await books.letters(states=[DeadLetterState.DEAD])) == len(customers)

    asyncio.run(work_until(dead, till, ledger))
    return flows


def write(envelope: bytes) -> None:
    """As another application does, into the log of the ledger."""

    async def append() -> None:
        broker = make_broker(ledger.settings().broker)
        await broker.open()
        try:
            record = OutboxRecord("sales", 0, "eve", envelope, b'{"customer":"eve"}')
            await broker.append("sales", 0, "https://web.shop", [record])
        finally:
            await broker.close()

    asyncio.run(append())


def test_an_id_that_nobody_knows_is_told_with_what_was_looked_at(ensue: Command) -> None:
    sell()
    work(1)
    ended = ensue("flow", "nobody", TILL, LEDGER)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(
        "ensue: no event of flow nobody is known: looked at outbox, timers and dead letters of till; outbox, timers "
        "and dead letters of ledger; topic entries; topic sales\n"
    )
    assert "`X-Correlation-Id` of the answer" in ended.err


def test_the_id_of_a_message_leads_to_its_flow(ensue: Command) -> None:
    flow = sell()
    [event] = ensue("flow", flow, TILL, "--json").json["events"]
    ended = ensue("flow", event["id"], TILL)
    assert ended.code == 1
    assert f"{event['id']} is the id of a message; its flow is {flow}" in ended.err


def test_what_one_step_published_is_one_flow_in_order(ensue: Command) -> None:
    flow = sell(amounts=tuple(range(20)))
    unsent = ensue("flow", flow, TILL, "--json").json["events"]
    assert [each["position"] for each in unsent] == list(range(1, 21))  # not in that of the ids, -a before -2
    flow = sell(amounts=(1, 2, 3))
    sell("bob")
    work(24)
    found = ensue("flow", flow, TILL, LEDGER, "--json").json["events"]
    assert [each["type"] for each in found] == ["sales.Sold.v1"] * 3 + ["entries.Entered.v1"] * 3
    assert sorted(each["because_of"] or 0 for each in found) == [0, 0, 0, 1, 2, 3]
    diagram = ensue("flow", flow, TILL, LEDGER, "--mermaid").out
    assert diagram.count("outside->>") == 1
    assert diagram.count("nobody here handles it") == 3


def test_a_timer_is_shown_with_when_it_is_due(ensue: Command) -> None:
    flow = sell(at=LATER)
    [event] = ensue("flow", flow, TILL, LEDGER, "--json").json["events"]
    assert (event["place"], event["due_at"]) == ("timer", LATER.timestamp())
    assert "waits in the database of till until 2300-01-01 00:00:00 UTC" in ensue("flow", flow, TILL).out


def test_a_run_of_a_recurring_step_is_a_flow_of_its_own(ensue: Command) -> None:
    async def begin() -> None:
        async with night.running():
            pass

    asyncio.run(begin())
    target = f"{SERVICES}:night"
    [run] = ensue("timers", "list", target, "--json").json["timers"]
    [event] = ensue("flow", run["id"], target, "--json").json["events"]
    assert (event["type"], event["place"]) == ("ensue.every.night.clean_up.v1", "timer")
    assert event["reactions"][0]["handlers"] == ["clean_up"]


def test_what_the_broker_does_not_take_is_shown_with_its_reason(ensue: Command) -> None:
    flow = sell()
    [event] = ensue("flow", flow, TILL, "--json").json["events"]

    async def tell() -> None:
        async with books_of(till) as (_, books):
            held = HeldPartition("sales", event["partition"], 1, event["type"], event["id"], "2 MB are too much")
            await books.tell_held([held])

    asyncio.run(tell())
    [event] = ensue("flow", flow, TILL, "--json").json["events"]
    assert (event["place"], event["reason"]) == ("held", "position 1: 2 MB are too much")
    assert "in the outbox of till, held there by position 1: 2 MB are too much" in ensue("flow", flow, TILL).out


def test_how_far_back_is_looked_is_bounded_and_told(ensue: Command) -> None:
    flow = sell(amounts=(1,))
    sell(amounts=(2, 3, 4))  # of the same key, and so in the same partition
    work(4)
    found = ensue("flow", flow, TILL, LEDGER, "--records", 3)
    assert found.code == 1
    assert "not looked at: topic sales: 1 older records in 2 partitions (--records looks further back)" in found.err
    assert "not looked at: outbox of till, positions 1 to 1 (--records" in found.err
    found = ensue("flow", flow, TILL, LEDGER, "--records", 4)
    assert (found.code, found.err) == (0, "")
    last = sell("ann")
    work(5)
    found = ensue("flow", last, TILL, LEDGER, "--records", 1)
    assert found.code == 0
    assert "not looked at: topic sales: 4 older records in 2 partitions (--records 1)" in found.err
    assert any("positions 1 to 4" in each for each in ensue("flow", last, TILL, "--records", 1, "--json").json[
        "not_looked_at"
    ])  # fmt: skip


def test_what_is_not_sent_and_was_not_looked_at_is_told(ensue: Command) -> None:
    sell(amounts=(1, 2, 3))
    last = sell()
    said = ensue("flow", last, TILL, "--records", 1).err
    assert "not looked at: outbox of till, positions 1 to 3; those after 0 are not sent (--records 1)" in said


def test_timers_are_bounded_too(ensue: Command) -> None:
    flow = sell(amounts=tuple(range(201)), at=LATER)
    found = ensue("flow", flow, TILL, "--records", 200)
    assert found.out.startswith(f"flow {flow}: 200 events")
    assert "not looked at: 1 of 201 timers of till, the last that are due (--records 200)" in found.err
    assert ensue("flow", flow, TILL, "--records", 201).out.startswith(f"flow {flow}: 201 events")


def test_discarded_letters_are_bounded_too(home: Path, ensue: Command) -> None:
    flows = sell_poison(home, "ann", "bob")
    for each in ensue("dead-letters", "list", LEDGER, "--json").json["letters"]:
        assert ensue("dead-letters", "discard", LEDGER, each["id"], "--yes").code == 0
    found = [ensue("flow", each, LEDGER, "--records", 1) for each in flows]
    assert all(
        "not looked at: 1 discarded letters of ledger, the last ones (--records 1)" in each.err for each in found
    )
    assert sum("discarded after 1 try" in each.out for each in found) == 1
    assert all("discarded after 1 try" in ensue("flow", each, LEDGER).out for each in flows)


def test_no_field_of_an_event_is_printed(ensue: Command) -> None:
    flow = sell(amounts=(271828,))
    work(1)
    for options in ([], ["--json"], ["--mermaid"]):
        assert "271828" not in ensue("flow", flow, TILL, LEDGER, *options).out
    assert entries() == [("ann", 271828)]
    found = asyncio.run(gather([till, ledger], flow, 10))
    assert {each.message.data for each in found.sightings} == {b""}


def test_nothing_that_a_key_holds_steers_the_terminal_or_the_diagram(ensue: Command) -> None:
    flow = sell("x\x1b[2J\nforged\u202e; p->>q: #<b>%%{init}%%")
    for options in ([], ["--json"], ["--mermaid"]):
        out = ensue("flow", flow, TILL, *options).out
        assert all(each.isprintable() for each in out.splitlines())
        assert not any(line.startswith("forged") for line in out.splitlines())
    assert "p-#62;#62;q#58;" in ensue("flow", flow, TILL, "--mermaid").out


def test_a_database_that_is_not_there_leaves_the_rest_and_status_1(ensue: Command) -> None:
    flow = sell()
    ended = ensue("flow", flow, TILL, LEDGER, "--json")
    assert ended.code == 1
    [event] = ended.json["events"]
    assert event["place"] == "unsent"
    assert "service ledger has no database at" in ended.err
    assert list(ended.json["unanswered"]) == ["ledger"]


def test_the_topics_of_a_service_are_read_although_its_database_is_not_there(
    home: Path, ensue: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = sell()
    work(1)
    monkeypatch.setenv("ENSUE_LEDGER_DATABASE", f"sqlite:///{home}/elsewhere.db")
    found = ensue("flow", flow, TILL, LEDGER, "--json").json
    assert [each["type"] for each in found["events"]] == ["sales.Sold.v1", "entries.Entered.v1"]
    assert list(found["unanswered"]) == ["ledger"]


def test_what_a_service_published_without_declaring_it_is_found_when_its_outbox_has_it_no_more(ensue: Command) -> None:
    async def publish() -> str:
        async with shy.running(work=False), shy.step() as step:
            step.publish(Sold(customer="ann"))
            return step.correlation_id

    async def handled() -> bool:
        return await applied() == 1

    async def prune() -> int:
        async with books_of(shy) as (store, _):
            return await store.outbox_prune(LATER.timestamp(), 1, 10)

    flow = asyncio.run(publish())
    asyncio.run(work_until(handled, shy, ledger))
    assert asyncio.run(prune()) == 1
    [event] = ensue("flow", flow, f"{SERVICES}:shy", "--json").json["events"]
    assert (event["place"], event["sender"]) == ("log", "shy")


def test_a_log_that_is_not_there_leaves_what_the_databases_have(
    home: Path, ensue: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = sell()
    work(1)
    monkeypatch.setenv("ENSUE_BROKER", f"sqlite:///{home}/elsewhere.db")
    ended = ensue("flow", flow, TILL, LEDGER, "--json")
    assert ended.code == 1
    assert [(each["place"], each["reactions"][0]["state"]) for each in ended.json["events"][:1]] == [("sent", "done")]
    assert "could not be looked at: log sqlite:///" in ended.err
    assert "there is no broker at" in ended.err


def test_a_service_that_is_not_named_is_said_to_be_left_out(ensue: Command) -> None:
    flow = sell()
    work(1)
    ended = ensue("flow", flow, LEDGER)
    assert ended.code == 0
    assert "not looked at: outbox, timers and dead letters of till, which was not named" in ended.err


def test_a_message_of_another_application_is_part_of_its_flow(ensue: Command) -> None:
    sell()
    work(1)

    write(b'{"id":"web-1","type":"sales.Sold.v1","time":"2026-11-27T09:00:00Z"}')
    waiting = ensue("flow", "web-1", LEDGER)
    assert "https://web.shop publishes sales.Sold.v1, key eve, from outside" in waiting.out
    assert "-> ledger (enter): not yet: ledger has read sales/0 to offset" in waiting.out
    assert waiting.err == ""
    work(2)
    assert "-> ledger (enter): done, published 2" in ensue("flow", "web-1", LEDGER).out


def test_what_is_no_message_is_nobodys_flow(ensue: Command) -> None:
    flow = sell()
    work(1)
    write(b"no envelope")

    async def dead() -> bool:
        async with books_of(ledger) as (_, books):
            return len(await books.letters()) == 1

    asyncio.run(work_until(dead, ledger))
    ended = ensue("flow", flow, TILL, LEDGER)
    assert (ended.code, ended.err) == (0, "")


def test_a_letter_whose_headers_cannot_be_read_is_told(home: Path, ensue: Command) -> None:
    [flow] = sell_poison(home, "ann")

    async def spoil() -> None:
        async with books_of(ledger) as (store, books), store.transaction() as transaction:
            [letter] = await books.letters(states=[DeadLetterState.DEAD])
            letter.envelope = b"{"
            await books.change_letter(transaction, letter)

    asyncio.run(spoil())
    ended = ensue("flow", flow, TILL, LEDGER)
    assert ended.code == 1
    assert "could not be looked at: dead letter sales/" in ended.err
    assert "the headers are no envelope" in ended.err


@pytest.mark.parametrize("options", [("--json", "--mermaid"), ("--records", "0")])
def test_options_that_make_no_sense_are_refused(ensue: Command, options: tuple[str, ...]) -> None:
    assert ensue("flow", "a", TILL, *options).code in (1, 2)
