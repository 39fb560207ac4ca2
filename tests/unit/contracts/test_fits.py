"""What the rules let pass is read: tried with real classes, what they write and what they read, and against another
implementation of the question."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from importlib import import_module
from random import Random
from typing import Any

import jsonschema_rs
import pytest
from tests.unit.contracts.classes import KINDS, Type, built, changed, class_at_random, value

from ensue.contracts import fits
from ensue.contracts.described import schemas_of
from ensue.contracts.fits import misfits
from ensue.errors import BadMessage, EventMismatch
from ensue.event import shape_of

#: Another one each time it is set so; a failure says which it was.
SEED = os.environ.get("ENSUE_TEST_SEED") or "0"
CLASSES = 40
#: What another implementation knows as we do. It knows no formats and no pairs of the newer draft, and takes a text of
#: some length for one of an enum.
KNOWN_TO_ALL = ("integer", "float", "text", "truth", "between", "enum", "optional", "list", "dict", "class")


def integer(**more: Any) -> dict[str, Any]:
    return {"type": "integer", **more}


def text(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


def record(*required: str, **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(required)}


OPEN = {"type": "object", "additionalProperties": {"type": "integer"}}
NODE: dict[str, Any] = {
    "$ref": "#/$defs/Node",
    "$defs": {"Node": record("next", next={"anyOf": [{"$ref": "#/$defs/Node"}, {"type": "null"}]}, value=integer())},
}

#: what is written, what is read, where it does not fit
CASES: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ("the same", record("a", a=integer()), record("a", a=integer()), []),
    ("a field that nobody asks for", record("a", "b", a=integer(), b=text()), record("a", a=integer()), []),
    ("a field that is required and not written", record("a", a=integer()), record("b", b=integer()), ["b"]),
    ("a field that is required and may be left out", record(a=integer()), record("a", a=integer()), ["a"]),
    ("a field that may be missing", record(), record(a=integer()), []),
    ("another type, deep inside", record("a", a={"type": "array", "items": record("x", x=text())}),
     record("a", a={"type": "array", "items": record("x", x=integer())}), ["a[].x"]),
    ("unknown fields refused", record("a", a=integer()), {**record(), "additionalProperties": False}, ["a"]),
    ("a wider enum", text(enum=["a", "b", "c"]), text(enum=["a", "b"]), [""]),
    ("a narrower enum", {"enum": ["a"]}, text(enum=["a", "b"]), []),
    ("a constant for an enum", {"const": "a"}, text(enum=["a", "b"]), []),
    ("an enum for any text", {"enum": ["a", "b"]}, text(minLength=1), []),
    ("an enum for a longer text", {"enum": ["a", "bb"]}, text(minLength=2), [""]),
    ("an enum for a format", {"enum": ["a"]}, text(format="uuid"), [""]),
    ("any text for an enum", text(), text(enum=["a"]), [""]),
    ("true for 1", {"enum": [True]}, {"enum": [1]}, [""]),
    ("a format for any text", text(format="uuid"), text(), []),
    ("any text for a format", text(), text(format="uuid"), [""]),
    ("a moment without an offset", text(format="date-time"),
     text(format="date-time", **{"x-ensue-offset": "required"}), [""]),
    ("whole numbers for numbers", integer(), {"type": "number"}, []),
    ("numbers for whole numbers", {"type": "number"}, integer(), [""]),
    ("above 0 is from 1", integer(exclusiveMinimum=0), integer(minimum=1), []),
    ("above 0 is not from 1 of all numbers", {"type": "number", "exclusiveMinimum": 0},
     {"type": "number", "minimum": 1}, [""]),
    ("up to 5 for below 5", {"type": "number", "maximum": 5}, {"type": "number", "exclusiveMaximum": 5}, [""]),
    ("a wider bound", integer(maximum=10), integer(maximum=9), [""]),
    ("longer texts", text(maxLength=10), text(maxLength=9), [""]),
    ("another pattern", text(pattern="^a"), text(pattern="^[ab]"), [""]),
    ("multiples", integer(multipleOf=4), integer(multipleOf=2), [""]),
    ("null where it is not read", {"anyOf": [text(), {"type": "null"}]}, text(), [""]),
    ("null where it is read", text(), {"anyOf": [{"type": "null"}, text()]}, []),
    ("two types at once", {"type": ["string", "null"]}, {"anyOf": [{"type": "null"}, text()]}, []),
    ("one more alternative", {"anyOf": [text(), integer()]}, {"anyOf": [text(), {"type": "null"}]}, [""]),
    ("alternatives by their tag", {"anyOf": [record("t", "a", t={"enum": ["x"]}, a=text())]},
     {"oneOf": [record("t", "a", t={"enum": ["x"]}, a=integer()), record("t", t={"enum": ["y"]})]}, ["a"]),
    ("anything for something", {}, text(), [""]),
    ("something for anything", text(), {}, []),
    ("anything for anything", {}, {"title": "Any"}, []),
    ("any fields for a required one", OPEN, record("a", a=integer()), ["a"]),
    ("any fields for one of another type", OPEN, record(a=text()), ["a"]),
    ("any fields for those alone", OPEN, {**record(a=integer()), "additionalProperties": False}, [""]),
    ("a class for a dict", record("a", a=integer()), OPEN, []),
    ("a class for a dict of others", record("a", a=text()), OPEN, ["a"]),
    ("any keys for some", OPEN, {**OPEN, "propertyNames": {"format": "uuid"}}, ["(name)"]),
    ("names for keys", record("a", a=integer()), {**OPEN, "propertyNames": {"enum": ["b"]}}, ["(name)"]),
    ("a class as an array, and one more with a default", {"type": "array", "prefixItems": [text()], "minItems": 1},
     {"type": "array", "prefixItems": [text(), integer()], "minItems": 1}, []),
    ("a class as an array, read by one that takes no more", {"type": "array", "prefixItems": [text()], "minItems": 1},
     {"type": "array", "prefixItems": [text()], "minItems": 1, "maxItems": 1, "items": False}, []),
    ("a pair for a list", {"type": "array", "prefixItems": [text(), text()], "items": False, "minItems": 2,
                           "maxItems": 2}, {"type": "array", "items": text()}, []),
    ("a list for a pair", {"type": "array", "items": text()},
     {"type": "array", "prefixItems": [text(), integer()], "minItems": 2, "maxItems": 2}, ["", "[1]"]),
    ("a list that goes on for a pair that does not", {"type": "array", "items": text(), "maxItems": 3},
     {"type": "array", "prefixItems": [text()], "items": False}, ["[]"]),
    ("a list for a set", {"type": "array", "items": text()},
     {"type": "array", "items": text(), "uniqueItems": True}, [""]),
    ("a class within itself", NODE, NODE, []),
    ("a class within itself, with another field", NODE,
     {**NODE, "$defs": {"Node": {**NODE["$defs"]["Node"], "required": ["next", "value"]}}}, ["value", "next.value"]),
    ("what stands beside a reference", {"$ref": "#/$defs/T", "$defs": {"T": text()}},
     {"$ref": "#/$defs/T", "minLength": 3, "$defs": {"T": text(minLength=1)}}, ["", ""]),
    ("all of one", {"allOf": [text(enum=["a"])]}, {"allOf": [text()]}, []),
    ("all of two is too hard", text(), {"allOf": [text(), text(minLength=0)]}, [""]),
    ("nothing at all", text(), {"enum": []}, [""]),
    ("a keyword nobody knows", text(), text(**{"if": {}}), [""]),
    ("words about it", text(description="a"), text(title="b", examples=["c"], default="d"), []),
]  # fmt: skip


@pytest.mark.parametrize(("writes", "reads", "paths"), [each[1:] for each in CASES], ids=[each[0] for each in CASES])
def test_a_rule(writes: dict[str, Any], reads: dict[str, Any], paths: list[str]) -> None:
    assert [each.path for each in misfits(writes, reads)] == paths


def pairs(what: str, count: int, **options: Any) -> list[tuple[str, Type, Type]]:
    """Two classes each, of which one is the other with some changes, with what a failure says of them."""
    found = []
    for number in range(count):
        chance = Random(f"{SEED} {what} {number}")
        one = class_at_random(chance, **options)
        found.append((f"ENSUE_TEST_SEED={SEED}, {what} {number}", one, changed(chance, one, **options)))
    return found


def messages(cls: Any, one: Type, kind: Any, chance: Random) -> list[bytes]:
    """What a class writes of objects at random; not those that Ensue refuses to publish."""
    found = []
    for _ in range(12):
        try:
            found.append(shape_of(cls, "made").write(value(one, chance, kind, cls)))
        except EventMismatch:
            continue
    return found


def older(data: bytes, schema: dict[str, Any], chance: Random) -> bytes:
    """The same message, written before some of the fields with defaults were there."""
    fields = json.loads(data)
    for name in schema["properties"].keys() - set(schema.get("required", ())):
        if chance.random() < 0.5:
            fields.pop(name, None)
    return json.dumps(fields).encode()


def let_pass(writer: Any, reader: Any, count: int) -> Iterator[str | None]:
    """Of pairs of classes that fit: None, or a message that one writes, and the other cannot read."""
    for seed, one, other in pairs(f"{writer} {reader}", count):
        chance = Random(seed)
        ours, theirs = built(one, writer), built(other, reader)
        schema, always = schemas_of(ours)
        reads, _ = schemas_of(theirs)
        now, log = not misfits(always, reads), not misfits(schema, reads)
        if now or log:
            yield None
        for data in messages(ours, one, writer, chance):
            where = f"{seed}: {data!r}"
            assert jsonschema_rs.is_valid({**always, "$schema": DRAFT}, json.loads(data)), where
            before = older(data, schema, chance)
            assert jsonschema_rs.is_valid({**schema, "$schema": DRAFT}, json.loads(before)), where
            for each in [data] * now + [before] * log:
                try:
                    shape_of(theirs, "made").read(each)
                except BadMessage as error:
                    yield f"{where} is {each!r} and does not fit: {error}"


@pytest.mark.parametrize("writer", KINDS)
@pytest.mark.parametrize("reader", KINDS)
def test_what_fits_is_read(writer: Any, reader: Any) -> None:
    found = list(let_pass(writer, reader, CLASSES))
    assert [each for each in found if each is not None] == []
    assert len(found) > CLASSES // 20, f"of {CLASSES} pairs {len(found)} fit: that shows little"


_single, _object = fits._Comparison._single, fits._Comparison._object
#: Rules with one fault each: of what, which name, what instead.
FAULTS: dict[str, tuple[Any, str, Any]] = {
    "formats are not looked at": (fits, "_KNOWN", fits._KNOWN | {"format"}),
    "offsets are not looked at": (fits, "_KNOWN", fits._KNOWN | {"x-ensue-offset"}),
    "bounds are not looked at": (fits, "_bounds", lambda one, other, path: iter(())),
    "what a dict may hold is not looked at": (fits, "others_of", lambda schema: None),
    "an enum may have any values": (
        fits._Comparison,
        "_single",
        lambda self, one, other, path: _single(
            self, {**one, "enum": other["enum"]} if "enum" in other else one, other, path
        ),
    ),
    "nothing is required": (
        fits._Comparison,
        "_object",
        lambda self, one, other, path: _object(self, one, {**other, "required": []}, path),
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_rules_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*FAULTS[fault])
    kinds = [(writer, reader) for writer in KINDS for reader in KINDS]
    assert any(each is not None for writer, reader in kinds for each in let_pass(writer, reader, CLASSES))


DRAFT = "https://json-schema.org/draft/2020-12/schema"


def test_the_rules_say_what_another_implementation_says() -> None:
    is_subschema = import_module("jsonsubschema").isSubschema  # which has no types
    said: dict[bool, int] = {True: 0, False: 0}
    for seed, one, other in pairs("oracle", 80, words=KNOWN_TO_ALL):
        for first, second in ((one, other), (other, one), (one, one)):
            _, always = schemas_of(built(first, "struct"))
            reads, _ = schemas_of(built(second, "struct"))
            ours = not misfits(always, reads)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its own, of what it uses
                theirs = is_subschema(draft_4(always, closed=True), draft_4(reads, closed=False))
            said[theirs] += 1
            assert ours == theirs, f"{seed}: {always} for {reads}: {misfits(always, reads)}"
    assert min(said.values()) > 30, said


def draft_4(schema: Any, *, closed: bool, root: Any = None) -> Any:
    """As the oracle has it: an older draft, in which a class that is written is one without other fields."""
    root = schema if root is None else root
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return draft_4(root["$defs"][schema["$ref"].rpartition("/")[2]], closed=closed, root=root)
    found = {
        name: each
        for name, each in schema.items()
        if name not in ("$defs", "title", "default", "description", "required")
    }
    if "properties" in found:
        found["properties"] = {
            name: draft_4(each, closed=closed, root=root) for name, each in found["properties"].items()
        }
    for word in ("items", "additionalProperties"):
        if word in found:
            found[word] = draft_4(found[word], closed=closed, root=root)
    if "anyOf" in found:
        found["anyOf"] = [draft_4(each, closed=closed, root=root) for each in found["anyOf"]]
    if schema.get("required"):
        found["required"] = schema["required"]
    if closed and "properties" in found:
        found["additionalProperties"] = False
    return found
