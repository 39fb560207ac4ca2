"""Whether a version of a view can be made out of the rows of another one, instead of the log. Pure rules.

Rows and checkpoint of the other version are of one state of its database, so the new one goes on from there exactly, if
it reads no more than the other one did.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from typing import Any

from ensue.errors import UsageError
from ensue.message import Checkpoint
from ensue.views.ready import Where
from ensue.views.states import ViewRow


@dataclasses.dataclass(frozen=True, slots=True)
class Seeding:
    """function: is given a session in which the other version is read, and yields this version's rows."""

    from_version: int
    function: Callable[[Any], AsyncIterator[Any]]
    name: str


def check_from(row: ViewRow, version: int, from_version: int) -> None:
    """Raise UsageError unless the other version is there, and goes on."""
    if from_version not in (row.active, row.previous):
        there = ", ".join(str(each) for each in (row.active, row.previous) if each)
        raise UsageError(
            f"view {row.name}: version {version} is to be seeded from version {from_version}, which is not fed; "
            f"there is {there}: name that one, or leave @{row.name}.seed out, and it is built from the log",
            view=row.name,
            version=version,
        )


def check_seedable(
    name: str,
    from_version: int,
    found: Mapping[Where, Checkpoint],
    wanted: Mapping[str, Collection[str]],
    partitions: int,
) -> None:
    """Raise UsageError when what version `from_version` has read is not what the new one, too, is to have read.

    name: of the new version. found: the checkpoints of the other one. wanted: by topic, the event types that the new
    one handles.
    """
    where = f"view {name} cannot be seeded from version {from_version}"
    instead = f"Have version {from_version} handle it first, or leave the seed out, and it is built from the log"
    for topic, kinds in sorted(wanted.items()):
        read = {number: found[topic, number] for each, number in found if each == topic}
        if not read:
            raise UsageError(f"{where}, which has read nothing of topic {topic}. {instead}", topic=topic)
        if max(read) >= partitions:
            raise UsageError(
                f"{where}: that has read {topic}/{max(read)}, and topics have {partitions} partitions here: is "
                "ENSUE_PARTITIONS another one?",
                topic=topic,
            )
        for number, checkpoint in sorted(read.items()):
            if checkpoint.catching_up is not None:
                raise UsageError(
                    f"{where} now: {topic}/{number} is being read again there for handlers that came later, and until "
                    "that is done its rows are of no one position: try again then",
                    topic=topic,
                )
            lacking = sorted(set(kinds) - set(checkpoint.types)) if checkpoint.types is not None else []
            if lacking:
                raise UsageError(
                    f"{where}, which does not handle {', '.join(lacking)}: its rows have nothing of that. {instead}",
                    topic=topic,
                )
