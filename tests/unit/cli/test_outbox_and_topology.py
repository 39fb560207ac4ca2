from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from tests.unit.cli.harness import LEDGER, SERVICES, TILL, Ended, books_of
from tests.unit.cli.services import Sold, Stamp, clerk, ledger, shy, till

from ensue import Command, Event, Saga, Service
from ensue.cli.topology import as_mermaid
from ensue.message import HeldPartition
from ensue.operations.topology import find_flows, find_sagas, find_warnings, no_publisher

Run = Callable[..., Ended]


def test_an_event_that_the_broker_refuses_is_withdrawn_with_its_row(ensue: Run, sell: Callable[..., None]) -> None:
    sell(("ann", 1), ("ann", 2))
    second = ensue("outbox", "list", TILL, "--json").json["records"][1]
    message = second["headers"]["id"]
    none = ensue("outbox", "withdraw", TILL, message, "--yes")
    assert none.code == 1
    assert "is not what holds a partition: only the one that the broker refuses can be withdrawn, now none" in none.err
    held = HeldPartition("sales", second["partition"], 2, "sales.Sold.v1", message, "2 MB are too much", refused=True)

    async def tell() -> None:
        async with books_of(till) as (_, books):
            await books.tell_held([held])

    asyncio.run(tell())
    shown = ensue("outbox", "list", TILL, "--json").json["records"]
    assert [(each["refused"], each["withdrawn"]) for each in shown] == [(False, False), (True, False)]
    said = ensue("outbox", "withdraw", TILL, message, "--yes", "--by", "ann", "--reason", "too large").out
    assert f"sales.Sold.v1 with id {message} is withdrawn" in said
    lines = [each.split() for each in ensue("outbox", "list", TILL).out.splitlines() if "ann" in each]
    assert ["withdrawn" in each for each in lines] == [False, True]
    [decision] = ensue("decisions", "list", TILL, "--json").json["decisions"]
    assert (decision["actor"], decision["action"], decision["target"]) == ("ann", "outbox withdraw", message)
    assert "is withdrawn already" in ensue("outbox", "withdraw", TILL, message, "--yes").err


def save_sent(position: int) -> None:
    """What the relay does after it has sent that far."""

    async def save() -> None:
        async with books_of(till) as (store, books):
            await books.save_relay_position(store.source, position)

    asyncio.run(save())


def test_the_outbox_is_listed_in_order_with_what_is_sent(ensue: Run, sell: Callable[..., None]) -> None:
    sell(("ann", 1), ("bob", 2), ("ann", 3))
    save_sent(2)
    listed = ensue("outbox", "list", TILL, "--json").json
    assert (listed["sent"], listed["head"]) == (2, 3)
    assert [(each["position"], each["data"]["customer"], each["sent"]) for each in listed["records"]] == [
        (1, "ann", True),
        (2, "bob", True),
        (3, "ann", False),
    ]
    assert listed["records"][2]["previous"] == 1
    assert listed["records"][0]["headers"]["type"] == "sales.Sold.v1"


def test_the_outbox_can_be_paged_and_narrowed(ensue: Run, sell: Callable[..., None]) -> None:
    sell(("ann", 1), ("bob", 2), ("ann", 3))

    def positions(*options: object) -> list[int]:
        return [each["position"] for each in ensue("outbox", "list", TILL, "--json", *options).json["records"]]

    assert positions("--limit", 2) == [1, 2]
    assert positions("--after", 2) == [3]
    assert positions("--unsent") == [1, 2, 3]
    save_sent(2)
    assert positions("--unsent") == [3]
    assert "more: --after 1" in ensue("outbox", "list", TILL, "--limit", 1).out
    save_sent(3)
    assert ensue("outbox", "list", TILL, "--unsent").out == "nothing unsent\n"


def test_what_the_broker_does_not_take_is_told(ensue: Run, sell: Callable[..., None]) -> None:
    sell(("ann", 1), ("ann", 2), ("ann", 3))
    save_sent(1)
    [second] = [each for each in ensue("outbox", "list", TILL, "--json").json["records"] if each["position"] == 2]
    held = HeldPartition("sales", second["partition"], 2, "sales.Sold.v1", second["headers"]["id"], "2 MB are too much")

    async def tell(*told: HeldPartition) -> None:
        async with books_of(till) as (_, books):
            await books.tell_held(told)
            assert await books.held() == [*told]

    asyncio.run(tell(held))
    listed = ensue("outbox", "list", TILL, "--json").json["records"]
    assert [(each["position"], each["sent"], each["held"]) for each in listed] == [
        (1, True, False),
        (2, False, True),
        (3, False, True),
    ]
    lines = ensue("outbox", "list", TILL).out.splitlines()
    assert ["held" in line.split() for line in lines if "ann" in line] == [False, True, True]
    [status] = ensue("status", TILL, "--json").json["services"]
    assert status["outbox"]["held"] == [msgspec.to_builtins(held)]
    assert f"  held     {held}" in ensue("status", TILL).out
    asyncio.run(tell())
    assert ensue("status", TILL, "--json").json["services"][0]["outbox"]["held"] == []


class Dropped(Event, topic="sales", key="customer"):
    customer: str


def test_the_topology_says_who_publishes_and_who_handles(ensue: Run) -> None:
    ended = ensue("topology", TILL, LEDGER)
    assert ended.code == 0
    [row] = [line for line in ended.out.splitlines() if "sales.Sold.v1" in line]
    assert "till" in row
    assert "ledger (enter)" in row
    assert "nobody here subscribes to entries.Entered.v1, published by ledger" in ended.err
    assert "ledger does not declare" not in ended.err


