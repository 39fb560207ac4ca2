"""`ensue publish`: one event of a service from outside, refused where it would be no such event."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pydantic
import pytest
from tests.unit.cli.harness import LEDGER, SERVICES, TILL, Ended, applied, entries, work_until
from tests.unit.cli.services import ledger, till

from ensue import Event, UsageError, as_event
from ensue.event import event_type
from ensue.operations.publishing import read_event

Command = Callable[..., Ended]


@pytest.fixture(autouse=True)
def till_is_there(ensue: Command) -> None:
    assert ensue("db", "init", TILL).code == 0


def outbox(ensue: Command) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = ensue("outbox", "list", TILL, "--json").json["records"]
    return records


def test_an_event_goes_out_like_any_other_of_the_service(ensue: Command) -> None:
    ended = ensue("publish", TILL, "sales.Sold.v1", '{"customer": "ann", "amount": 7}', "--yes")
    assert ended.code == 0, ended.err
    [record] = outbox(ensue)
    assert (record["key"], record["data"]) == ("ann", {"customer": "ann", "amount": 7})
    where = f"{record['topic']}/{record['partition']}"
    assert f"published: position {record['position']}, {where}, id {record['headers']['id']}" in ended.out
    assert f"correlation id {record['headers']['correlationid']}" in ended.out
    assert "No worker of till lives: it is sent when one runs" in ended.out

    async def one_applied() -> bool:
        return await applied() == 1

    asyncio.run(work_until(one_applied, till, ledger))
    assert entries() == [("ann", 7)]


def test_who_has_published_what_and_why_is_kept_without_the_data(ensue: Command) -> None:
    told = ("--by", "ann@desk", "--reason", "the till was away")
    ended = ensue("publish", TILL, "Sold", '{"customer": "bob"}', "--yes", "--json", *told)
    assert ended.code == 0, ended.err
    ensue("publish", TILL, "Sold", '{"customer": 7}', "--yes")  # refused
    decisions = ensue("decisions", "list", TILL, "--json").json["decisions"]
    [decision] = [each for each in decisions if each["action"] == "publish"]
    assert (decision["actor"], decision["origin"], decision["reason"]) == ("ann@desk", "cli", "the till was away")
    assert (decision["target"], decision["before"]) == (ended.json["id"], None)
    kept = {name: ended.json[name] for name in ("type", "topic", "partition", "correlation_id")}
    assert decision["after"] == kept
    assert "bob" not in json.dumps(decision)


@pytest.mark.parametrize("name", ["sales.Sold.v1", "Sold"])
def test_the_type_may_be_the_class_s_name_and_the_data_a_file(ensue: Command, tmp_path: Path, name: str) -> None:
    file = tmp_path / "sold.json"
    file.write_text('{"customer": "ann"}\n')
    ended = ensue("publish", TILL, name, f"@{file}", "--yes", "--json")
    assert ended.code == 0, ended.err
    [record] = outbox(ensue)
    assert ended.json == {
        "id": record["headers"]["id"], "type": "sales.Sold.v1", "topic": "sales", "partition": record["partition"],
        "key": "ann", "position": record["position"], "correlation_id": record["headers"]["correlationid"],
    }  # fmt: skip


def test_the_position_is_that_of_the_event_whatever_else_is_published(ensue: Command) -> None:
    for customer in ("ann", "bob", "ann"):
        ended = ensue("publish", TILL, "Sold", json.dumps({"customer": customer}), "--yes", "--json")
        last = outbox(ensue)[-1]
        assert (ended.json["position"], ended.json["key"]) == (last["position"], customer)


def test_standard_input_has_the_event_and_nobody_to_ask(ensue: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = ensue("publish", TILL, "Sold", "-")
    assert (ended.code, outbox(ensue)) == (1, [])
    assert "add --yes" in ended.err
    assert "add --yes" in ensue("publish", TILL, "Sold", '{"customer": "ann"}', "--json").err
    given = SimpleNamespace(buffer=io.BytesIO(b'{"customer": "ann", "amount": 3}'))
    monkeypatch.setattr("ensue.cli.publish.sys", SimpleNamespace(stdin=given))
    assert ensue("publish", TILL, "Sold", "-", "--yes").code == 0
    assert [each["data"]["amount"] for each in outbox(ensue)] == [3]


def test_who_does_not_say_yes_publishes_nothing(ensue: Command) -> None:
    for answer in ("n\n", "", "\n"):
        ended = ensue("publish", TILL, "Sold", '{"customer": "ann"}', answer=answer)
        assert ended.code == 1
        assert "sales.Sold.v1, customer ann, by till at sqlite:///" in ended.out
    assert outbox(ensue) == []
    assert ensue("publish", TILL, "Sold", '{"customer": "ann"}', answer="y\n").code == 0
    assert len(outbox(ensue)) == 1


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ('{"customer": 7}', "the data does not fit Sold (sales.Sold.v1): Expected `str`, got `int` - at `$.customer`"),
        ('{"amount": 7}', "missing required field `customer`"),
        ('{"customer": "ann", "amonut": 7}', "Sold (sales.Sold.v1) has no field amonut; it has amount, customer"),
        ("{customer: ann}", "the data for sales.Sold.v1 is no JSON"),
        ("", "the data for sales.Sold.v1 is no JSON"),
        ("[]", "the data does not fit Sold (sales.Sold.v1): Expected `object`, got `array`"),
        ("@/no/such/file", "/no/such/file cannot be read: No such file or directory"),
    ],
)
def test_what_is_no_such_event_is_refused_and_the_field_named(ensue: Command, data: str, says: str) -> None:
    ended = ensue("publish", TILL, "Sold", data, "--yes")
    assert ended.code == 1
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert outbox(ensue) == []


def test_only_what_the_service_publishes(ensue: Command) -> None:
    ended = ensue("publish", LEDGER, "Sold", '{"customer": "ann"}', "--yes")
    assert ended.code == 1
    assert "service ledger does not publish Sold; it publishes entries.Entered.v1" in ended.err
    ended = ensue("publish", f"{SERVICES}:night", "Sold", "{}", "--yes")
    assert "service night does not publish Sold; it publishes nothing" in ended.err


def test_a_service_that_does_not_say_what_it_publishes_may_publish_any(ensue: Command) -> None:
    shy = f"{SERVICES}:shy"
    assert ensue("db", "init", shy).code == 0
    assert ensue("publish", shy, "sales.Sold.v1", '{"customer": "ann"}', "--yes").code == 0
    assert "does not publish Nothing" in ensue("publish", shy, "Nothing", "{}", "--yes").err


def test_a_command_is_sent(ensue: Command) -> None:
    hall = f"{SERVICES}:hall"
    assert ensue("db", "init", hall).code == 0
    ended = ensue("publish", hall, "Stamp", '{"customer": "ann"}', "--yes", "--json")
    assert (ended.json["type"], ended.json["topic"]) == ("clerk.commands.Stamp.v1", "clerk.commands")


def test_a_service_without_a_database_is_an_error_and_none_is_made(ensue: Command, home: Path) -> None:
    ended = ensue("publish", f"{SERVICES}:hall", "Stamp", '{"customer": "ann"}', "--yes")
    assert ended.code == 1
    assert "service hall has no database" in ended.err
    assert not (home / "hall.db").exists()


class ByHandRenamed(Event, topic="by-hand", key="name", rename="camel", tag=True, omit_defaults=True):
    name: str
    more_of_it: int = 0


@as_event(topic="by-hand", key="name")
@dataclasses.dataclass
class ByHandDataclass:
    name: str


@as_event(topic="by-hand", key="name")
class ByHandModel(pydantic.BaseModel):
    name: str
    more: int = pydantic.Field(default=0, alias="moreOfIt")


def test_fields_go_by_the_names_that_they_have_in_json() -> None:
    renamed = read_event(event_type(ByHandRenamed), b'{"type": "ByHandRenamed", "name": "x", "moreOfIt": 0}')
    assert renamed == ByHandRenamed(name="x")
    assert read_event(event_type(ByHandModel), b'{"name": "x", "moreOfIt": 2}').more == 2
    for cls in (ByHandRenamed, ByHandDataclass, ByHandModel):
        tag = {"type": "ByHandRenamed"} if cls is ByHandRenamed else {}
        data = msgspec.json.encode({**tag, "name": "x", "mor": 1})
        with pytest.raises(UsageError, match="has no field mor; it has "):
            read_event(event_type(cls), data)
