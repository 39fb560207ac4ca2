"""JSON Schema without what several ways of writing it differ in: references, unions and constants taken apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

Schema = Mapping[str, Any]

#: The names by which a field is read, of which the first one counts that is there.
ALSO = "x-ensue-names"
#: By what a value is read that is written as the schema around this says, by code of the user's own.
READS = "x-ensue-reads"
#: Keywords that say nothing of what is read or written.
ANNOTATIONS = frozenset(
    {
        "$comment", "$defs", "$id", "$schema", "default", "deprecated", "description", "discriminator", "examples",
        "readOnly", "title", "writeOnly", "x-ensue", ALSO,
    }
)  # fmt: skip
ANYTHING: Schema = {}
_NOTHING: Schema = {"enum": []}
_KINDS: dict[type, str] = {
    type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object",
}  # fmt: skip


def options(schema: Schema, root: Schema) -> Iterator[Schema]:
    """The schemas without alternatives that a schema comes to, each of one type at most. root: the document in which
    its references lead somewhere."""
    while "$ref" in schema:
        schema = _both(_target(schema["$ref"], root), schema, "$ref")
    if len(schema.get("allOf", ())) == 1:
        yield from options(_both(schema["allOf"][0], schema, "allOf"), root)
        return
    for word in ("anyOf", "oneOf"):
        if word in schema:
            for each in schema[word]:
                for one in options(said(each), root):
                    yield _both(one, schema, word)
            return
    if "const" in schema:
        schema = {**{name: value for name, value in schema.items() if name != "const"}, "enum": [schema["const"]]}
    if "enum" in schema:
        kinds: dict[str, list[Any]] = {}
        for value in schema["enum"]:
            kinds.setdefault(_KINDS[type(value)], []).append(value)
        for kind, values in kinds.items():
            yield {**schema, "type": kind, "enum": values}
    elif isinstance(schema.get("type"), list):
        for kind in schema["type"]:
            yield {**schema, "type": kind}
    else:
        yield schema


def said(schema: Any) -> Schema:
    """A schema may be `true` for anything and `false` for nothing."""
    if isinstance(schema, bool):
        return ANYTHING if schema else _NOTHING
    return cast(Schema, schema)


def parts(schema: Schema) -> Iterator[Schema]:
    """The schemas that stand in a schema itself. What else is in it is data: a default may have a field `$ref`."""
    for word in ("$defs", "patternProperties", "properties"):
        yield from schema.get(word, {}).values()
    for word in ("allOf", "anyOf", "oneOf", "prefixItems"):
        yield from schema.get(word, ())
    for word in ("additionalProperties", "items", "propertyNames", READS):
        if word in schema:
            yield schema[word]


def within(schema: Schema) -> Iterator[Schema]:
    """A schema, and all that stand in it at any depth; no `true` and no `false`."""
    if not isinstance(schema, bool):
        yield schema
        for each in parts(schema):
            yield from within(each)


def check_references(root: Schema) -> None:
    """Raises ValueError where a reference leads nowhere, out of the document or back to itself: nothing that follows
    references could end, or say which document it was in."""
    for schema in within(root):
        seen: set[str] = set()
        while "$ref" in schema:
            reference = schema["$ref"]
            if reference in seen:
                raise ValueError(f"its reference {reference} leads back to itself")
            seen.add(reference)
            try:
                found = _target(reference, root) if reference.startswith("#") else None
            except (KeyError, TypeError):
                found = None
            if not isinstance(found, Mapping):
                raise ValueError(f"its reference {reference} leads nowhere in it")
            schema = found


def others_of(schema: Schema) -> Schema | None:
    """What fields that an object does not name may hold; None: it has none. An object that names its fields and does
    not speak of others is one of a class, and writes these alone."""
    if "additionalProperties" not in schema:
        return None if "properties" in schema else ANYTHING
    found = schema["additionalProperties"]
    return None if found is False else said(found)


def brief(schema: Schema) -> str:
    """A schema without alternatives, in a few words."""
    if "enum" in schema:
        return listed(schema["enum"])
    if READS in schema and "type" not in schema:
        return "whatever a serializer without a return type makes"
    kind = str(schema.get("type", "anything"))
    more = schema.get("format") or schema.get("contentEncoding") or (schema.get("title") if kind == "object" else None)
    return f"{kind} ({more})" if more else kind


def listed(values: Sequence[Any]) -> str:
    return ", ".join(map(text, values))


def text(value: Any) -> str:
    """The same for equal values, and only for these: true is no 1."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _target(reference: str, root: Schema) -> Schema:
    found: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        found = found[part.replace("~1", "/").replace("~0", "~")]
    return said(found)


def _both(schema: Schema, beside: Schema, word: str) -> Schema:
    """What a keyword leads to, and what is said beside that keyword. Where both use one word for different things, the
    first holds, and the second goes by a name that no rule knows, so that a reader of it is trusted with nothing."""
    rest = {name: value for name, value in beside.items() if name != word and name not in ANNOTATIONS}
    clash = {f"also {name}": value for name, value in rest.items() if text(schema.get(name, value)) != text(value)}
    return {**rest, **schema, **clash}
