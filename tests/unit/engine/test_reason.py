"""A failing handler leaves a place to look: in the log, and in the dead letter."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, field_validator
from sqlalchemy import String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from tests.unit.engine.workbench import Sender, bench, letters, until

import ensue.testing
from ensue import EngineConfig, Event, Retry, Service, Step
from ensue.adapters import make_store
from ensue.engine.reason import message_of, trace_of


class Weighed(Event, topic="weights", key="animal"):
    animal: str
    grams: int


def _look_up(animal: str) -> int:
    password = "hunter2"  # a value that must not be told
    known = {"cat": len(password)}
    return known[animal]


def _lines(caplog: pytest.LogCaptureFixture, *, level: int = logging.WARNING) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "ensue.consumer" and each.levelno >= level]


async def test_the_log_and_the_letter_name_the_handler_and_the_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("zoo")

    @service.on
    async def note(event: Weighed) -> None:
        pass

    @service.on
    async def compare(event: Weighed) -> None:
        _look_up(event.animal)

    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        await sender.send(Weighed(animal="cat", grams=1), Weighed(animal="emu", grams=2))
        await world.settle()
        [letter] = await letters(world, service)
    first, *more = letter.error.split("\n")
    assert first == "handler compare: 'emu'"
    assert re.fullmatch(r'  File ".*test_reason\.py", line \d+, in compare', more[0])
    assert more[1] == "    _look_up(event.animal)"
    assert more[2].endswith("in _look_up")
    assert more[3:] == ["    return known[animal]"]
    assert "hunter2" not in letter.error

    attempts = _lines(caplog)
    assert len(attempts) == 3
    for number, line in enumerate(attempts, 1):
        for part in (f"handler compare failed at attempt {number}: KeyError: 'emu'", "event weights.Weighed.v1",
                     "message id elsewhere/1-2", "key emu"):  # fmt: skip
            assert part in line
    assert ["in _look_up" in line for line in attempts] == [True, False, True]
    assert "\n" not in attempts[1]
    assert f"ensue dead-letters show MODULE:zoo {letter.id} " in attempts[2]
    assert [line for line in attempts if "/ensue/engine/" in line] == []


async def test_a_letter_that_is_dead_at_once_is_logged_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("zoo")

    @service.on
    async def note(event: Weighed) -> None:
        pass

    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        await sender.append(sender.raw(sender.record(Weighed(animal="emu", grams=2)), b'{"animal": "emu"}'))
        await world.settle()
        [letter] = await letters(world, service)
    assert not letter.error.startswith("handler")  # none has run
    assert "\n" not in letter.error
    [line] = _lines(caplog)
    assert f"ensue dead-letters show MODULE:zoo {letter.id} " in line
    assert letter.id == f"{letter.partition.place}:1"


@pytest.mark.parametrize("kind", ["function", "cancelled", "publishes"])
async def test_every_kind_of_handler_leads_to_its_own_line(kind: str, tmp_path: Path) -> None:
    service = Service("zoo", publishes=[])

    def function(event: Weighed) -> None:
        raise RuntimeError("told by function")

    async def cancelled(event: Weighed) -> None:
        raise asyncio.CancelledError("told by cancelled")

    async def publishes(event: Weighed, step: Step) -> None:
        step.publish(event)

    handlers: dict[str, Any] = {"function": function, "cancelled": cancelled, "publishes": publishes}
    service.on(handlers[kind])
    async with bench(tmp_path, service) as world:
        await Sender(world.broker).send(Weighed(animal="emu", grams=2))
        await world.settle()
        [letter] = await letters(world, service)
    assert letter.error.startswith(f"handler {kind}: ")
    places = [line for line in letter.error.split("\n") if line.startswith("  File ")]
    assert len(places) == 1
    assert re.search(rf"test_reason\.py\", line \d+, in {kind}$", places[0])


def _caught(fail: Any) -> Exception:
    try:
        fail()
    except Exception as error:
        return error
    raise AssertionError("it did not fail")


def test_the_cause_of_an_error_is_told_too() -> None:
    def wrap() -> None:
        try:
            _look_up("emu")
        except KeyError as error:
            raise RuntimeError("no such animal") from error

    lines = trace_of(_caught(wrap)).split("\n")
    assert "  caused by KeyError: 'emu'" in lines
    assert lines[-1] == "    return known[animal]"
    assert any(line.endswith("in wrap") for line in lines[: lines.index("  caused by KeyError: 'emu'")])


def test_however_deep_the_calls_the_trace_stays_short_and_keeps_both_ends() -> None:
    def deeper(left: int) -> None:
        if not left:
            raise RuntimeError("the bottom")
        deeper(left - 1)

    trace = trace_of(_caught(lambda: deeper(500)))
    assert len(trace) <= 2000
    assert "in _caught" in trace
    assert trace.endswith('raise RuntimeError("the bottom")')
    assert "calls ..." in trace


def test_long_lines_are_cut_to_the_limit() -> None:
    made: dict[str, Any] = {}
    name = "a" * 250
    source = "\n".join(f"def {name}{at}(): {name}{at + 1}()" for at in range(30)) + f"\ndef {name}30(): 1 / 0"
    exec(compile(source, "made", "exec"), made)
    trace = trace_of(_caught(made[f"{name}0"]))
    assert 1000 < len(trace) <= 2000
    assert "in _caught" in trace
    assert trace.split("\n")[-1].endswith(f"in {name}30")


def test_an_error_that_has_no_text_does_not_stop_the_telling() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no words")

    assert message_of(Mute()) == "<its text cannot be had: ValueError>"


async def test_the_log_says_truly_what_of_a_gap_is_known(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    service = Service("zoo")

    @service.on
    async def note(event: Weighed) -> None:
        pass

    async with bench(tmp_path, service) as world:
        sender = Sender(world.broker)
        records = [sender.record(Weighed(animal="emu", grams=each)) for each in (1, 2, 3)]
        await sender.append(records[0], records[2])
        await until(lambda: len(_lines(caplog)) == 1, world)
        [line] = _lines(caplog)
        assert "a gap in elsewhere/1 after position 1: " in line
        assert line.endswith("The last position known to exist is 3")
        await sender.append(sender.lost("weights", 1, 2))
        await until(lambda: len(_lines(caplog, level=logging.ERROR)) == 1, world)
    [lost] = _lines(caplog, level=logging.ERROR)
    assert "positions 2 to 2 of elsewhere/1" in lost
    assert lost.endswith("ensue gaps accept MODULE:zoo")


class Base(DeclarativeBase): ...


class Animal(Base):
    __tablename__ = "animals"
    name: Mapped[str] = mapped_column(String(40), primary_key=True)
    secret: Mapped[str] = mapped_column(String(40), unique=True)


class Measured(BaseModel):
    grams: int
    kind: Literal["cat"] = "cat"
    owner: str = "x"

    @field_validator("owner")
    @classmethod
    def known(cls, owner: str) -> str:
        if owner != "x":
            raise ValueError(f"who is {owner}?")
        return owner


SECRET = "hunter2@example.org"


def _measure() -> None:
    Measured.model_validate({"grams": SECRET, "kind": SECRET, "owner": SECRET})


def _measure_within() -> None:
    try:
        _measure()
    except ValueError as error:
        raise RuntimeError("cannot measure") from error


@pytest.mark.parametrize("shown", [False, True])
async def test_errors_of_databases_and_models_say_what_and_where_and_no_values(
    sql_database: str, shown: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service("zoo", tables=Base.metadata)

    @service.on
    async def note(event: Weighed, step: Step) -> None:
        if event.animal == "cat":
            _measure()
        if event.animal == "dog":
            _measure_within()
        step.session.add_all(Animal(name=f"{event.animal}{number}", secret=SECRET) for number in range(2))

    config = EngineConfig(show_values=shown, retry=Retry(attempts_max=1))
    async with ensue.testing.run(
        service, engine=config, make_store=lambda name: make_store(sql_database, name)
    ) as world:
        async with service.step() as step:
            for animal in ("cat", "dog", "emu"):
                step.publish(Weighed(animal=animal, grams=1))
        await world.settle()
        told = {each.key: each.error for each in await world.runtimes["zoo"].context.books.letters()}
    log = "\n".join(_lines(caplog))
    model, within, statement = told["cat"], told["dog"], told["emu"]
    assert (SECRET in log) == shown
    assert [SECRET in each for each in (model, statement)] == [shown] * 2
    assert SECRET not in within
    for each in ("grams", "kind", "owner"):
        assert each in model
    assert "valid integer" in model
    assert "INSERT INTO animals" in statement
    if not shown:
        assert "caused by ValidationError: grams: Input should be a valid integer" in within
        assert "owner: value_error" in model
        assert re.search("unique|duplicate", statement, re.IGNORECASE)
