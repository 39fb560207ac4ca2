"""Links to the traces of a flow, in whatever shows traces: a template of its address."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from ensue.errors import UsageError

PLACE: Final = "{trace_id}"
#: W3C Trace Context: version, trace id, parent id, flags. A trace id of zeros alone is none.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
#: Traces of one flow that are named.
_NAMED_MAX = 20


def checked_trace_url(template: str) -> str:
    """Raises UsageError for what could not be a link to a trace; empty: there are no links.

    >>> checked_trace_url("https://traces.example/trace/{trace_id}")
    'https://traces.example/trace/{trace_id}'
    """
    if not template:
        return ""
    expected = f"expected such as https://traces.example/trace/{PLACE}"
    try:
        parts = urlsplit(template)
    except ValueError as error:
        raise UsageError(f"trace_url={template!r:.200} is no address ({error}), {expected}") from error
    if "@" in parts.netloc:  # not told again: it may hold a password
        raise UsageError(f"trace_url names a user, whom everybody would see: {expected}")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UsageError(f"trace_url={template!r:.200} is no address of http or https, {expected}")
    if PLACE not in template:
        raise UsageError(f"trace_url={template!r:.200} does not say where the trace's id goes: {expected}")
    return template


def traces(template: str, traceparents: Iterable[str]) -> list[tuple[str, str]]:
    """Id and address of each trace, in order; without a template, and of what is no traceparent, none.

    >>> traces("https://t/{trace_id}", ["00-" + "ab" * 16 + "-" + "01" * 8 + "-01", "javascript:alert(1)"])
    [('abababababababababababababababab', 'https://t/abababababababababababababababab')]
    """
    found = (_TRACEPARENT.fullmatch(each) for each in traceparents if template)
    ids = dict.fromkeys(each[1] for each in found if each is not None)
    return [(each, template.replace(PLACE, each)) for each in list(ids)[:_NAMED_MAX]]
