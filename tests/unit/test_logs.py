"""Log lines as JSON, which say what message they are about, wherever they are logged in its handler."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import ensue.testing
from ensue import Event, Message, Origin, Retry, Saga, Service, Step, UsageError, coming_from
from ensue.logs import JsonLines, about, configure, for_structlog
from ensue.texts import logger

log = logging.getLogger("tests.logs")
Lines = Callable[[], list[dict[str, Any]]]


class Spoken(Event, topic="spoken", key="who"):
    who: str


class TalkBase(DeclarativeBase):
    pass


class Talker(TalkBase):
    __tablename__ = "talkers"
    who: Mapped[str] = mapped_column(primary_key=True)


@pytest.fixture
def lines() -> Iterator[Lines]:
    """What was logged by `log`, as JSON."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonLines())
    log.addHandler(handler)
    log.setLevel("INFO")
    yield lambda: [json.loads(line) for line in written.getvalue().splitlines()]
    log.removeHandler(handler)


def expected(message: Message) -> dict[str, Any]:
    return {
        "correlation_id": message.correlation_id, "message_id": message.id, "topic": "spoken",
        "partition": message.partition, "position": message.position,
    }  # fmt: skip


def about_of(line: dict[str, Any]) -> dict[str, Any]:
    return {
        name: line[name] for name in ("correlation_id", "message_id", "topic", "partition", "position") if name in line
    }


async def test_whatever_a_handler_logs_says_which_message_it_is_about(lines: Lines) -> None:
    """In a thread, on the event loop behind an await, and as an entity step; each message of a batch its own."""
    service = Service("talk", tables=TalkBase.metadata)

    @service.on
    def in_a_thread(event: Spoken) -> None:
        log.info("thread")

    @service.on
    async def on_the_loop(event: Spoken) -> None:
        await asyncio.sleep(0)
        log.info("loop")

    @service.on
    def with_an_entity(talker: Talker | None, event: Spoken) -> Talker:
        log.info("entity")
        return talker or Talker(who=event.who)

    async with ensue.testing.run(service, partitions=1) as world:
        with coming_from(Origin("flow-7")):
            async with service.step() as step:
                for who in "ab":
                    step.publish(Spoken(who=who))
        await world.settle()
        messages = await world.messages("spoken")
        assert about() == {}
        log.info("outside")
    found = lines()
    assert [each["message"] for each in found] == ["thread", "loop", "entity"] * 2 + ["outside"]
    assert [about_of(each) for each in found] == [expected(each) for each in messages for _ in range(3)] + [{}]
    assert {each.correlation_id for each in messages} == {"flow-7"}


async def test_entity_steps_that_share_a_load_say_each_their_own_message(lines: Lines) -> None:
    service = Service("talk", tables=TalkBase.metadata)

    @service.on
    def with_an_entity(talker: Talker | None, event: Spoken) -> Talker:
        log.info(event.who)
        return talker or Talker(who=event.who)

    async with ensue.testing.run(service, partitions=1) as world:
        async with service.step() as step:
            for who in "abc":
                step.publish(Spoken(who=who))
        await world.settle()
        messages = await world.messages("spoken")
    assert [about_of(each) for each in lines()] == [expected(each) for each in messages]


async def test_a_retry_says_its_message_and_a_saga_what_woke_it(lines: Lines) -> None:
    service = Service("talk", retry=Retry(attempts_max=2))

    @service.local
    def say(who: str) -> None:
        log.info("local")

    @service.saga
    async def speech(saga: Saga, new: Spoken) -> None:
        await saga.local(say, new.who, undo=None)

    @service.on
    async def fail_once(event: Spoken, step: Step) -> None:
        log.info("attempt")
        if len(lines()) == 1:
            raise ValueError("not yet")
        step.start(speech, event, id=event.who)

    async with ensue.testing.run(service, partitions=1) as world:
        async with service.step() as step:
            step.publish(Spoken(who="a"))
        await world.settle()
        [message] = await world.messages("spoken")
    first, second, local = lines()
    assert (first["message"], second["message"], local["message"]) == ("attempt", "attempt", "local")
    assert about_of(first) == about_of(second) == expected(message)
    assert (local["correlation_id"], local["topic"]) == (message.correlation_id, "talk.replies")


async def test_what_ensue_says_of_a_failure_is_about_its_message(lines: Lines) -> None:
    """One looks for all lines of an order by its correlation id, and for those most of all."""
    service = Service("talk", retry=Retry(attempts_max=2, first_delay_s=0.01))

    @service.outside
    async def call(who: str) -> None:
        log.info("outside")
        if len([each for each in lines() if each["message"] == "outside"]) == 1:
            raise ValueError("no answer")

    @service.saga
    async def speech(saga: Saga, new: Spoken) -> None:
        await saga.outside(call, new.who, undo=None, attempts=2)
        raise RuntimeError("a mistake in the saga")

    @service.on
    def fail(event: Spoken, step: Step) -> None:
        step.start(speech, event, id=event.who)

    other = Service("other", retry=Retry(attempts_max=2, first_delay_s=0.01), publishes=[])

    @other.on
    def fail_always(event: Spoken) -> None:
        raise ValueError("never")

    [ours] = log.handlers
    for name in ("ensue.consumer", "ensue.sagas"):
        logging.getLogger(name).addHandler(ours)
    try:
        async with ensue.testing.run(service, other, partitions=1) as world:
            with coming_from(Origin("flow-7")):
                async with service.step() as step:
                    step.publish(Spoken(who="a"))
            await world.settle()
            await world.advance(seconds=5)
            await world.settle()
            [message] = await world.messages("spoken")
    finally:
        for name in ("ensue.consumer", "ensue.sagas"):
            logging.getLogger(name).removeHandler(ours)
    of_handler = [about_of(each) for each in lines() if each["logger"] == "ensue.consumer"]
    assert of_handler == [expected(message), expected(message)]
    of_saga = [(each["level"], each.get("correlation_id")) for each in lines() if each["logger"] != "ensue.consumer"]
    assert of_saga == [(level, "flow-7") for level in ("info", "warning", "info", "error")]


