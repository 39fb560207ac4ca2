"""Defaults as JSON and a diff can have them: a set in one order, and no number that JSON has no word for."""

from __future__ import annotations

from math import isfinite
from typing import Any

from ensue.contracts.plain import Schema, options, said, text, within


def settle(root: dict[str, Any]) -> dict[str, Any]:
    """Return a schema with its defaults changed, in place: those of sets are in the order of their texts, because the
    order of a set is another one in each process; one with an infinite number or NaN is left out."""
    for schema in within(root):
        if "default" in schema and isinstance(schema, dict):
            value = schema.pop("default")
            if _in_json(value):
                schema["default"] = _in_order(value, schema, root)
    return root


def _in_json(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_in_json, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_in_json, value))
    return not isinstance(value, float) or isfinite(value)


def _in_order(value: Any, schema: Schema, root: Schema) -> Any:
    """A value that a schema describes, whose arrays of things that are there once are sets."""
    if not isinstance(value, list | tuple | dict):
        return value
    choices = list(options(schema, root))
    if isinstance(value, dict):
        return {name: _settled_by(each, [_field(one, name) for one in choices], root) for name, each in value.items()}
    found = [_settled_by(each, [_item(one, number) for one in choices], root) for number, each in enumerate(value)]
    return sorted(found, key=text) if any(one.get("uniqueItems") for one in choices) else found


def _settled_by(value: Any, schemas: list[Schema], root: Schema) -> Any:
    for schema in schemas:
        value = _in_order(value, schema, root)
    return value


def _field(schema: Schema, name: str) -> Schema:
    return said(schema.get("properties", {}).get(name, schema.get("additionalProperties", True)))


def _item(schema: Schema, number: int) -> Schema:
    first = schema.get("prefixItems", ())
    return said(first[number] if number < len(first) else schema.get("items", True))
