"""Log lines that say which message they are about, as text or as JSON.

`ensue run` and a web process's `install` set this up, unless the application has set logging up; a script calls
`ensue.logs.configure()`. An application with a logging configuration of its own takes `JsonLines` for a formatter,
`about()` for a filter, or `for_structlog` for a processor.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final

from ensue.config import LOG_FORMATS, log_format
from ensue.errors import UsageError
from ensue.message import Message
from ensue.origin import current_origin
from ensue.texts import logger, said_by

#: The message whose handlers are at work in this context, or the correlation id alone; set by the engine.
at_hand: ContextVar[Message | str | None] = ContextVar("ensue_message", default=None)

_TEXT: Final = "%(asctime)s %(levelname)-7s %(process)d %(name)s: %(message)s"
#: What every record has; all else was given by whoever logged it, as `extra=`.
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def about() -> dict[str, str | int]:
    """What is logged now is about: correlation_id, message_id, topic, partition and position of the message whose
    handler runs, or has failed; the correlation id alone in a request, and in an outside function of a saga; else
    nothing. A message without a chain has no position."""
    message = at_hand.get()
    if isinstance(message, str):
        return {"correlation_id": message} if message else {}
    if message is None:
        origin = current_origin()
        return {"correlation_id": origin.correlation_id} if origin is not None and origin.correlation_id else {}
    found: dict[str, str | int] = {
        "correlation_id": message.correlation_id,
        "message_id": message.id,
        "topic": message.topic,
        "partition": message.partition,
    }
    if message.position:
        found["position"] = message.position
    return found


@contextmanager
def concerning(message: Message | None) -> Iterator[None]:
    """What is logged in this block is `about` this message; None: about nothing."""
    token = at_hand.set(message)
    try:
        yield
    finally:
        at_hand.reset(token)


class JsonLines(logging.Formatter):
    """Each record as one line of JSON: time (RFC 3339, UTC), level, logger, process, message, what it is `about`, the
    error with its stack if there is one, and what was given as `extra=`; under `extra_topic`, say, where the line has a
    topic of its own.

    It is made where the record is logged. Behind a QueueHandler, whose lines are made in another thread, what they are
    about is not known any more.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **about(),
        }
        if record.exc_info and record.exc_info[1] is not None:
            line["error_type"] = type(record.exc_info[1]).__qualname__
            line["error"] = record.exc_text or "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
        if record.stack_info:
            line["stack"] = record.stack_info
        known = frozenset(line)
        given = {name: value for name, value in record.__dict__.items() if name not in _USUAL}
        # Of two values for one name both are kept.
        line |= {f"extra_{name}" if name in line else name: value for name, value in given.items()}
        # All but ASCII as escapes: whatever a stranger has sent, a terminal that shows the line is not steered by it.
        try:
            return json.dumps(line, default=str, allow_nan=False)
        except Exception:  # whatever was given as extra=, the line itself is not lost
            extras = {name: said_by(value) for name, value in line.items() if name not in known}
            return json.dumps(line | extras, default=said_by)


def for_structlog(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor of structlog, for its `processors` and for `foreign_pre_chain` of its ProcessorFormatter.

    It adds what the line is `about`, and shows an error that Ensue logs as Ensue has written it, without the values of
    statements and models. What was given by the name of one of these is under `extra_topic`, say, as in `JsonLines`.
    """
    record = event.get("_record")
    if isinstance(record, logging.LogRecord) and record.exc_text and event.pop("exc_info", None):
        event["exception"] = record.exc_text
    for name, value in about().items():
        if name in event and event[name] != value:
            event[f"extra_{name}"] = event[name]
        event[name] = value
    return event


def choose_format(asked: str) -> None:
    """Of this process and those that it begins, which inherit it. Empty: as it is. Raises UsageError."""
    if asked and asked not in LOG_FORMATS:
        raise UsageError(f"--log-format is {asked!r}, expected one of {', '.join(LOG_FORMATS)}")
    if asked:
        os.environ["ENSUE_LOG_FORMAT"] = asked


def configure(level: str | None = "info", *, format: str = "") -> bool:
    """Log to standard error, all that is of this level or above, in the format of ENSUE_LOG_FORMAT unless told.

    level: of everything, for a process that is Ensue's own. None: the process is somebody else's, whose loggers are
    left alone: only Ensue's are shown, from INFO, or from the level that the application gave to `ensue`.
    Does nothing, and returns False, when the application has set logging up, all of it or `ensue`'s; that OpenTelemetry
    exports what is logged, as `opentelemetry-instrument` has it, shows nothing to anybody here. Raises UsageError for
    another format.
    """
    asked = format or log_format()
    if asked not in LOG_FORMATS:
        raise UsageError(f"configure(format={asked!r}): expected one of {', '.join(LOG_FORMATS)}")
    ours = logger("ensue")
    if _is_shown(ours):
        return False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if asked == "json" else logging.Formatter(_TEXT))
    if level is not None:
        logging.root.addHandler(handler)
        logging.root.setLevel(level.upper())
        return True
    ours.addHandler(handler)
    if ours.level == logging.NOTSET:
        ours.setLevel(logging.INFO)
    return True


def _is_shown(log: logging.Logger | None) -> bool:
    """As its `hasHandlers`, but for OpenTelemetry's, which goes beside whatever the application sets up."""
    while log is not None:
        if any(not type(each).__module__.startswith("opentelemetry.") for each in log.handlers):
            return True
        log = log.parent if log.propagate else None
    return False
