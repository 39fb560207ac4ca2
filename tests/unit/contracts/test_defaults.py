"""The defaults of fields are the same in each process, and JSON, whichever library a class is of."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from math import inf, nan
from typing import Any

import msgspec
import pydantic
import pytest

from ensue import Event, as_event
from ensue.contracts.described import of_message, schemas_of
from ensue.contracts.files import write
from ensue.event import event_type

WORDS = frozenset({"north", "east", "south", "west", "up", "down"})


class Marks(msgspec.Struct, frozen=True):
    words: frozenset[str] = WORDS


class ByStruct(Event, topic="defaults", key="id"):
    id: str
    words: frozenset[str] = WORDS
    perhaps: frozenset[str] | None = WORDS
    pairs: tuple[frozenset[str], int] = (WORDS, 1)
    marks: Marks = Marks()
    mixed: frozenset[str | int | None] = frozenset({*WORDS, 1, 2, None})


@as_event(topic="defaults", key="id")
@dataclasses.dataclass(frozen=True)
class ByDataclass:
    id: str
    words: frozenset[str] = WORDS


class PydanticMarks(pydantic.BaseModel):
    words: frozenset[str] = WORDS


@as_event(topic="defaults", key="id")
class ByPydantic(pydantic.BaseModel):
    id: str
    words: set[str] = set(WORDS)
    perhaps: frozenset[str] | None = WORDS
    named: dict[str, frozenset[str]] = {"all": WORDS}
    marks: PydanticMarks = PydanticMarks()


ALL = {cls.__name__: cls for cls in (ByStruct, ByDataclass, ByPydantic)}


@pytest.mark.parametrize("name", ALL)
def test_the_bytes_are_those_of_each_other_process(name: str) -> None:
    """Texts hash by a seed that each process has of its own, and a set has the order of its hashes."""
    own = written(name)
    program = f"import sys, {__name__} as here; sys.stdout.buffer.write(here.written({name!r}))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
        assert ended.stdout == own, f"with PYTHONHASHSEED={seed}"


def written(name: str) -> bytes:
    return write(of_message(event_type(ALL[name])))


def test_a_default_keeps_all_that_is_in_it() -> None:
    fields = schemas_of(ByStruct)[0]["properties"]
    assert fields["words"]["default"] == sorted(WORDS)
    assert fields["pairs"]["default"] == [sorted(WORDS), 1]
    assert fields["marks"]["default"] == {"words": sorted(WORDS)}


class NumbersOfStruct(msgspec.Struct):
    most: float = inf
    least: float | None = -inf
    mean: float = nan
    limits: tuple[float, ...] = (0.0, inf)
    half: float = 0.5
    none: float | None = None
    listed: list[int] = msgspec.field(default_factory=list)


class NumbersOfPydantic(pydantic.BaseModel):
    most: float = inf
    least: float | None = -inf
    mean: float = nan
    half: float = 0.5
    none: float | None = None
    listed: list[int] = []


@pytest.mark.parametrize("cls", [NumbersOfStruct, NumbersOfPydantic])
def test_a_default_that_json_has_no_word_for_is_left_out(cls: type) -> None:
    for schema in schemas_of(cls):
        json.dumps(schema, allow_nan=False)
        fields: dict[str, Any] = schema["properties"]
        told = {name: field["default"] for name, field in fields.items() if "default" in field}
        assert told == {"half": 0.5, "none": None, "listed": []}
    assert schemas_of(cls)[0].get("required", []) == [], "and each of them may still be left out"
