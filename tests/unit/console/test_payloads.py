"""How much of users' data is shown."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ensue.console.access import Actor, Role
from ensue.console.payloads import (
    Payloads,
    mode_for,
    modes_of,
    shown,
    shown_bytes,
    shown_change,
    shown_error,
    shown_headers,
    usual_mode,
)
from ensue.errors import UsageError

DATA = {"card": "4111", "total": 3.5, "paid": True, "none": None, "lines": [{"sku": "x" * 200}] * 30}


def leaves(data: Any) -> list[Any]:
    if isinstance(data, dict):
        return [leaf for value in data.values() for leaf in leaves(value)]
    if isinstance(data, list):
        return [leaf for each in data for leaf in leaves(each)]
    return [data]


def test_masked_has_the_names_and_no_value() -> None:
    found = shown(DATA, Payloads.MASKED)
    assert found.keys() == DATA.keys()
    assert set(leaves(found)) == {"***"}
    assert shown("4111", Payloads.MASKED) == shown(4111, Payloads.MASKED) == "***"


def test_none_has_nothing_and_full_has_everything() -> None:
    assert shown(DATA, Payloads.NONE) is None
    assert shown(DATA, Payloads.FULL) == DATA
    assert [shown_bytes(b"\xff", mode) for mode in Payloads] == [None, None, None, "/w=="]


def test_limited_cuts_what_is_long_and_says_how_much_there_was() -> None:
    found = shown(DATA, Payloads.LIMITED)
    assert (found["card"], found["total"], found["paid"], found["none"]) == ("4111", 3.5, True, None)
    assert len(found["lines"]) == 21
    assert found["lines"][-1] == "... 10 more"
    assert found["lines"][0]["sku"] == "x" * 100 + "... (200 characters)"
    many = shown({str(number): number for number in range(50)}, Payloads.LIMITED)
    assert many["..."] == "30 more"
    assert len(msgspec.json.encode(shown("y" * 1_000_000, Payloads.LIMITED))) < 200


@pytest.mark.parametrize("mode", [Payloads.MASKED, Payloads.LIMITED])
def test_what_is_nested_without_end_is_not_gone_into(mode: Payloads) -> None:
    data: Any = "secret"
    for _ in range(10_000):
        data = [data]
    assert "secret" not in repr(shown(data, mode))


def test_headers_of_the_standard_are_shown_and_the_users_own_go_by_the_mode() -> None:
    headers = {"id": "1", "type": "t", "correlationid": "c", "ensuereplyto": "r", "tenant": "acme"}
    assert shown_headers(headers, Payloads.MASKED) == {**headers, "tenant": "***"}
    assert "tenant" not in shown_headers(headers, Payloads.NONE)
    assert shown_headers(headers, Payloads.FULL) == headers


def test_a_decision_shows_what_was_decided_and_hides_the_data_that_it_kept() -> None:
    before = {"state": "dead", "data": '{"card": "4111"}', "envelope": {"id": "1", "extensions": {"tenant": "acme"}}}
    found = shown_change("dead-letters edit", before, Payloads.MASKED)
    assert found == {"state": "dead", "data": "***", "envelope": {"id": "1", "extensions": {"tenant": "***"}}}
    assert "4111" not in repr(shown_change("dead-letters edit", before, Payloads.NONE))
    stranger = {"envelope": {"id": "1", "tenant": "acme"}}
    assert shown_change("dead-letters edit", stranger, Payloads.MASKED) == {"envelope": {"id": "1", "tenant": "***"}}
    skipped = {"number": 2, "result": {"iban": "DE"}, "failure": {"name": "Refused", "data": {"iban": "DE"}}}
    assert "DE" not in repr(shown_change("sagas skip", skipped, Payloads.MASKED))
    assert shown_change("gaps accept", {"data": 1}, Payloads.MASKED) == {"data": 1}
    assert shown_change("dead-letters retry", None, Payloads.MASKED) is None


def test_payloads_are_masked_unless_only_this_machine_can_ask() -> None:
    assert (usual_mode(loopback=False), usual_mode(loopback=True)) == (Payloads.MASKED, Payloads.FULL)


def test_each_role_is_shown_what_the_host_says_and_never_less_than_one_that_may_do_less() -> None:
    modes = modes_of({"reader": "masked", "operator": "limited", "admin": "full"})
    assert {role.value: mode.value for role, mode in modes.items()} == {
        "reader": "masked", "operator": "limited", "admin": "full",
    }  # fmt: skip
    assert mode_for(Actor("ann", ["reader", "admin"]), modes) is Payloads.FULL
    assert mode_for(Actor("ann", []), modes) is Payloads.NONE
    assert set(modes_of("limited").values()) == {Payloads.LIMITED}
    assert modes_of({Role.READER: "none", "admin": "full"})[Role.OPERATOR] is Payloads.NONE
    for wrong, said in (
        ({"admin": "full"}, "expected a mode for reader"),
        ({"reader": "masked", "root": "full"}, "'root' is no role, expected reader, operator, admin"),
        ({"reader": "all"}, "expected one of none, masked, limited, full"),
        ({"reader": "full", "admin": "masked"}, "admin would be shown less"),
    ):
        with pytest.raises(UsageError, match=said):
            modes_of(wrong)


#: As `engine/reason.py` writes them: what is said, the calls, and what was the cause.
CALLS = """  File "/app/shop.py", line 17, in book
    rate[event.card]
  caused by LookupError: no 4111 in the table
  File "/app/rates.py", line 3, in rate
    ...
  ...
"""
HIDES = [
    f"handler book: '4111'\n{CALLS}",
    f"ValueError: 4111\nis 4111\n    4111 too\n  caused by 4111: 4111\n{CALLS}",
    f"4111: unknown\n{CALLS}",
    f"undo of pay failed at attempt 2: PaymentError: 4111\n{CALLS}",
    "1 validation error for Sold\ncard\n  Input should be a number [type=int, input_value='4111', input_type=str]",
]


@pytest.mark.parametrize("text", HIDES)
def test_what_an_error_says_is_hidden_where_values_are_and_where_it_arose_is_not(text: str) -> None:
    for mode in (Payloads.NONE, Payloads.MASKED):
        found = shown_error(text, mode)
        assert "4111" not in found
        assert ("rate[event.card]" in found) == ("rate[event.card]" in text)
        assert ("caused by LookupError: ***" in found) == ("caused by LookupError" in text)
    assert shown_error(text, Payloads.LIMITED) == shown_error(text, Payloads.FULL) == text
    assert shown_error(HIDES[0], Payloads.NONE).startswith("handler book: ***\n  File")
    assert shown_error(HIDES[3], Payloads.NONE).startswith("undo of pay failed at attempt 2: PaymentError: ***")
    assert shown_error("", Payloads.NONE) == ""
