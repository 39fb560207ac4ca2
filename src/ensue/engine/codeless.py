"""Sagas for which a process has no code, and those that wait for a person, in words."""

from __future__ import annotations

from collections.abc import Mapping

from ensue.definition import ServiceDefinition
from ensue.saga.instance import Status

#: How many sagas have not ended, by name, version and status.
Groups = Mapping[tuple[str, int, Status], int]


def codeless(definition: ServiceDefinition, groups: Groups) -> dict[tuple[str, int], int]:
    """How many sagas wait for code that this process does not have, by name and version."""
    found: dict[tuple[str, int], int] = {}
    for (name, version, _), count in sorted(groups.items()):
        if (name, version) not in definition.sagas:
            found[name, version] = found.get((name, version), 0) + count
    return found


def said_of(definition: ServiceDefinition, groups: Groups) -> list[str]:
    """What is worth a look.

    >>> said_of(ServiceDefinition("orders"), {("place", 1, Status.PARKED): 2, ("place", 1, Status.RUNNING): 11})
    ['13 sagas of place v1, no code', '2 sagas of place v1 are parked']
    """
    return [
        *(
            f"{_sagas(count)} of {name} v{version}, no code"
            for (name, version), count in codeless(definition, groups).items()
        ),
        *(
            f"{_sagas(count)} of {name} v{version} {'is' if count == 1 else 'are'} parked"
            for (name, version, status), count in sorted(groups.items())
            if status is Status.PARKED
        ),
    ]


def _sagas(count: int) -> str:
    return f"{count} saga{'s' * (count != 1)}"