def test_the_topology_needs_no_database(ensue: Run) -> None:
    assert ensue("topology", TILL, "--mermaid").code == 0
    assert ensue("status", TILL).code == 1


def test_mermaid_shows_events_on_arrows_and_loose_ends_dotted() -> None:
    assert as_mermaid([till, ledger], find_flows([till, ledger])).splitlines() == [
        "flowchart LR",
        "  service_till[till]",
        "  service_ledger[ledger]",
        '  service_ledger -.->|"Entered.v1"| nobody_reads((nobody))',
        '  service_till -->|"Sold.v1"| service_ledger',
    ]
    lone = as_mermaid([ledger], find_flows([ledger]))
    assert '  nobody_publishes((nobody)) -.->|"Sold.v1"| service_ledger' in lone


def test_an_event_that_nobody_publishes_is_warned_of_unless_somebody_does_not_declare() -> None:
    hopeful = Service("hopeful", publishes=[])

    @hopeful.on
    async def wait_for_ever(event: Dropped) -> None: ...

    assert find_warnings([hopeful], find_flows([hopeful])) == [
        "nobody here publishes sales.Dropped.v1, handled by hopeful"
    ]
    assert find_warnings([hopeful, shy], find_flows([hopeful, shy])) == [
        "shy does not declare what it publishes (publishes=[...]): it may publish anything"
    ]
    assert no_publisher([hopeful]) == "nobody"
    assert no_publisher([hopeful, shy]) == "not declared"
    drawn = as_mermaid([hopeful, shy], find_flows([hopeful, shy]))
    assert '  nobody_publishes((not declared)) -.->|"Dropped.v1"| service_hopeful' in drawn


class Sealed(Event, topic="seals", key="customer"):
    customer: str


class Seal(Command[Sealed], service="clerk", key="customer"):
    customer: str


def test_the_topology_says_who_handles_a_command_and_who_sends_and_calls_it(ensue: Run) -> None:
    ended = ensue("topology", f"{SERVICES}:counter", f"{SERVICES}:hall", f"{SERVICES}:clerk")
    assert ended.code == 0
    [row] = [line.split("│") for line in ended.out.splitlines() if "Stamp" in line]
    assert [each.strip() for each in row[1:-1]] == [
        "clerk.commands.Stamp.v1", "none", "hall", "counter", "clerk (stamp)"
    ]  # fmt: skip
    assert "event" not in ended.out
    assert "nobody" not in ended.err


def test_a_command_is_a_thick_arrow_from_whoever_asks_to_whoever_handles_it() -> None:
    caller = Service("caller", publishes=[Stamp], calls=[Stamp, Seal])
    flows = find_flows([caller, clerk])
    assert flows == [
        ("clerk.commands.Seal.v1", "clerk.commands", (), {}, ("caller",), "Sealed"),
        ("clerk.commands.Stamp.v1", "clerk.commands", ("caller",), {"clerk": ("stamp",)}, ("caller",), "none"),
    ]
    declared = Service("clerk", publishes=[])
    assert find_warnings([caller, declared], flows) == [
        "nobody here handles clerk.commands.Seal.v1, sent or called by caller"
    ]
    alone = [each._replace(publishers=(), callers=()) for each in flows[1:]]
    assert find_warnings([declared], alone) == ["nobody here sends or calls clerk.commands.Stamp.v1, handled by clerk"]
    assert as_mermaid([caller, clerk], flows).splitlines()[3:] == [
        '  service_caller -.->|"Seal.v1"| nobody_reads((nobody))',
        '  service_caller ==>|"Stamp.v1"| service_clerk',
    ]


def test_the_topology_shows_sagas_with_what_starts_them_and_what_they_call(ensue: Run) -> None:
    caller = Service("caller", calls=[Stamp, Seal])

    @caller.saga(version=1, name="seal_all")
    async def first(saga: Saga, new: Sold) -> None:
        await saga.call(Stamp(customer="ann"), undo=None)

    @caller.saga(version=2, name="seal_all")
    async def second(saga: Saga, new: Sold) -> None:
        await saga.gather(saga.call(Seal(customer="ann"), undo=None), saga.call(Stamp(customer="ann"), undo=None))

    sealer = Service("clerk")

    @sealer.saga(handles=Seal)
    async def seal(saga: Saga, command: Seal) -> Sealed:
        return Sealed(customer=command.customer)

    assert find_sagas([caller, sealer]) == [
        ("caller", "seal_all", (1, 2), "", ("clerk.commands.Seal.v1", "clerk.commands.Stamp.v1")),
        ("clerk", "seal", (1,), "clerk.commands.Seal.v1", ()),
    ]
    assert '  service_caller["caller<br/>saga seal_all"]' in as_mermaid([caller], find_flows([caller])).splitlines()
    shown = ensue("topology", f"{SERVICES}:traveller").out
    [row] = [line.split("│") for line in shown.splitlines() if "travel)" in line]
    assert [each.strip() for each in row[1:-1]] == ["traveller (travel)", "1", "a step", "none"]
    assert "published by" not in shown


def test_services_whose_names_differ_in_a_sign_are_two_boxes() -> None:
    dash, line = Service("a-b", publishes=[Sold]), Service("a_b")

    @line.on
    async def note(event: Sold) -> None: ...

    assert as_mermaid([dash, line], find_flows([dash, line])).splitlines()[1:] == [
        "  service_a_b[a-b]",
        "  service_a_b_[a_b]",
        '  service_a_b -->|"Sold.v1"| service_a_b_',
    ]


@pytest.mark.parametrize("name", ["shy", "till"])
def test_one_service_alone_has_a_topology(ensue: Run, name: str) -> None:
    assert ensue("topology", f"{SERVICES}:{name}").code == 0
