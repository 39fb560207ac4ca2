"""Which change of a contract breaks whom: committed schemas against what services write now, for each known reader."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ensue.contracts.contract import owned
from ensue.contracts.described import Contract, Described
from ensue.contracts.differences import differences
from ensue.contracts.files import Committed
from ensue.contracts.fits import Misfit, misfits


class Reason(msgspec.Struct, frozen=True):
    """Why a change breaks a reader. messages: `new` ones, of the code as it is; those in the `log`, of the committed
    schema; `none` come any more."""

    reader: str
    messages: str
    why: str

    def __str__(self) -> str:
        which = {"new": " cannot read new messages", "log": " cannot read what the log holds", "none": ""}
        return f"{self.reader}{which[self.messages]}: {self.why}"


class Change(msgspec.Struct, frozen=True):
    """One change. name: of the message, as `Described.name`. path: of the field; empty: of the message itself. what is
    different, empty: nothing, a reader does not fit as it is. reasons: whom it breaks; none: nobody who is known."""

    name: str
    path: str
    what: str
    breaking: bool
    reasons: list[Reason]
    readers: list[str]

    def __str__(self) -> str:
        where = f"{self.name} {self.path}".strip()
        whole = f"{where}: {self.what}" if self.what else where
        if self.reasons:
            return f"breaking    {whole}; {'; '.join(map(str, self.reasons))}"
        who = ", ".join(self.readers)
        if self.breaking:
            return f"breaking    {whole}"
        return f"compatible  {whole}; {f'{who} can read it' if who else 'no reader of it is known'}"


class _Reader(NamedTuple):
    service: str
    message: Described
    shares: bool
    """Its class is the writer's, so what runs now reads as the committed schema says."""


def changes(
    committed: Mapping[str, Committed], services: Sequence[Contract], readers: Sequence[Contract] = ()
) -> list[Change]:
    """Return what is different between the committed schemas and what the services write now, by name and field.

    Readers are those that handle a message, among `services` and `readers`. Each has to read what is written now, and
    what the log holds. One with a class of its own does both by its code as it is. One that shares the writer's class
    is deployed after the writer, perhaps: until then it reads as the committed schema says, and so does whoever is not
    known, where nobody is.

    Raises UsageError for services that write one message with different schemas.
    """
    return list(_Comparison(committed, services, readers).changes())


