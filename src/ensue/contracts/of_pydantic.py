"""The JSON Schema of a pydantic model as Ensue writes it: by its aliases, without its computed fields.

It is pydantic's own, of what is written. That is never more than what is read, but where a serializer of the user's own
writes: then both are told. The places where it tells different things by one word are put right: a decimal, a moment
that has to have an offset, the keys of a dict, limits of times.
"""

from __future__ import annotations

from typing import Any

import pydantic
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from ensue.contracts.of_msgspec import OFFSETS
from ensue.contracts.plain import ALSO, READS, Schema

#: Constraints that pydantic's JSON Schema leaves out: of a decimal, which is no number to JSON, of times, of keys of a
#: dict; and the schemes of a URL.
_LIMITS = (
    "allow_inf_nan", "allowed_schemes", "decimal_places", "ge", "gt", "host_required", "le", "lt", "max_digits",
    "multiple_of", "now_op", "now_utc_offset",
)  # fmt: skip
_COMPUTED = "x-computed"


class _OnTheWire(GenerateJsonSchema):
    always = False

    def generate_inner(self, schema: Any) -> JsonSchemaValue:
        """What is written by code of the user's own is read by the declaration, which says something else."""
        found = super().generate_inner(schema)
        if self.mode == "validation" or not _by_own_code(schema.get("serialization")):
            return found
        mode, self._mode = self._mode, "validation"
        try:
            reads = super().generate_inner({name: each for name, each in schema.items() if name != "serialization"})
        finally:
            self._mode = mode
        return {**found, READS: reads}

    def ser_schema(self, schema: Any) -> JsonSchemaValue | None:
        """Without a return type nobody can tell what code of the user's own makes: it may be anything."""
        return {} if _by_own_code(schema) and schema.get("return_schema") is None else super().ser_schema(schema)

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        return {"type": "string", "format": "decimal", **_limits("decimal", schema)}

    def datetime_schema(self, schema: core_schema.DatetimeSchema) -> JsonSchemaValue:
        limits = _limits("date-time", schema)
        return {**super().datetime_schema(schema), **_offset(schema.get("tz_constraint")), **limits}

    def time_schema(self, schema: core_schema.TimeSchema) -> JsonSchemaValue:
        return {**super().time_schema(schema), **_offset(schema.get("tz_constraint")), **_limits("time", schema)}

    def date_schema(self, schema: core_schema.DateSchema) -> JsonSchemaValue:
        return {**super().date_schema(schema), **_limits("date", schema)}

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        return {**super().timedelta_schema(schema), **_limits("duration", schema)}

    def url_schema(self, schema: core_schema.UrlSchema) -> JsonSchemaValue:
        return {**super().url_schema(schema), **_limits("uri", schema)}

    def multi_host_url_schema(self, schema: core_schema.MultiHostUrlSchema) -> JsonSchemaValue:
        return {**super().multi_host_url_schema(schema), **_limits("uri", schema)}

    def json_schema(self, schema: core_schema.JsonSchema) -> JsonSchemaValue:
        """`round_trip` writes it as the text that it is read from."""
        content = super().json_schema(schema)
        if self.mode == "validation":
            return content
        return {"type": "string", "contentMediaType": "application/json", "contentSchema": content}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        found = super().dict_schema(schema)
        keys = schema.get("keys_schema", {})
        kind, values = keys.get("type"), _values(keys)
        if values is not None:  # a key is a text, whatever it stands for
            found["propertyNames"] = {"enum": values}
        elif kind not in ("str", "any", None) and not found.keys() & {"propertyNames", "patternProperties"}:
            name = {"int": "integer", "float": "number"}.get(kind, kind)
            found["propertyNames"] = {"type": "string", "format": f"{name}-text", **_limits(kind, keys)}
        return found

    def computed_field_schema(self, schema: core_schema.ComputedField) -> JsonSchemaValue:
        return {**super().computed_field_schema(schema), _COMPUTED: True}

    def model_field_schema(self, schema: core_schema.ModelField) -> JsonSchemaValue:
        return {**super().model_field_schema(schema), **_names(schema)}

    def dataclass_field_schema(self, schema: core_schema.DataclassField) -> JsonSchemaValue:
        return {**super().dataclass_field_schema(schema), **_names(schema)}

    def field_is_required(self, field: Any, total: bool) -> bool:
        if field["type"] == "typed-dict-field":
            return super().field_is_required(field, total)
        if self.always:
            return field.get("serialization_exclude_if") is None
        # Not as `json_schema_serialization_defaults_required` has it, which is of what is written now.
        return bool(field["schema"]["type"] != "default") and field.get("serialization_exclude_if") is None

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


def _by_own_code(serialization: Any) -> bool:
    """Whether it is a function, and none of pydantic's own, whose JSON Schema is right."""
    if serialization is None or serialization.get("type") not in ("function-plain", "function-wrap"):
        return False
    return not str(getattr(serialization["function"], "__module__", "")).startswith("pydantic.")


def _limits(kind: str, schema: Any) -> dict[str, Any]:
    """As texts: JSON has no word for most of them."""
    found = {name: str(schema[name]) for name in _LIMITS if schema.get(name) is not None}
    return {f"x-ensue-{kind}": found} if found else {}


def _values(keys: Any) -> list[str] | None:
    """The keys that a dict may have; None: it does not say which."""
    if keys.get("type") == "enum":
        return [str(each.value) for each in keys["members"]]
    return list(map(str, keys["expected"])) if keys.get("type") == "literal" else None


def _names(field: Any) -> dict[str, Any]:
    """The names by which a field is read, the first that is there, where there are several."""
    paths = field.get("validation_alias")
    several = isinstance(paths, list) and all(isinstance(each, list) for each in paths)
    names = [each[0] for each in paths if len(each) == 1] if several else []
    return {ALSO: names} if len(names) > 1 else {}


def _offset(constraint: Any) -> dict[str, Any]:
    return OFFSETS[{"aware": True, "naive": False}.get(constraint)]