async def test_what_is_logged_in_a_request_has_its_correlation_id(lines: Lines) -> None:
    with coming_from(Origin("flow-9")):
        log.info("in a request")
    assert about_of(lines()[0]) == {"correlation_id": "flow-9"}


def test_a_line_has_time_level_error_and_what_was_given_as_extra(lines: Lines) -> None:
    try:
        raise LookupError("no such pipe")
    except LookupError:
        log.exception("pipe %s leaks", "a", extra={"pipe": "a", "where": object})
    [line] = lines()
    assert (line["message"], line["level"], line["logger"]) == ("pipe a leaks", "error", "tests.logs")
    assert line["time"].endswith("Z")
    assert (line["pipe"], line["error_type"]) == ("a", "LookupError")
    assert line["error"].endswith("LookupError: no such pipe")


def test_a_line_is_one_line_whatever_a_stranger_has_sent(lines: Lines) -> None:
    log.info("%s", "a\nb\x1b[2J\u2028\u202e")
    [line] = lines()
    assert line["message"] == "a\nb\x1b[2J\u2028\u202e"


def test_an_error_that_our_own_loggers_have_made_plain_stays_so(lines: Lines) -> None:
    ours = logger("tests.logs")
    try:
        try:
            raise ValueError("first\nforged")
        except ValueError as error:
            ours.error("it failed", exc_info=error)
    finally:
        log.filters.clear()
    assert "first\\nforged" in lines()[0]["error"]


def test_a_processor_of_structlog_says_what_a_line_is_about_and_no_values() -> None:
    """As structlog's ProcessorFormatter calls it, with the record of a line that is not structlog's own."""
    caught: list[logging.LogRecord] = []

    class Catch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            caught.append(record)

    ours, catch, values = logger("tests.structlog"), Catch(), {"mail": "ada@example.org"}
    ours.addHandler(catch)
    try:
        raise IntegrityError("INSERT", values, Exception("duplicate"))
    except IntegrityError:
        ours.exception("not kept")
    finally:
        ours.removeHandler(catch)
    [record] = caught
    with coming_from(Origin("flow-9")):
        own = for_structlog(None, "info", {"event": "sold", "seat": "C7", "correlation_id": "mine"})
        foreign = for_structlog(None, "error", {"event": "not kept", "_record": record, "exc_info": record.exc_info})
        again = for_structlog(None, "error", dict(foreign))
    assert own == {"event": "sold", "seat": "C7", "correlation_id": "flow-9", "extra_correlation_id": "mine"}
    assert foreign.keys() == {"event", "_record", "exception", "correlation_id"}
    assert "IntegrityError" in foreign["exception"]
    assert "ada@" not in foreign["exception"]
    assert again == foreign
    assert for_structlog(None, "info", {"event": "nothing at hand"}) == {"event": "nothing at hand"}


def test_a_format_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="expected one of text, json"):
        configure(format="xml")
    monkeypatch.setenv("ENSUE_LOG_FORMAT", "xml")
    with pytest.raises(UsageError, match="ENSUE_LOG_FORMAT is 'xml', expected text or json"):
        configure()


def test_an_application_that_has_set_logging_up_is_left_alone() -> None:
    """As pytest has."""
    assert configure(format="json") is False


@pytest.mark.parametrize("level", [None, "warning"])
def test_what_opentelemetry_exports_is_shown_here_all_the_same(
    level: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`opentelemetry-instrument` adds a handler to the root logger before the application runs. Its lines go elsewhere,
    or nowhere, and what Python shows where there is no handler is not shown then."""

    class LoggingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None: ...

    LoggingHandler.__module__ = "opentelemetry.instrumentation.logging.handler"
    root, ours, exports = logging.getLogger(), logging.getLogger("ensue"), LoggingHandler()
    for each, handlers in ((root, [exports]), (ours, [])):
        monkeypatch.setattr(each, "handlers", handlers)
        monkeypatch.setattr(each, "level", each.level)
    try:
        assert configure(level)
        logger("ensue.run").warning("the broker is away")
        assert configure(level) is False  # and shows each line once
    finally:
        root.manager._clear_cache()  # type: ignore[attr-defined]  # of levels, which are put back past it
    assert capsys.readouterr().err.count("the broker is away") == 1
    assert root.handlers[0] is exports
    assert len(root.handlers + ours.handlers) == 2


class _Mute:
    def __str__(self) -> str:
        raise ValueError("nothing to say")


def test_an_extra_by_the_name_of_what_a_line_has_is_kept_beside_that(lines: Lines) -> None:
    log.info("full", extra={"level": 7, "time": "noon", "error": "none"}, stack_info=True)
    [line] = lines()
    assert (line["level"], line["extra_level"], line["extra_time"], line["error"]) == ("info", 7, "noon", "none")


@pytest.mark.parametrize("extra", [{(1, 2): 3}, _Mute(), float("nan"), {"a": float("inf")}])
def test_whatever_is_given_as_extra_the_line_is_one_of_json(extra: object, lines: Lines) -> None:
    log.info("totals", extra={"totals": extra, "shop": "one"})
    [line] = lines()
    assert (line["message"], line["shop"]) == ("totals", "one")
    assert isinstance(line["totals"], str)
