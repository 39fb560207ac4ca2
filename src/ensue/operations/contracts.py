"""What services write and read now, against committed schemas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ensue.app import Service
from ensue.contracts.changes import Change, changes
from ensue.contracts.contract import contract_of
from ensue.contracts.files import Committed, file_name, read
from ensue.errors import UsageError


def read_committed(directory: Path, said_by: str) -> dict[str, Committed]:
    """The committed schemas, by name. said_by: the option or argument that says where they are.

    Raises UsageError when there is no such directory, or a file in it is none of Ensue's.
    """
    try:
        paths = sorted(directory.glob("*.json")) if directory.is_dir() else None
        found = [read(path.read_bytes(), str(path)) for path in paths or ()]
    except OSError as error:
        raise UsageError(f"{error.filename or directory} cannot be read: {error.strerror}") from error
    if paths is None:
        raise UsageError(
            f"there is no directory {directory}: write the schemas with `ensue schemas export ... --to {directory}` "
            f"and commit them, or say where they are with {said_by}"
        )
    for each, path in zip(found, paths, strict=True):
        if path.name != file_name(each.name):
            raise UsageError(f"{path} holds the schema of {each.name}: that belongs in {file_name(each.name)}")
    return {each.name: each for each in found}


def report(services: Sequence[Service], committed: Mapping[str, Committed]) -> list[Change]:
    """What is different from the committed schemas, and whom of these services it breaks."""
    return changes(committed, [contract_of(each) for each in services])
