"""The JSON Schema of a Struct or a dataclass: what msgspec writes of its objects, and what it has to find to read them.

Made from `msgspec.inspect`, and not by `msgspec.json.schema`, which tells no moment with an offset from any text, and
not which fields are always written.
"""

from __future__ import annotations

import inspect
import re
import typing
from typing import Any, cast

import msgspec
from msgspec import inspect as mi

from ensue.contracts.plain import Schema

_Described = dict[str, Any]
_TEXTS: dict[type[mi.Type], _Described] = {
    mi.DateType: {"format": "date"},
    mi.TimeDeltaType: {"format": "duration"},
    mi.UUIDType: {"format": "uuid"},
    mi.DecimalType: {"format": "decimal"},
}
_NUMBERS = {
    "gt": "exclusiveMinimum", "ge": "minimum", "lt": "exclusiveMaximum", "le": "maximum", "multiple_of": "multipleOf",
}  # fmt: skip
#: What a moment says of its offset from UTC; nothing: it may have one.
OFFSETS: dict[Any, _Described] = {
    None: {}, True: {"x-ensue-offset": "required"}, False: {"x-ensue-offset": "refused"},
}  # fmt: skip


def of_msgspec(cls: type, *, always: bool) -> Schema:
    """Return the schema of a class. always: fields are required that are always written; else those that have to be
    there when its objects are read."""
    declared = mi.type_info(cls)
    writer = _Writer(always)
    return writer.document(writer.schema(declared))


class _Writer:
    def __init__(self, always: bool) -> None:
        self._always = always
        self._definitions: dict[str, _Described] = {}
        #: By the node of a class: one with other parameters is another node. They live as long as the first one does.
        self._names: dict[int, str] = {}

    def document(self, schema: _Described) -> _Described:
        """The class itself in full, unless it is a part of itself."""
        definitions = dict(self._definitions)
        if msgspec.json.encode(definitions).count(msgspec.json.encode(schema["$ref"])) == 0:
            schema = definitions.pop(schema["$ref"].rpartition("/")[2])
        return {**schema, "$defs": definitions} if definitions else schema

    def schema(self, node: mi.Type) -> _Described:
        match node:
            case mi.Metadata():
                return {**self.schema(node.type), **(node.extra_json_schema or {})}
            case mi.UnionType():
                return {"anyOf": [self.schema(each) for each in node.types]}
            case mi.StructType() | mi.DataclassType() | mi.TypedDictType() | mi.NamedTupleType():
                return {"$ref": f"#/$defs/{self._defined(node)}"}
            case mi.ListType() | mi.VarTupleType():
                return {"type": "array", "items": self.schema(node.item_type), **_sizes(node, "Items")}
            case mi.SetType() | mi.FrozenSetType():
                items = {"items": self.schema(node.item_type), "uniqueItems": True}
                return {"type": "array", **items, **_sizes(node, "Items")}
            case mi.TupleType():
                return _tuple([self.schema(each) for each in node.item_types], len(node.item_types), closed=True)
            case mi.DictType():
                return self._dict(node)
            case mi.EnumType():
                return {"title": node.cls.__name__, "enum": [each.value for each in node.cls]}
            case mi.LiteralType():
                return {"enum": list(node.values)}
        return _plain(node)

    def _dict(self, node: mi.DictType) -> _Described:
        found = {"type": "object", "additionalProperties": self.schema(node.value_type), **_sizes(node, "Properties")}
        names = self.schema(node.key_type)
        if names.get("type") in ("integer", "number"):
            names = {"type": "string", "format": f"{names['type']}-text"}
        if "enum" in names:  # a key is a text, whatever it stands for
            names = {**names, "enum": list(map(str, names["enum"]))}
        return found if names in ({"type": "string"}, {}) else {**found, "propertyNames": names}

    def _defined(self, node: Any) -> str:
        if id(node) not in self._names:
            cls = typing.get_origin(node.cls) or node.cls
            name = re.sub(r"\W", "_", cls.__name__)
            while name in self._definitions:
                name += "_"
            self._names[id(node)] = name
            self._definitions[name] = {}  # its place in the order
            self._definitions[name] = self._class(node, cls)
        return self._names[id(node)]

    def _class(self, node: Any, cls: type) -> _Described:
        omits = isinstance(node, mi.StructType) and cast(Any, cls).__struct_config__.omit_defaults
        hints = typing.get_type_hints(cls)
        # What `__init__` does not take may stay the class's own, and an object's own alone are written.
        unmade = {each.name for each in getattr(cls, "__dataclass_fields__", {}).values() if not each.init}
        fields: dict[str, _Described] = {}
        required: list[str] = []
        if tag := getattr(node, "tag_field", None):
            fields[tag] = {"enum": [node.tag]}
            required.append(tag)
        for field in node.fields:
            fields[field.encode_name] = {**self.schema(field.type), **_default(field)}
            there = field.required
            if self._always and not isinstance(node, mi.TypedDictType):
                unset = msgspec.UnsetType in typing.get_args(hints.get(field.name))
                there = not unset and (field.required or not omits) and field.name not in unmade
            if there:
                required.append(field.encode_name)
        about = {"title": cls.__name__, **_documentation(cls)}
        closed = bool(getattr(node, "forbid_unknown_fields", False))
        if getattr(node, "array_like", isinstance(node, mi.NamedTupleType)):
            closed = closed or isinstance(node, mi.NamedTupleType)
            return {**about, **_tuple(list(fields.values()), len(required), closed=closed)}
        found = {**about, "type": "object", "properties": fields, "required": required}
        return {**found, "additionalProperties": False} if closed else found


