"""Which schema Ensue's own tables in a database have, who may work with them, and what a newer Ensue adds to them.

Two numbers are kept with the tables: their schema, and the oldest one whose processes may still work with them. So the
processes of two releases of Ensue can share a database while they are replaced one by one. See docs/adr/0032.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Final

import msgspec

from ensue.errors import StoreOutdated
from ensue.ports import StepTransaction, Table

Fill = Callable[[StepTransaction], Awaitable[None]]


class Numbers(msgspec.Struct, frozen=True):
    """What a database says of its tables, by default of the first ones. release: of the Ensue that wrote this."""

    schema: int = 1
    readable_by: int = 1
    release: str = ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What leads from one schema to the next one. It only adds, and may be done twice: crashes and races see to that.

    tables: of Ensue's own, made where they are missing. fill: writes rows that have to be there, where they are not, in
    a transaction. readable_by: the oldest schema whose processes may go on from here; None: all who might before.
    """

    tables: tuple[Table, ...] = ()
    fill: Fill | None = None
    readable_by: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Schema:
    """What one release of Ensue works with: additions lead from `oldest` to its `number`.

    through: the release that brings tables older than `oldest` to it; named when there are such.
    """

    additions: tuple[Addition, ...] = ()
    oldest: int = 1
    through: str = ""

    @property
    def number(self) -> int:
        return self.oldest + len(self.additions)

    def next(self, found: Numbers) -> Addition | None:
        """What the tables lack to be of the following schema; None: they are of this one, or of a newer one."""
        return self.additions[found.schema - self.oldest] if found.schema < self.number else None

    def check(self, service: str, found: Numbers) -> None:
        """Raise StoreOutdated when a process with this schema must not touch these tables.

        >>> Schema().check("orders", Numbers(schema=2, readable_by=1))
        >>> Schema().check("orders", Numbers(schema=3, readable_by=2, release="0.4.0"))
        Traceback (most recent call last):
        ensue.errors.StoreOutdated: service orders: Ensue's tables in its database are of schema 3, for processes of \
schema 2 or later (written by Ensue 0.4.0); this process has schema 1: start it with Ensue 0.4.0 or later
        """
        if found.readable_by > self.number:
            release = found.release or "the release that the other processes have"
            raise StoreOutdated(
                f"service {service}: Ensue's tables in its database are of schema {found.schema}, for processes of "
                f"schema {found.readable_by} or later (written by Ensue {release}); this process has schema "
                f"{self.number}: start it with Ensue {release} or later",
                found=found.schema,
                expected=self.number,
            )
        if found.schema < self.oldest:
            raise StoreOutdated(
                f"service {service}: Ensue's tables in its database are of schema {found.schema}, and this process, of "
                f"schema {self.number}, upgrades none older than {self.oldest}: start the service once with Ensue "
                f"{self.through}, then with this one",
                found=found.schema,
                expected=self.oldest,
            )


#: This Ensue's.
SCHEMA: Final = Schema()


def release() -> str:
    try:
        return version("ensue")
    except PackageNotFoundError:  # it is run from its sources
        return ""
