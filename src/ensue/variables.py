"""What the environment says of a setting: the text of a variable, or of the file that `<NAME>_FILE` names.

Orchestrators mount secrets as files (Docker in /run/secrets, Kubernetes as volumes), because the environment of a
process is seen by whoever may look at the process. Nothing of such a file is ever in an error.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from ensue.errors import UsageError

#: Longer than any URL or list of keys; so that a path to something endless ends.
_FILE_BYTES_MAX = 1_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where a setting came from.

    variable: the one that has it, or that would have it where it came from code or is the default; empty: there is
    none. file: the path in that variable.
    """

    kind: Literal["argument", "environment", "file", "default"]
    variable: str = ""
    file: str = ""


def secret_of(env: Mapping[str, str], name: str) -> tuple[str, Source] | None:
    """Return the text of a setting that may hold a secret, from NAME or the file of NAME_FILE; None: neither is set.

    An empty variable counts as not set. The file has one line; spaces around it and the line break do not count.
    Raises UsageError when both are set, or the file cannot be read, is empty or has more lines.
    """
    text, path = env.get(name, ""), env.get(f"{name}_FILE", "")
    if text and path:
        raise UsageError(f"{name} and {name}_FILE are both set: leave one of them out")
    if path:
        lines = lines_of(f"{name}_FILE", path)
        if len(lines) != 1 or not lines[0].strip():
            found = "several lines" if len(lines) > 1 else "nothing in it"
            raise UsageError(f"{name}_FILE is {path}, which has {found}, expected one line: the value of {name}")
        return lines[0].strip(), Source("file", f"{name}_FILE", path)
    return (text, Source("environment", name)) if text else None


def lines_of(variable: str, path: str) -> list[str]:
    """Return the lines of a file that a variable names. Raises UsageError, without a word of it, if it has none."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{variable} is {path}, which cannot be read: {error.strerror}") from error
    if len(data) > _FILE_BYTES_MAX:
        raise UsageError(f"{variable} is {path}, which has more than {_FILE_BYTES_MAX:,} bytes: is that the file?")
    text = _decoded(data)
    if text is None:
        raise UsageError(f"{variable} is {path}, which is no text in UTF-8")
    return text.splitlines()


def _decoded(data: bytes) -> str | None:
    """None rather than the error, which holds the data."""
    try:
        return data.decode("utf-8-sig")  # an editor's mark at the beginning does not count
    except UnicodeDecodeError:
        return None