class _Comparison:
    def __init__(
        self, committed: Mapping[str, Committed], services: Sequence[Contract], readers: Sequence[Contract]
    ) -> None:
        self._committed = committed
        self._owned = owned(services)
        self._services = {contract.service for contract in services}
        self._writers = [(contract.service, each) for contract in services for each in contract.writes]
        self._everybody = [*services, *(each for each in readers if each not in services)]

    def changes(self) -> Iterator[Change]:
        for name in sorted(self._committed.keys() | self._owned.keys()):
            old, new = self._committed.get(name), self._owned.get(name)
            if new is None and old is not None:
                yield from self._of_one_left(old)
            elif new is not None:
                yield from self._of_one(old, new)

    def _readers(self, name: str) -> list[_Reader]:
        classes = {each.cls for _, each in self._writers if each.name == name}
        if name in self._owned:
            classes.add(self._owned[name].cls)
        return [
            _Reader(contract.service, each, each.cls in classes)
            for contract in self._everybody
            for each in contract.reads
            if each.name == name
        ]

    def _of_one(self, old: Committed | None, new: Described) -> Iterator[Change]:
        readers = self._readers(new.name)
        who = [each.service for each in readers]
        found = [] if old is None else differences(old.schema, new.schema)
        open_reasons = list(self._reasons(old, new, readers))
        if old is None:
            yield self._new(new, who)
        elif old.key != new.key:
            why = "messages of one value of the key stay in order, and those before it were in the order of another"
            yield Change(new.name, new.key, f"the key, and was {old.key}: {why}", True, [], who)
        for path, what in found:
            mine = [each for each in open_reasons if _touch(each[0], path)]
            open_reasons = [each for each in open_reasons if each not in mine]
            yield Change(new.name, path, what, bool(mine), [reason for _, reason in mine], who)
        for path, reason in open_reasons:
            yield Change(new.name, path, "", True, [reason], who)

    def _reasons(
        self, old: Committed | None, new: Described, readers: Sequence[_Reader]
    ) -> Iterator[tuple[str, Reason]]:
        written = [each for _, each in self._writers if each.name == new.name and not each.upcast]
        told: set[tuple[str, str]] = set()
        for service, message, shares in readers:
            if message.upcast:
                continue
            reads = old.schema if shares and old is not None else message.schema
            called = f"{service}, as it is deployed," if shares else service
            for writer in written:
                for misfit in misfits(writer.always, reads):
                    if (service, misfit.path) not in told:
                        told.add((service, misfit.path))
                        yield misfit.path, Reason(called, "new", misfit.why)
            for misfit in misfits(old.schema, message.schema) if old is not None else ():
                if (service, misfit.path) not in told:
                    told.add((service, misfit.path))
                    yield misfit.path, Reason(service, "log", misfit.why)
        if not readers and old is not None:
            anybody: list[Misfit] = [each for one in written for each in misfits(one.always, old.schema)]
            for path, why in dict.fromkeys(anybody):
                yield path, Reason("who reads by the committed schema", "new", why)

    def _new(self, new: Described, who: list[str]) -> Change:
        """A message that was not there; perhaps another one was, and who reads that gets nothing any more."""
        before = [each.name for each in self._committed.values() if _succeeds(new, each)]
        what = f"new, after {', '.join(sorted(before))}" if before else "new"
        return Change(new.name, "", what, False, [], who)

    def _of_one_left(self, old: Committed) -> Iterator[Change]:
        """Of a committed message that nobody writes now: whoever reads what the log holds of it has to go on."""
        readers = self._readers(old.name)
        found = [
            (each.service, misfit)
            for each in readers
            if not each.message.upcast
            for misfit in misfits(old.schema, each.message.schema)
        ]
        for service, misfit in found:
            yield Change(old.name, misfit.path, "", True, [Reason(service, "log", misfit.why)], [service])
        after = [each for each in self._owned.values() if _succeeds(each, old)]
        if not after and not self._wrote(old):
            return  # another service's, as far as anybody here can tell
        where = ", ".join(each.name for each in after)
        what = (
            f"not written any more by these services; {where} is" if after else "not written any more by these services"
        )
        read = [{each.service for each in self._readers(one.name)} for one in after]
        late = [each.service for each in readers if not any(each.service in those for those in read)]
        why = f"it does not read {where}" if after else "it waits for it in vain"
        reasons = [Reason(each, "none", why) for each in late]
        if late or any(each.name not in self._committed for each in after) or not after:
            yield Change(old.name, "", what, bool(late), reasons, [each.service for each in readers])

    def _wrote(self, old: Committed) -> bool:
        """Whether one of these services wrote it. A file from before they were named in it is theirs by its topic."""
        if old.services:
            return not self._services.isdisjoint(old.services)
        return bool(old.topic) and old.topic in {each.topic for each in self._owned.values()}


def _succeeds(new: Described, old: Committed) -> bool:
    """Whether a message is another version of one, or has gone to another topic under its name."""
    if new.kind != old.kind or new.name == old.name or not old.topic:
        return False
    return _called(new.name, new.topic) == _called(old.name, old.topic) and (
        new.topic != old.topic or new.version > old.version
    )


def _called(name: str, topic: str) -> str:
    return name.removeprefix(f"{topic}.").rpartition(".v")[0]


def _touch(one: str, other: str) -> bool:
    """Whether one path is the other, or leads to it."""
    if not one or not other:
        return one == other
    (short, long) = sorted((one, other), key=len)
    return long == short or (long.startswith(short) and long[len(short)] in ".[")
