"""The JSON Schema of a pydantic model as Ensue writes it: by its aliases, without its computed fields.

It is pydantic's own, of what is written, which is never more than what is read. The places where it tells different
things by one word are put right: a decimal, a moment that has to have an offset, the keys of a dict.
"""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ensue.contracts.of_msgspec import OFFSETS
from ensue.contracts.plain import Schema

#: Of constraints of a decimal, which are no numbers to JSON.
_DECIMAL = ("allow_inf_nan", "decimal_places", "ge", "gt", "le", "lt", "max_digits", "multiple_of")
_COMPUTED = "x-computed"


class _OnTheWire(GenerateJsonSchema):
    always = False

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        limits = {name: str(schema[name]) for name in _DECIMAL if schema.get(name) is not None}  # type: ignore[literal-required]
        found: JsonSchemaValue = {"type": "string", "format": "decimal"}
        return {**found, "x-ensue-decimal": limits} if limits else found

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        return {**super().datetime_schema(schema), **_offset(schema.get("tz_constraint"))}

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return {**super().time_schema(schema), **_offset(schema.get("tz_constraint"))}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        keys = schema.get("keys_schema", {}).get("type")
        if keys not in ("str", "any", None) and not found.keys() & {"propertyNames", "patternProperties"}:
            kind = {"int": "integer", "float": "number"}.get(keys, keys)
            found["propertyNames"] = {"type": "string", "format": f"{kind}-text"}
        return found

    def computed_field_schema(self, schema: core_schema.ComputedField) -> JsonSchemaValue:
        return {**super().computed_field_schema(schema), _COMPUTED: True}

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.always and field["type"] != "typed-dict-field":
            return field.get("serialization_exclude_if") is None
        return super().field_is_required(field, total)

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False  # they are the fields' names with capitals


class _Always(_OnTheWire):
    always = True


def of_pydantic(cls: type[pydantic.BaseModel], *, always: bool) -> Schema:
    """As `of_msgspec`."""
    generator = _Always if always else _OnTheWire
    found = cls.model_json_schema(by_alias=True, schema_generator=generator, mode="serialization")
    for each in (found, *found.get("$defs", {}).values()):
        _without_computed(each)
    return found


def _without_computed(schema: dict[str, Any]) -> None:
    """`round_trip` leaves them out of what is written."""
    fields = schema.get("properties", {})
    for name in [name for name, each in fields.items() if _COMPUTED in each]:
        del fields[name]
        schema["required"] = [each for each in schema.get("required", ()) if each != name]


def _offset(constraint: Any) -> dict[str, Any]:
    return OFFSETS[{"aware": True, "naive": False}.get(constraint)]
