"""The first message of an answer, in the form that ASGI asks for, whatever the application has made of it."""

from __future__ import annotations

from starlette.types import Message


def with_plain_headers(start: Message) -> Message:
    """The same start, with a list of headers whose names are in lower case.

    ASGI says "lower-cased", and "iterable": Django sends names as they were written, and a generator can be read once.
    What compares names, here and in Starlette, would miss the first, and what reads twice the second.
    """
    return {**start, "headers": [(bytes(name).lower(), bytes(value)) for name, value in start.get("headers", ())]}
