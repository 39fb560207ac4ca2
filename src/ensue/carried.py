"""What every broker and database carries of a message besides its data: keys, extensions, and how large it may be."""

from __future__ import annotations

from collections.abc import Mapping

from ensue.codec import ATTRIBUTE_BYTES_MAX, EXTENSION_NAME_CHARS_MAX, EXTENSIONS_MAX, KEY_BYTES_MAX, RESERVED
from ensue.errors import EventRefused, EventTooLarge, UsageError


def checked_key(event: str, key: str) -> int:
    """Return the bytes of a key in UTF-8. Raises EventRefused for one that not every broker and database takes."""
    if len(key) <= KEY_BYTES_MAX and key.isascii() and "\0" not in key:
        return len(key)  # the usual case
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        raise _refused(event, key, "key", "text that UTF-8 can carry", "a lone surrogate") from None
    if size > KEY_BYTES_MAX:
        raise _refused(event, key, "key", f"at most {KEY_BYTES_MAX} bytes of UTF-8", f"{size} bytes")
    if "\0" in key:
        raise _refused(event, key, "key", "text without NUL characters", "a NUL character")
    return size


def _refused(event: str, key: str, what: str, expected: str, found: str) -> EventRefused:
    return EventRefused(
        f"{event} with key {key[:60]!a} cannot be published: its {what} is {found}, expected {expected}. Check what "
        "comes from outside before it becomes part of an event",
        type=event,
        what=what,
        key=key[:60],
        expected=expected,
        found=found,
    )


def too_large(event: str, key: str, what: str, expected: int, found: int, todo: str) -> EventTooLarge:
    return EventTooLarge(
        f"{event} with key {key[:60]!a} cannot be published: {what} has {found} bytes, expected at most {expected}: "
        f"{todo}",
        type=event,
        what=what,
        key=key[:60],
        expected=expected,
        found=found,
    )


def checked_extensions(event: str, key: str, extensions: Mapping[str, str]) -> dict[str, str] | None:
    """Return those that are not empty, by name. Raises UsageError for what is none, or not carried everywhere."""
    if len(extensions) > EXTENSIONS_MAX:
        raise UsageError(f"{event} has {len(extensions)} extensions, expected at most {EXTENSIONS_MAX}")
    for name, value in extensions.items():
        taken = name in RESERVED or name.startswith("ensue")
        if not (name.isascii() and name.isalnum() and name == name.lower()) or taken:
            raise UsageError(
                f"extension {name!r}: CloudEvents attributes have names of lower-case letters and digits, and those "
                f"of CloudEvents and Ensue themselves are taken ({', '.join(sorted(RESERVED))}, and all in ensue...)"
            )
        if not isinstance(value, str):
            raise UsageError(f"extension {name!r} is a {type(value).__name__}, expected a str")
        if len(name) > EXTENSION_NAME_CHARS_MAX:
            raise UsageError(
                f"extension {name[:40]!r}... has a name of {len(name)} characters, "
                f"expected at most {EXTENSION_NAME_CHARS_MAX}"
            )
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise _refused(event, key, f"extension {name}", "text that UTF-8 can carry", "a lone surrogate") from None
        if size > ATTRIBUTE_BYTES_MAX:
            raise too_large(event, key, f"extension {name}", ATTRIBUTE_BYTES_MAX, size, "carry it in the data")
        if "\0" in value:
            raise _refused(event, key, f"extension {name}", "text without NUL characters", "a NUL character")
    return {name: value for name, value in sorted(extensions.items()) if value} or None  # as `seal` wants them
