"""Whose store a database is, and whether this version of Ensue can work with its tables."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from ensue.errors import StoreOutdated, UsageError
from ensue.tables import VERSION


class Identity(NamedTuple):
    """Whose store it is, and since which position its present history counts."""

    service: str
    epoch: str
    published_from: int

    @property
    def source(self) -> str:
        if not self.epoch:
            raise UsageError(f"the store of {self.service} has no source before it was opened")
        return f"{self.service}/{self.epoch}"


def epoch_of(source: str) -> str:
    return source.rpartition("/")[2]


def check_ends(service: str, epoch: str, ends: str) -> None:
    """For a store that begins an epoch, inside what keeps others from it. epoch: that it has. ends: that is to end.

    Raises UsageError when these are two: somebody else has begun one meanwhile.
    """
    if epoch != ends:
        raise UsageError(
            f"{service}/{ends} has ended meanwhile, this store is {service}/{epoch} now: nothing is done; look again",
            expected=f"{service}/{ends}",
            found=f"{service}/{epoch}",
        )


def new_epoch_name() -> str:
    """Eight random hexadecimal digits: a copy of a database that begins anew must not share its original's name."""
    return secrets.token_hex(4)


def check_tables(place: str, version: int, owner: str, service: str, otherwise: str) -> None:
    """Raise StoreOutdated for tables of another version, UsageError for another service's; otherwise: what to give."""
    if version != VERSION:
        raise StoreOutdated(
            f"{place}: Ensue's tables are of version {version}, this version of Ensue works with {VERSION}. "
            + ("Run a newer Ensue" if version > VERSION else "Start anew, or migrate with the Ensue that made them"),
            found=version,
            expected=VERSION,
        )
    if owner != service:
        raise UsageError(
            f"{place} is the database of service {owner!r}, not of {service!r}: each service has a database of its "
            f"own. Give {otherwise}",
            found=owner,
            expected=service,
        )
