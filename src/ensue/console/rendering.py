"""Pages from templates. Whatever a stranger has sent is shown as text: no markup, no control characters, no marks that
turn the direction of what follows, and no more of it than a page can bear."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from ensue.operations.letters import LetterLine, short_reason
from ensue.texts import plain
from ensue.views.ready import Obstacle, lines

#: Characters of one text in a page. What is longer is cut, and says so.
TEXT_CHARS_MAX = 20_000
#: What JSON may hold as it is, and a browser shows as nothing, or as another order of what follows.
_UNSEEN = re.compile("[\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400


def printable(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    r"""Return the text with its line breaks, and all else that cannot be seen as escapes; cut where it is too long.

    >>> print(printable("a\nb\x00\u202e"), printable("abcdef", 3))
    a
    b\x00\u202e abc… (3 more characters)
    """
    more = len(text) - chars_max
    shown = "\n".join(map(plain, text[:chars_max].split("\n")))
    return f"{shown}… ({more} more characters)" if more > 0 else shown


def as_json(value: Any) -> str:
    """What a person reads of JSON: set in, and what cannot be seen as JSON's own escapes, so that it can be copied."""
    written = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    return _UNSEEN.sub(lambda found: json.dumps(found[0])[1:-1], written)


def link(path: str, **parameters: object) -> str:
    """A path with a query, in which nothing has a meaning of its own.

    >>> link("/letter", service="till", id="sales/0:2&x")
    '/letter?service=till&id=sales/0%3A2%26x'
    """
    return f"{path}?{'&'.join(f'{name}={_quoted(value)}' for name, value in parameters.items() if value != '')}"


def _quoted(value: object) -> str:
    return quote(str(value), safe="/", errors="replace")


def _utc(seconds: float) -> datetime.datetime | None:
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):  # a stranger's time may lead out of the calendar
        return None


def _clock(seconds: float) -> str:
    at = _utc(seconds)
    return "unknown" if at is None else at.strftime("%Y-%m-%d %H:%M:%S UTC")


def _iso(seconds: float) -> str:
    at = _utc(seconds)
    return "" if at is None else at.strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """
    >>> span(4.26), span(75), span(7200), span(200_000)
    ('4.3 s', '1 min', '2 h', '2 d')
    """
    for unit_s, name in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "min")):
        if seconds >= unit_s:
            return f"{seconds / unit_s:.0f} {name}"
    return f"{seconds:.1f} s"


def _reason(letter: LetterLine) -> str:
    return short_reason(letter.error_type, letter.error)


def flow_id(headers: Mapping[str, Any]) -> str:
    """Of the flow that a message belongs to; what begins one has no other's id than its own."""
    return str(headers.get("correlationid") or headers.get("id") or "")


def _obstacles(found: Iterable[Obstacle]) -> str:
    return "; ".join(lines(found))


def _shown(value: Any) -> Any:
    """Each value on its way into a page."""
    if value is None:
        return ""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def _attribute(value: object) -> Markup:
    """Unchanged, for what a form gives back, or somebody goes on writing."""
    return escape(str(value))


class Rendering:
    """The templates, ready to be filled in."""

    def __init__(self) -> None:
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True, finalize=_shown, auto_reload=False,
        )  # fmt: skip
        environment.filters.update(
            clock=_clock, iso=_iso, span=span, short=printable, json=as_json, reason=_reason, attribute=_attribute,
            urlencode=_quoted, obstacles=_obstacles, flow_id=flow_id,
        )  # fmt: skip
        self._environment = environment

    def page(self, template: str, values: Mapping[str, Any]) -> str:
        return self._environment.get_template(f"{template}.html").render(values)