def _plain(node: mi.Type) -> _Described:
    """Of a type that no other is in."""
    for kind, described in _TEXTS.items():
        if isinstance(node, kind):
            return {"type": "string", **described}
    match node:
        case mi.NoneType():
            return {"type": "null"}
        case mi.BoolType():
            return {"type": "boolean"}
        case mi.IntType() | mi.FloatType():
            bounds = {word: getattr(node, name) for name, word in _NUMBERS.items()}
            return _set({"type": "integer" if isinstance(node, mi.IntType) else "number", **bounds})
        case mi.StrType():
            return _set({"type": "string", **_sizes(node, "Length"), "pattern": node.pattern})
        case mi.DateTimeType() | mi.TimeType():
            form = "date-time" if isinstance(node, mi.DateTimeType) else "time"
            return {"type": "string", "format": form, **OFFSETS[node.tz]}
        case mi.BytesType() | mi.ByteArrayType() | mi.MemoryViewType():
            sizes = {word: 4 * ((size + 2) // 3) for word, size in _sizes(node, "Length").items()}
            return {"type": "string", "contentEncoding": "base64", **sizes}
        case mi.CustomType() if node.cls is not object:  # some of what JSON has are objects of it
            return {"x-ensue-class": f"{node.cls.__module__}:{node.cls.__qualname__}"}
    return {}


def _tuple(items: list[_Described], least: int, *, closed: bool) -> _Described:
    found: _Described = {"type": "array", "prefixItems": items, "minItems": least}
    return {**found, "maxItems": len(items), "items": False} if closed else found


def _sizes(node: Any, noun: str) -> _Described:
    return _set({f"min{noun}": node.min_length, f"max{noun}": node.max_length})


def _default(field: mi.Field) -> _Described:
    value = field.default
    if field.default_factory in (list, dict, set, tuple):
        value = cast(Any, field.default_factory)()
    if value is msgspec.NODEFAULT or value is msgspec.UNSET:
        return {}
    return {"default": msgspec.to_builtins(value)}


def _documentation(cls: type) -> _Described:
    said = cls.__dict__.get("__doc__") or ""
    own = not said.startswith(f"{cls.__name__}(")  # which `dataclass` writes itself
    return {"description": inspect.cleandoc(said)} if said and own else {}


def _set(described: _Described) -> _Described:
    return {name: value for name, value in described.items() if value is not None}
