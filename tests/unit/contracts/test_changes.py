"""Which change breaks whom: committed, written now, and read by a class of its own or by the writer's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from ensue import UsageError
from ensue.contracts.changes import Change, changes
from ensue.contracts.contract import owned, writers
from ensue.contracts.described import Contract, Described
from ensue.contracts.differences import differences
from ensue.contracts.files import Committed, read, write

NAME = "visits.Came.v1"
WRITER = "contracts:Came"
TEXT, NUMBER = {"type": "string"}, {"type": "integer"}
AB, ABC = {"enum": ["a", "b"]}, {"enum": ["a", "b", "c"]}


def record(fields: Mapping[str, Any], *optional: str, **more: Any) -> dict[str, Any]:
    required = [each for each in fields if each not in optional]
    return {"type": "object", "properties": dict(fields), "required": required, **more}


def message(
    fields: Mapping[str, Any], *optional: str, cls: str = WRITER, name: str = NAME, key: str = "who", **more: Any
) -> Described:
    """optional: fields with a default, which the class always writes."""
    topic, _, rest = name.partition(".")
    schema, always = record(fields, *optional), record(fields)
    return Described(
        name=name, kind="event", topic=topic, key=key, version=int(rest.rpartition(".v")[2]), cls=cls,
        schema=schema, always=always, **more,
    )  # fmt: skip


def committed(*messages: Described) -> dict[str, Committed]:
    return {each.name: read(write(each), "a file") for each in messages}


def found(
    before: Described | None, now: Described | None, *readers: Described, names: tuple[str, ...] = ("mail", "stock")
) -> list[Change]:
    writers = [Contract("door", [now] if now else [], [], [])]
    reading = [Contract(name, [], [each], []) for name, each in zip(names, readers, strict=False)]
    return changes(committed(*([before] if before else [])), writers, reading)


def lines(*arguments: Any) -> list[str]:
    return list(map(str, found(*arguments)))


BOTH = {"who": TEXT, "how": TEXT}
OWN = {"cls": "mail:Came"}


def test_nothing_is_said_of_what_has_not_changed() -> None:
    assert lines(message(BOTH), message(BOTH), message(BOTH), message({"who": TEXT}, **OWN)) == []


def test_words_about_a_message_are_no_change() -> None:
    before, now = message(BOTH), message({"who": TEXT, "how": {**TEXT, "description": "By which door"}})
    assert lines(before, now) == []


def test_a_removed_field_breaks_the_readers_that_require_it_and_no_others() -> None:
    now, wants, ignores = message({"who": TEXT}), message(BOTH, **OWN), message({"who": TEXT}, cls="stock:Came")
    assert lines(message(BOTH), now, wants, ignores) == [
        f"breaking    {NAME} how: removed; mail cannot read new messages: the field is not written, and is required"
    ]
    assert lines(message(BOTH), now, message(BOTH, "how", **OWN), ignores) == [
        f"compatible  {NAME} how: removed; mail, stock can read it"
    ]


def test_who_shares_the_class_may_run_with_the_old_one_yet() -> None:
    now = message({"who": TEXT})
    assert lines(message(BOTH), now, now) == [
        f"breaking    {NAME} how: removed; mail, as it is deployed, cannot read new messages: the field is not "
        "written, and is required"
    ]


def test_a_field_goes_in_two_steps() -> None:
    first, second = message(BOTH, "how"), message({"who": TEXT})
    assert lines(message(BOTH), first, first) == [f"compatible  {NAME} how: has a default now; mail can read it"]
    assert lines(first, second, second) == [f"compatible  {NAME} how: removed; mail can read it"]


def test_where_no_reader_is_known_one_by_the_committed_schema_stands_for_it() -> None:
    assert lines(message(BOTH), message({"who": TEXT})) == [
        f"breaking    {NAME} how: removed; who reads by the committed schema cannot read new messages: the field is "
        "not written, and is required"
    ]
    assert lines(message({"who": TEXT}), message(BOTH)) == [
        f"compatible  {NAME} how: new, and has to be there; no reader of it is known"
    ]


def test_a_new_field_without_a_default_is_not_in_what_the_log_holds() -> None:
    before, now = message({"who": TEXT}), message(BOTH)
    assert lines(before, now, now) == [
        f"breaking    {NAME} how: new, and has to be there; mail cannot read what the log holds: the field is not "
        "written, and is required"
    ]
    now = message(BOTH, "how")
    assert lines(before, now, now) == [f"compatible  {NAME} how: new, with a default; mail can read it"]


def test_a_default_that_is_taken_away_is_missed_in_what_the_log_holds() -> None:
    before, now = message(BOTH, "how"), message(BOTH)
    assert lines(before, now, now) == [
        f"breaking    {NAME} how: has no default any more; mail cannot read what the log holds: the field may be left "
        "out, and is required"
    ]


def test_a_value_more_breaks_who_does_not_know_it_and_one_less_who_reads_old_messages() -> None:
    old, new = message({"who": AB}), message({"who": ABC})
    own = message({"who": AB}, **OWN)
    assert lines(old, new, own) == [
        f'breaking    {NAME} who: "c" added; mail cannot read new messages: "c" is written, and only "a", "b" is read'
    ]
    assert lines(old, new, message({"who": TEXT}, **OWN)) == [f'compatible  {NAME} who: "c" added; mail can read it']
    assert lines(new, old, old) == [
        f'breaking    {NAME} who: "c" removed; mail cannot read what the log holds: "c" is written, and only "a", "b" '
        "is read"
    ]


def test_another_type_breaks_its_readers() -> None:
    [change] = found(message({"who": TEXT}), message({"who": NUMBER}), message({"who": TEXT}, **OWN))
    assert (change.path, change.what, change.breaking) == ("who", "was string, is integer", True)
    assert [(each.reader, each.messages) for each in change.reasons] == [("mail", "new")]


def test_another_key_breaks_the_order() -> None:
    [change] = found(message(BOTH), message(BOTH, key="how"), message({"who": TEXT}, **OWN))
    assert change.breaking
    assert "the key, and was who" in str(change)


def test_a_reader_that_never_fitted_is_named_without_a_change() -> None:
    [line] = lines(message(BOTH), message(BOTH), message({"who": NUMBER}, **OWN))
    assert line == f"breaking    {NAME} who; mail cannot read new messages: string is written, and integer is read"
    [line] = lines(None, message({"who": TEXT}), message({"who": NUMBER}, **OWN))[1:]
    assert line.startswith(f"breaking    {NAME} who; mail cannot")


def test_a_default_of_the_writer_is_none_of_the_reader_s() -> None:
    """It is written always, and may be missing in messages from before it was there."""
    now = message(BOTH, "how")
    [change] = found(now, now, message(BOTH, **OWN))
    assert [each.messages for each in change.reasons] == ["log"]


V2 = "visits.Came.v2"


def test_a_new_version_breaks_who_reads_the_old_one_alone() -> None:
    now = message(BOTH, name=V2)
    first, second = found(message(BOTH), now, message({"who": TEXT}, **OWN))
    assert str(first) == (
        f"breaking    {NAME}: not written any more by these services; {V2} is; mail: it does not read {V2}"
    )
    assert str(second) == f"compatible  {V2}: new, after {NAME}; no reader of it is known"


@pytest.mark.parametrize("upcast", [True, False])
def test_a_new_version_breaks_nobody_who_reads_both(upcast: bool) -> None:
    now, own = message(BOTH, name=V2), message({"who": TEXT}, name=V2, **OWN)
    older = message({} if upcast else {"who": TEXT}, upcast=upcast, **OWN)
    reader = Contract("mail", [], [older, own], [])
    both = changes(committed(message(BOTH)), [Contract("door", [now], [], [])], [reader])
    assert [each.breaking for each in both] == [False, False]
    # and when the new one is committed as well, there is nothing left to say
    assert changes(committed(message(BOTH), now), [Contract("door", [now], [], [])], [reader]) == []


def test_readers_are_held_to_the_committed_schemas_of_versions_that_nobody_writes() -> None:
    now, own = message(BOTH, name=V2), message({"who": TEXT}, name=V2, **OWN)
    reader = Contract("mail", [], [message({"who": NUMBER}, **OWN), own], [])
    [change] = changes(committed(message(BOTH), now), [Contract("door", [now], [], [])], [reader])
    assert (change.name, change.path, [each.messages for each in change.reasons]) == (NAME, "who", ["log"])


def test_another_topic_is_another_message() -> None:
    now = message(BOTH, name="comings.Came.v1")
    first, second = found(message(BOTH), now, message({"who": TEXT}, **OWN))
    assert (first.name, first.breaking) == ("comings.Came.v1", False)
    assert (second.name, second.breaking) == (NAME, True)


def test_what_is_not_written_any_more_breaks_who_waits_for_it() -> None:
    other = message(BOTH, name="visits.Left.v1")
    [change] = [each for each in found(message(BOTH), other, message(BOTH, **OWN)) if each.name == NAME]
    assert str(change).endswith("not written any more by these services; mail: it waits for it in vain")
    [change] = [each for each in found(message(BOTH), other) if each.name == NAME]
    assert not change.breaking


DOOR = Contract("door", [message(BOTH)], [], [])
ELSEWHERE = Contract("door", [message(BOTH, name="other.Thing.v1")], [], [])
MAIL = Contract("mail", [], [message(BOTH, **OWN)], [])


def exported(*contracts: Contract) -> dict[str, Committed]:
    services = writers(contracts)
    return {name: read(write(each, services.get(name, ())), "a file") for name, each in owned(contracts).items()}


def test_the_last_event_of_a_topic_is_missed_by_who_waits_for_it() -> None:
    both = Contract("door", [*DOOR.writes, *ELSEWHERE.writes], [], [])
    vain = f"breaking    {NAME}: not written any more by these services; mail: it waits for it in vain"
    assert list(map(str, changes(exported(both), [ELSEWHERE], [MAIL]))) == [vain]
    assert list(map(str, changes(exported(both), [ELSEWHERE, MAIL]))) == [vain]
    gate = Contract("gate", DOOR.writes, [], [])
    assert list(map(str, changes(exported(both, gate), [ELSEWHERE], [MAIL]))) == [vain]
    assert changes(exported(both, gate), [ELSEWHERE, gate], [MAIL]) == [], "gate writes it yet"


def test_what_another_service_writes_in_the_same_topic_is_no_business_of_these() -> None:
    left = Contract("gate", [message(BOTH, name="visits.Left.v1")], [], [])
    assert changes(exported(DOOR, left), [left], [MAIL]) == []
    assert changes(exported(DOOR, left), [DOOR], [MAIL]) == []


def test_a_command_is_of_who_sends_it_and_who_handles_it_and_an_answer_of_nobody() -> None:
    ask = message(BOTH, name="desk.Ask.v1")
    answer = Described(
        name="desk.Ask.v1.reply", kind="reply", topic="", key="", version=1, cls="desk:Done", schema={}, always={}
    )
    desk = Contract("desk", [answer], [ask], [ask.name])
    assert writers([Contract("door", [ask], [answer], []), desk, MAIL]) == {"desk.Ask.v1": {"door", "desk"}}
    assert changes(exported(desk), [Contract("desk", [], [], [])]) != [], "nobody handles it any more"


def test_files_of_other_services_are_no_business_of_these() -> None:
    assert lines(message(BOTH, name="other.Thing.v1"), message(BOTH), message(BOTH, **OWN)) == [
        f"compatible  {NAME}: new; mail can read it"
    ]


def test_two_that_write_one_message_differently_are_refused() -> None:
    one, other = Contract("door", [message(BOTH)], [], []), Contract("gate", [message({"who": TEXT}, **OWN)], [], [])
    with pytest.raises(UsageError, match=r"written by door as contracts:Came, and by gate as mail:Came, and their"):
        owned([one, other])
    assert list(owned([one, Contract("gate", [message(BOTH, **OWN)], [], [])])) == [NAME]  # as long as they agree


def test_the_schema_of_a_command_is_its_handler_s_to_say() -> None:
    ask = message(BOTH, name="desk.Ask.v1")
    answers = message(BOTH, "how", name="desk.Ask.v1", cls="desk:Ask")
    services = [Contract("door", [ask], [], []), Contract("desk", [], [answers], ["desk.Ask.v1"])]
    assert owned(services) == owned(services[::-1]) == {"desk.Ask.v1": answers}
    assert owned(services[:1]) == {"desk.Ask.v1": ask}
    narrower = message({**BOTH, "why": TEXT}, name="desk.Ask.v1", cls="desk:Ask")
    reasons = changes({}, [services[0], Contract("desk", [], [narrower], ["desk.Ask.v1"])])
    assert any(each.breaking and each.path == "why" for each in reasons)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (record({"a": TEXT}), record({"a": {"anyOf": [TEXT, {"type": "null"}]}}),
         [("a", "was string, is string or null")]),
        (record({"a": NUMBER}), record({"a": {**NUMBER, "minimum": 1}}), [("a", "minimum: none before, 1 now")]),
        (record({"a": TEXT}), record({"a": {**TEXT, "format": "uuid"}}), [("a", "was string, is string (uuid)")]),
        (record({"a": {"type": "array", "items": TEXT}}), record({"a": {"type": "array", "items": NUMBER}}),
         [("a[]", "was string, is integer")]),
        (record({"a": record({"x": TEXT}, title="One")}), record({"a": record({"y": TEXT}, title="Two")}),
         [("a.x", "removed"), ("a.y", "new, and has to be there")]),
        (record({}), record({}, additionalProperties=False),
         [("", "of other fields: passed over before, refused now")]),
        (record({"a": {"type": "array", "prefixItems": [TEXT]}}),
         record({"a": {"type": "array", "prefixItems": [TEXT, NUMBER]}}), [("a[1]", "new")]),
        (record({"a": TEXT}), record({"a": AB}), [("a", 'only "a", "b" now')]),
        (record({"a": {"type": "object", "additionalProperties": TEXT}}),
         record({"a": {"type": "object", "additionalProperties": NUMBER}}), [("a.*", "was string, is integer")]),
        (record({"a": {"$ref": "#/$defs/T"}}, **{"$defs": {"T": TEXT}}), record({"a": TEXT}), []),
    ],
)  # fmt: skip
def test_differences_are_told_field_by_field(old: Any, new: Any, expected: list[tuple[str, str]]) -> None:
    assert list(differences(old, new)) == expected


def with_field(schema: dict[str, Any]) -> bytes:
    """A file that somebody has changed by hand."""
    return write(message({"who": schema}))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"{", "JSONDecodeError"),
        (b"[]", "AttributeError|TypeError"),
        (b"{}", "KeyError: 'x-ensue'"),
        (b'{"x-ensue": {"name": "a", "kind": "thing", "topic": "", "key": "", "version": 1}}', "thing"),
        (b'{"x-ensue": {"name": "a", "kind": "event", "topic": "", "key": "", "version": 1}}', "schema"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError|JSONDecodeError"),
        (with_field({"$ref": "#/$defs/Gone"}), "its reference #/\\$defs/Gone leads nowhere in it"),
        (with_field({"anyOf": [TEXT, {"$ref": "#/$defs/Gone"}]}), "#/\\$defs/Gone leads nowhere"),
        (with_field({"$ref": "#/properties/who/enum/0"}), "leads nowhere"),
        (with_field({"$ref": "other.json"}), "other.json leads nowhere"),
        (with_field({"$ref": "#/properties/who"}), "#/properties/who leads back to itself"),
        (with_field({"$ref": 7}), "AttributeError"),
    ],
)
def test_a_damaged_file_is_named_with_what_to_do(data: bytes, reason: str) -> None:
    with pytest.raises(UsageError, match=r"schemas/a\.json is no schema .* `ensue schemas export`") as raised:
        read(data, "schemas/a.json")
    assert re.search(reason, str(raised.value))


def test_what_a_field_holds_is_no_reference() -> None:
    """A field may be called so, and a default may have one that is."""
    fields = {"$ref": TEXT, "who": {"type": "object", "default": {"$ref": "#/$defs/Gone"}}}
    assert read(write(message(fields)), "a file").schema["properties"] == fields
