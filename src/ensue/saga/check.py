"""Would sagas that have begun go on with the code that there is now? Each journal is replayed, and nothing is done."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from ensue.ports import Kind, Row
from ensue.saga.code import SagaCode
from ensue.saga.instance import ENDED, Instance, Status
from ensue.saga.replay import replay
from ensue.tables import SAGAS

Codes = Mapping[tuple[str, int], SagaCode]

#: The reason of those whose version is not there.
MISSING = "no code"


class Group(msgspec.Struct):
    """Sagas of one name and version that would stop for one reason; empty: they go on. example: the id of one."""

    saga: str
    version: int
    reason: str
    example: str
    count: int = 0


class Check:
    """Sorts sagas by what would become of them. codes: all there are. named: all local steps and outside functions."""

    def __init__(self, codes: Codes, named: Collection[str]) -> None:
        self._codes = codes
        self._named = named
        self._seen: set[str] = set()
        self._groups: dict[tuple[str, int, str], Group] = {}

    @property
    def groups(self) -> list[Group]:
        return [self._groups[each] for each in sorted(self._groups)]

    def add(self, saga: Instance) -> None:
        """One that has ended, or was added before, counts for nothing."""
        if saga.status in ENDED or saga.key in self._seen:
            return
        self._seen.add(saga.key)
        place = (saga.name, saga.version, misfit(self._codes, self._named, saga))
        group = self._groups.setdefault(place, Group(*place, saga.key))
        group.count += 1


def misfit(codes: Codes, named: Collection[str], saga: Instance) -> str:
    """Why it would not go on; empty: it would."""
    needed = [str(each) for each in saga.undos if each.kind != "call" and each.name not in named]
    needed += [f"outside {each.name}" for each in saga.outside.values() if each.name not in named]
    if needed:
        return f"it needs {needed[0]}, and there is no function of that name"
    if saga.goes_by != Status.RUNNING or saga.returned or (saga.stop is not None and not saga.pivoted):
        return ""  # what is left of it needs no code of its function
    code = codes.get((saga.name, saga.version))
    return MISSING if code is None else replay(code, saga).brief


# ------------------------------------------------------------------------------------------------------------ in a file


def write_row(row: Row) -> bytes:
    """A row of `SAGAS` as a line of JSON."""
    values = zip(SAGAS.columns, SAGAS.kinds, row, strict=True)
    return msgspec.json.encode(
        {name: msgspec.Raw(value) if kind is Kind.BYTES else value for name, kind, value in values}
    )


def read_row(line: bytes) -> Row:
    """What `write_row` wrote. Raises ValueError."""
    found = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    return [
        bytes(found[name]) if kind is Kind.BYTES else msgspec.json.decode(found[name])
        for name, kind in zip(SAGAS.columns, SAGAS.kinds, strict=True)
    ]
