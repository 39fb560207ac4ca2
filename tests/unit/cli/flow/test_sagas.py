"""What a flow shows of its sagas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
from tests.unit.cli.flow.facts import message, seen
from tests.unit.cli.harness import SERVICES, Ended, books_of, work_until
from tests.unit.cli.services import Entered, Sold, flag, travel, traveller

from ensue.cli.flow.text import as_text
from ensue.operations.flow.mermaid import as_mermaid
from ensue.operations.flow.sagas import saga_keys, saga_seen
from ensue.operations.flow.sequence import Cause, sequence_of
from ensue.saga.instance import Instance, Status
from ensue.saga.journal import NULL, Issued, Refusal, Resolved
from ensue.saga.outside import Outside
from ensue.saga.undo import Undo

BEGAN = 1_795_770_000.0  # as the events of `facts`
UNDOING = Instance(
    key="place_order:o-1", version=2, status=Status.UNDOING, correlation_id="flow", started_at=BEGAN,
    updated_at=BEGAN + 3, request=b"{}", waits_for="undo reject_order",
    ending=Refusal("CreditLimitExceeded", {"available": msgspec.Raw(b"10")}),
    journal=[
        Issued(1, "local", "create_order", "o-1"), Resolved(1, BEGAN + 1),
        Issued(2, "call", "customers.commands.ReserveCredit.v1", "ann"), Issued(3, "outside", "ask_bank"),
        Issued(4, "pivot"), Resolved(2, BEGAN + 2, NULL, "CreditLimitExceeded", {"available": msgspec.Raw(b"10")}),
    ],
    outside={3: Outside("ask_bank", NULL, "place_order:o-1:3", 10.0, 5, 5, attempt=2, state="begun")},
    undos=[Undo(1, "local", "reject_order", msgspec.Raw(b'{"order_id":"o-1"}'), attempts=1, state="begun")],
)  # fmt: skip
SAGAS = [saga_seen("orders", UNDOING)]
EVENTS = sequence_of([seen("a")], [])


def test_the_text_has_what_a_saga_asked_for_what_came_of_it_and_what_is_to_be_undone() -> None:
    assert as_text("flow", EVENTS, SAGAS)[-6:] == [
        "saga place_order:o-1 of orders, version 2: UNDOING for CreditLimitExceeded, waits for undo reject_order",
        "     1 local create_order for o-1: done, +1.000 s",
        "     2 call customers.commands.ReserveCredit.v1 for ann: CreditLimitExceeded, +2.000 s",
        "     3 outside ask_bank: not yet, attempt 2",
        "     4 pivot",
        "     undo 1 reject_order: begun, 1 failed",
    ]


def test_the_diagram_says_where_a_saga_stands_and_takes_nothing_of_it_for_its_own() -> None:
    hostile = msgspec.structs.replace(UNDOING, status=Status.PARKED, reason="a;b\nTraceback", waits_for="", ending=None)
    lines = as_mermaid(EVENTS, [saga_seen("orders", hostile)])
    assert lines[-1] == ("  Note over service1: saga place_order#58;o-1 of orders, version 2#58; PARKED#58; a#59;b")


def test_no_field_of_an_event_is_shown() -> None:
    assert "10" not in "".join(as_text("flow", EVENTS, SAGAS)[-6:])
    assert "data" not in msgspec.json.encode(SAGAS).decode()


def test_sagas_are_looked_for_by_what_was_written_to_them() -> None:
    own = message("a", kind="orders.replies", key="place_order:o-1")
    own = msgspec.structs.replace(own, topic="orders.replies")
    others = [message("b", key="place_order:o-2"), msgspec.structs.replace(own, topic="x.replies", key="go:3")]
    calls = msgspec.structs.replace(own, key="0f3e")  # of a call, which is no saga
    assert saga_keys("orders", [own, own, *others, calls]) == ["place_order:o-1"]


def test_a_parked_saga_is_seen_in_its_flow(ensue: Callable[..., Ended], home: object) -> None:
    async def start() -> str:
        async with traveller.running(work=False), traveller.step() as step:
            step.start(travel, Sold(customer="ann", amount=0), id="ann")
            step.tell(travel, "ann", Entered(customer="ann", amount=1))
            return step.correlation_id

    async def parked() -> bool:
        async with books_of(traveller) as (_, books):
            found = await books.saga("travel:ann")
        return found is not None and found.status is Status.PARKED

    flow = asyncio.run(start())
    flag("no-way").touch()
    asyncio.run(work_until(parked, traveller))
    shown = ensue("flow", flow, f"{SERVICES}:traveller").out
    assert "saga travel:ann of traveller, version 1: PARKED, waits for a person" in shown
    assert "RuntimeError: no way" in shown
    assert "1 receive entries.Entered.v1: done, +" in shown
    [saga] = ensue("flow", flow, f"{SERVICES}:traveller", "--json").json["sagas"]
    assert saga["saga"] == "travel:ann"
    assert [each["asked"] for each in saga["operations"]] == ["receive entries.Entered.v1"]


def test_what_a_local_step_publishes_has_its_saga_for_its_cause() -> None:
    published = [seen("a"), seen("b", cause="place_order:o-1#6")]
    [_, event] = sequence_of(published, [], {"place_order:o-1"})
    assert (event.cause, event.because_of) == (Cause.SAGA, None)
    assert "by 6 of saga place_order:o-1" in "".join(as_text("flow", [event]))
    [_, event] = sequence_of(published, [])  # of a saga that nobody here knows
    assert event.cause is Cause.MISSING
