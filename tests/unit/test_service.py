"""Declarations: what cannot work is refused at once, with what to write instead."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ensue import Event, Message, Service, Step, TableRepository, UsageError


class Opened(Event, topic="t-service", key="account_id"):
    account_id: int


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "account"
    id: Mapped[int] = mapped_column(primary_key=True)


class Pair(Base):
    __tablename__ = "pair"
    left: Mapped[int] = mapped_column(primary_key=True)
    right: Mapped[int] = mapped_column(primary_key=True)


@dataclasses.dataclass
class Ledger:
    id: int
    total: int


@pytest.fixture
def service() -> Service:
    return Service("accounts", repositories=[TableRepository(Ledger, table="ledger")])


def test_parameters_are_handed_over_by_annotation_in_any_order(service: Service) -> None:
    @service.on(Opened, entity=Account)
    def handle(step: Step, event: Opened, account: Account | None) -> None:
        seen.append((account, event, step))

    seen: list[Any] = []
    call = service.handlers["t-service.Opened.v1"][0].caller()
    account, event, step = Account(id=1), Opened(account_id=1), object.__new__(Step)
    call(account, event, step)
    assert seen == [(account, event, step)]


def test_sessions_and_messages_can_be_asked_for(service: Service) -> None:
    @service.on(Opened)
    async def first(event: Opened, session: AsyncSession, message: Message) -> None: ...

    @service.on(Opened)
    def second(session: Session, event: Opened) -> None: ...

    assert [handler.needs_session for handler in service.handlers["t-service.Opened.v1"]] == [True, True]


def test_a_second_handler_of_one_name_is_refused(service: Service) -> None:
    @service.on(Opened)
    async def handle(event: Opened) -> None: ...

    with pytest.raises(UsageError, match=r"two handlers named 'handle'.*name="):

        @service.on(Opened)
        async def handle(event: Opened, step: Step) -> None: ...  # type: ignore[misc]  # the point of the test

    @service.on(Opened, name="other")  # type: ignore[no-redef]
    async def handle(event: Opened, step: Step) -> None: ...

    assert [each.name for each in service.handlers["t-service.Opened.v1"]] == ["handle", "other"]


def test_an_unknown_annotation_says_what_can_be_asked_for(service: Service) -> None:
    with pytest.raises(UsageError, match=r"'request' is annotated int; write Opened \(the event\), Step, Message"):

        @service.on(Opened)
        async def handle(event: Opened, request: int) -> None: ...

    with pytest.raises(UsageError, match="'step' is annotated nothing"):

        @service.on(Opened)
        async def other(event: Opened, step) -> None: ...  # type: ignore[no-untyped-def]


def test_a_handler_of_another_event_is_refused(service: Service) -> None:
    class Closed(Event, topic="t-service", key="account_id"):
        account_id: int

    with pytest.raises(UsageError, match=r"annotated .*Closed; write Opened"):

        @service.on(Opened)
        async def handle(event: Closed) -> None: ...


def test_a_session_of_the_wrong_kind_is_refused(service: Service) -> None:
    with pytest.raises(UsageError, match="with Session, not AsyncSession"):

        @service.on(Opened)
        def handle(event: Opened, session: AsyncSession) -> None: ...

    with pytest.raises(UsageError, match="with AsyncSession, not Session"):

        @service.on(Opened)
        async def other(event: Opened, session: Session) -> None: ...


def test_a_handler_that_takes_no_event_is_refused(service: Service) -> None:
    with pytest.raises(UsageError, match="takes no event"):

        @service.on(Opened)
        async def handle(step: Step) -> None: ...


def test_an_entity_step_wants_the_entity_its_id_and_a_way_to_store_it(service: Service) -> None:
    with pytest.raises(UsageError, match="no parameter is annotated Account"):

        @service.on(Opened, entity=Account)
        def handle(event: Opened, step: Step) -> None: ...

    with pytest.raises(UsageError, match=r"no field 'ledger_id' for the id of Ledger; say which: id="):

        @service.on(Opened, entity=Ledger)
        def other(ledger: Ledger, event: Opened) -> None: ...

    @dataclasses.dataclass
    class Unknown:
        id: int

    with pytest.raises(UsageError, match="declare how it is stored"):

        @service.on(Opened, entity=Unknown, id="account_id")
        def third(unknown: Unknown, event: Opened) -> None: ...

    with pytest.raises(UsageError, match="2 primary key columns"):

        @service.on(Opened, entity=Pair, id="account_id")
        def fourth(pair: Pair, event: Opened) -> None: ...


def test_one_row_has_one_repository(service: Service) -> None:
    @dataclasses.dataclass
    class Other:
        id: int

    def again(table: str = "ledger") -> TableRepository[Ledger]:
        return TableRepository(Ledger, table=table)

    @service.on(Opened, entity=Ledger, id="account_id", repository=again())
    def first(ledger: Ledger, event: Opened) -> None: ...

    @service.on(Opened, entity=Ledger, id="account_id")
    def second(ledger: Ledger, event: Opened) -> None: ...

    first_handler, second_handler = service.handlers["t-service.Opened.v1"]
    assert first_handler.repository is second_handler.repository

    with pytest.raises(UsageError, match="has another repository already"):

        @service.on(Opened, entity=Ledger, id="account_id", repository=again("ledgers"))
        def third(ledger: Ledger, event: Opened) -> None: ...

    with pytest.raises(UsageError, match="both stored in table ledger"):

        @service.on(Opened, entity=Other, id="account_id", repository=TableRepository(Other, table="ledger"))
        def fourth(other: Other, event: Opened) -> None: ...


def test_the_entity_is_found_by_the_field_that_bears_its_name_or_the_one_that_is_said(service: Service) -> None:
    @service.on(Opened, entity=Account)
    def first(account: Account, event: Opened) -> None: ...

    @service.on(Opened, entity=Ledger, id="account_id")
    def second(ledger: Ledger | None, event: Opened) -> Ledger | None: ...

    handlers = service.handlers["t-service.Opened.v1"]
    assert [(each.id_field, each.optional) for each in handlers] == [("account_id", False), ("account_id", True)]


def test_an_annotation_that_cannot_be_resolved_is_named(service: Service) -> None:
    with pytest.raises(UsageError, match=r"annotation cannot be resolved.*Nowhere"):

        @service.on(Opened)
        async def handle(event: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # the point of it


@pytest.mark.parametrize("name", ["", "Orders", "1st", "a b", "x" * 64])
def test_a_service_name_must_be_plain(name: str) -> None:
    with pytest.raises(UsageError, match="expected lower-case"):
        Service(name)


def test_a_service_that_does_not_run_says_how_to_run_it(service: Service) -> None:
    with pytest.raises(UsageError, match="does not run here"):
        _ = service.runtime


def test_publishing_what_is_no_event_is_refused_at_declaration() -> None:
    with pytest.raises(UsageError, match="is no event"):
        Service("accounts", publishes=[int])


def test_a_declaration_with_the_wrong_kind_of_thing_says_what_to_write(service: Service) -> None:
    with pytest.raises(UsageError, match=r"tables=Base is no SQLAlchemy MetaData; write tables=Base\.metadata"):
        Service("accounts", tables=Base)  # type: ignore[arg-type]  # the point of the test
    with pytest.raises(UsageError, match=r"tables=str is no SQLAlchemy MetaData; write tables=Base\.metadata"):
        Service("accounts", tables="account")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"write publishes=\[Opened\]"):
        Service("accounts", publishes=Opened)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"entity='Account' is no class; write the class itself"):

        @service.on(Opened, entity="Account")  # type: ignore[arg-type]
        def handle(account: Account, event: Opened) -> None: ...
