"""Pydantic models as events. Imported for an event class that is one: pydantic is an extra.

They are written by their aliases and without computed fields, since that is what their own validation reads. Warnings
of the serializer are left out: what they guess at is looked at, see `ensue.roundtrip`.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import pydantic
from pydantic.fields import FieldInfo

from ensue.formats import Format, unreadable
from ensue.roundtrip import never, surely

M = TypeVar("M", bound=pydantic.BaseModel)

#: What a model's configuration may say without a change of any value on the way.
_HARMLESS = frozenset(
    {
        "alias_generator", "arbitrary_types_allowed", "defer_build", "extra", "from_attributes", "frozen",
        "json_schema_extra", "populate_by_name", "protected_namespaces", "serialize_by_alias", "title",
        "use_attribute_docstrings", "validate_assignment", "validate_by_alias", "validate_by_name", "validate_default",
    }
)  # fmt: skip
#: Methods by which a model may take its reading and writing into its own hands.
_REPLACED = frozenset({"__get_pydantic_core_schema__", "model_dump_json", "model_validate_json"})
_SECRETS = (pydantic.SecretStr, pydantic.SecretBytes, pydantic.Secret)


def of_pydantic(cls: type[M]) -> Format[M]:
    """The format of a pydantic 2 model."""

    def encode(event: M) -> bytes:
        return event.model_dump_json(by_alias=True, round_trip=True, warnings=False).encode()

    def encode_field(event: M, name: str) -> object:
        return event.model_dump_json(include={name}, by_alias=True, round_trip=True, warnings=False)

    def decoder() -> Callable[[bytes], M]:
        check()
        return cls.model_validate_json

    def check() -> None:
        if not cls.__pydantic_complete__ and not cls.model_rebuild(raise_errors=False):
            raise NameError(f"a field of {cls.__qualname__} names a class that is not there")
        for model in _models(cls):
            _check(cls, model)

    return Format(encode, decoder, encode_field, lambda: _sure(cls), check)


def _check(event: type, model: type[pydantic.BaseModel]) -> None:
    """Refuse fields that are written in a way that is not read, unless code of the user's own may put that right."""
    decorators = model.__pydantic_decorators__
    if decorators.model_serializers or any(
        each.info.mode in ("before", "wrap") for each in decorators.model_validators.values()
    ):
        return
    serialized = {name for each in decorators.field_serializers.values() for name in each.info.fields}
    if "json_encoders" in model.model_config:
        serialized.add("*")
    for name, field in model.model_fields.items():
        where = f"field {model.__qualname__}.{name}"
        if field.exclude:
            raise unreadable(
                event, where, "has exclude=True: it is not written", "leave the field out, or let it be written"
            )
        if serialized.isdisjoint((name, "*")) and _holds_secret(field):
            raise unreadable(
                event, where, "is a secret: it is written as asterisks",
                "declare it as str or bytes (events are stored and sent as they are), or publish a reference to it",
            )  # fmt: skip
        written, read = field.serialization_alias or name, _read_names(name, field, model.model_config)
        if written not in read:
            raise unreadable(
                event, where, f"is written as {written!r} and read as {' or '.join(map(repr, read)) or 'nothing'}",
                f'write Field(alias="{written}"), which means both, or give validation_alias and serialization_alias '
                "one name",
            )  # fmt: skip


def _read_names(name: str, field: FieldInfo, config: pydantic.ConfigDict) -> list[str]:
    alias = field.validation_alias
    if alias is None:
        return [name]
    found: list[str] = []
    if config.get("validate_by_alias", True):
        choices = alias.choices if isinstance(alias, pydantic.AliasChoices) else [alias]
        for each in choices:
            if isinstance(each, str):
                found.append(each)
            elif isinstance(each, pydantic.AliasPath) and len(each.path) == 1:
                found.append(str(each.path[0]))
    if config.get("populate_by_name") or config.get("validate_by_name"):
        found.append(name)
    return found


def _models(cls: type[pydantic.BaseModel]) -> Iterator[type[pydantic.BaseModel]]:
    """The model and those in its fields."""
    seen: set[type] = {cls}
    left = [cls]
    while left:
        model = left.pop()
        yield model
        for field in model.model_fields.values():
            for kind in _classes(field.annotation):
                if issubclass(kind, pydantic.BaseModel) and kind not in seen:
                    seen.add(kind)
                    left.append(kind)


def _classes(hint: Any) -> Iterator[type]:
    """The classes in a type hint, but for those that are written by something else (PlainSerializer and the like)."""
    if typing.get_origin(hint) is typing.Annotated and _has_own_schema(hint.__metadata__):
        return
    kind = typing.get_origin(hint) or hint
    if isinstance(kind, type):
        yield kind
    for each in typing.get_args(hint):
        yield from _classes(each)


def _has_own_schema(metadata: Iterable[Any]) -> bool:
    return any(hasattr(each, "__get_pydantic_core_schema__") for each in metadata)


def _holds_secret(field: FieldInfo) -> bool:
    return not _has_own_schema(field.metadata) and any(
        issubclass(each, _SECRETS) for each in _classes(field.annotation)
    )


def _sure(cls: type[pydantic.BaseModel]) -> Callable[[Any], bool]:
    decorators = cls.__pydantic_decorators__
    fields = cls.model_fields
    own_code = (
        decorators.validators, decorators.field_validators, decorators.root_validators, decorators.model_validators,
        decorators.field_serializers, decorators.model_serializers, cls.__private_attributes__,
        cls.__pydantic_post_init__, cls.__pydantic_custom_init__, cls.__pydantic_root_model__,
        any(not _REPLACED.isdisjoint(vars(each)) for each in cls.__mro__ if each is not pydantic.BaseModel),
        not _HARMLESS.issuperset(cls.model_config), cls.model_config.get("extra") == "allow",
        any(each.metadata or getattr(each, "exclude_if", None) for each in fields.values()),
    )  # fmt: skip
    if any(own_code):
        return never
    return surely({name: each.annotation for name, each in fields.items()})
