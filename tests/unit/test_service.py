"""Declarations: what cannot work is refused at once, with what to write instead."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Protocol

import pytest
from sqlalchemy import Column, Integer, MetaData, Table
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from ensue import Event, Message, Service, Step, TableRepository, UsageError


class Opened(Event, topic="t-service", key="account_id"):
    account_id: int


class Closed(Event, topic="t-service", key="account_id"):
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


def table(name: str, id: str = "id") -> Table:
    return Table(name, MetaData(), Column(id, Integer, primary_key=True), Column("total", Integer))


@pytest.fixture
def service() -> Service:
    return Service("accounts", repositories=[TableRepository(Ledger, table("ledger"))])


def test_parameters_are_handed_over_by_annotation_in_any_order(service: Service) -> None:
    @service.on
    def handle(step: Step, event: Opened, account: Account | None) -> None:
        seen.append((account, event, step))

    seen: list[Any] = []
    call = service.handlers["t-service.Opened.v1"][0].caller()
    account, event, step = Account(id=1), Opened(account_id=1), object.__new__(Step)
    call(account, event, step)
    assert seen == [(account, event, step)]


def test_sessions_and_messages_can_be_asked_for(service: Service) -> None:
    @service.on
    async def first(event: Opened, session: AsyncSession, message: Message) -> None: ...

    @service.on
    def second(session: Session, event: Closed) -> None: ...

    assert all(handlers[0].needs_session for handlers in service.handlers.values())


def test_handlers_of_one_event_that_need_two_kinds_of_session_are_refused(service: Service) -> None:
    @service.on
    async def first(event: Opened, session: AsyncSession) -> None: ...

    with pytest.raises(UsageError, match=r"handler second .* takes Session, and handler first takes AsyncSession"):

        @service.on
        def second(event: Opened, session: Session) -> None: ...

    with pytest.raises(
        UsageError, match=r"takes Session, and handler third takes the entity Account, mapped by SQLAlch"
    ):

        @service.on
        def third(account: Account, event: Closed, session: Session) -> None: ...


def test_a_second_handler_of_one_name_is_refused(service: Service) -> None:
    @service.on
    async def handle(event: Opened) -> None: ...

    with pytest.raises(UsageError, match=r"two handlers named 'handle'.*name="):

        @service.on
        async def handle(event: Opened, step: Step) -> None: ...  # type: ignore[misc]  # the point of the test

    @service.on(name="other")  # type: ignore[no-redef]
    async def handle(event: Opened, step: Step) -> None: ...

    assert [each.name for each in service.handlers["t-service.Opened.v1"]] == ["handle", "other"]


def test_a_session_of_another_library_is_told_which_one_a_step_has(service: Service) -> None:
    class ModelSession(Session): ...  # as SQLModel's, which is called Session too

    class ModelAsyncSession(AsyncSession): ...

    with pytest.raises(UsageError, match=r"ModelSession, and a step's session is none: .* annotate sqlalchemy\.orm\.S"):

        @service.on
        def handle(event: Opened, session: ModelSession) -> None: ...

    with pytest.raises(UsageError, match=r"annotate sqlalchemy\.ext\.asyncio\.AsyncSession"):

        @service.on
        async def handle_later(event: Opened, session: ModelAsyncSession) -> None: ...


def test_an_unknown_annotation_says_what_can_be_asked_for(service: Service) -> None:
    with pytest.raises(UsageError, match=r"'request' is annotated int, which is no declared event, nor Step, Message"):

        @service.on
        async def handle(event: Opened, request: int) -> None: ...

    with pytest.raises(UsageError, match=r"on\(functools\.partial\(function, retries=\.\.\.\)\)"):

        @service.on
        async def with_a_default(event: Opened, retries: int = 3) -> None: ...

    async def bound(event: Opened, retries: int) -> None: ...

    service.on(functools.partial(bound, retries=3))  # as the message says

    with pytest.raises(UsageError, match="parameter 'step' has no annotation; write the event's class, Step, Message"):

        @service.on
        async def other(event: Opened, step) -> None: ...  # type: ignore[no-untyped-def]


def test_the_old_form_with_the_event_in_brackets_says_what_to_write(service: Service) -> None:
    with pytest.raises(UsageError, match=r"write @accounts\.on above `def \.\.\.\(\.\.\., event: Opened\)`"):
        service.on(Opened)

    with pytest.raises(UsageError, match="with no class in brackets"):
        service.on(Opened, entity=Account)  # type: ignore[call-overload]  # the point of the test


def test_a_handler_that_is_registered_in_another_way_says_what_to_write(service: Service) -> None:
    with pytest.raises(UsageError, match=r"@accounts\.on\('orders'\): .*write @accounts\.on above"):
        service.on("orders")  # type: ignore[call-overload]  # the point of the test
    with pytest.raises(UsageError, match=r"@accounts\.on\(topic=\): .*write @accounts\.on above"):
        service.on(topic="orders")  # type: ignore[call-overload]
    with pytest.raises(UsageError, match=r"write `orders = Service\(.orders.\)` and then @orders\.on"):

        @Service.on  # type: ignore[call-overload]
        def handle(event: Opened) -> None: ...

    @service.on()
    def with_parentheses(event: Opened) -> None: ...

    assert [each.name for each in service.handlers["t-service.Opened.v1"]] == ["with_parentheses"]


def test_a_session_of_the_wrong_kind_is_refused(service: Service) -> None:
    with pytest.raises(UsageError, match="with Session, not AsyncSession"):

        @service.on
        def handle(event: Opened, session: AsyncSession) -> None: ...

    with pytest.raises(UsageError, match="with AsyncSession, not Session"):

        @service.on
        async def other(event: Opened, session: Session) -> None: ...


def test_a_handler_that_takes_no_event_is_refused(service: Service) -> None:
    with pytest.raises(UsageError, match="takes no event"):

        @service.on
        async def handle(step: Step) -> None: ...


def test_an_entity_step_wants_the_entity_its_id_and_a_way_to_store_it(service: Service) -> None:
    with pytest.raises(UsageError, match="entity=Account, but no parameter takes it"):

        @service.on(entity=Account)
        def handle(event: Opened, step: Step) -> None: ...

    with pytest.raises(UsageError, match=r"no field 'ledger_id' for the id of Ledger; say which: on\(id="):

        @service.on
        def other(ledger: Ledger, event: Opened) -> None: ...

    @dataclasses.dataclass
    class Unknown:
        id: int

    with pytest.raises(UsageError, match="declare how it is stored"):

        @service.on(id="account_id")
        def third(unknown: Unknown, event: Opened) -> None: ...

    with pytest.raises(UsageError, match="2 primary key columns"):

        @service.on(id="account_id")
        def fourth(pair: Pair, event: Opened) -> None: ...


def test_one_row_has_one_repository(service: Service) -> None:
    @dataclasses.dataclass
    class Other:
        id: int

    def again(name: str = "ledger") -> TableRepository[Ledger]:
        return TableRepository(Ledger, table(name))

    @service.on(id="account_id", repository=again())
    def first(ledger: Ledger, event: Opened) -> None: ...

    @service.on(id="account_id")
    def second(ledger: Ledger, event: Opened) -> None: ...

    first_handler, second_handler = service.handlers["t-service.Opened.v1"]
    assert first_handler.repository is second_handler.repository

    with pytest.raises(UsageError, match="has another repository already"):

        @service.on(id="account_id", repository=again("ledgers"))
        def third(ledger: Ledger, event: Opened) -> None: ...

    with pytest.raises(UsageError, match="both stored in table ledger"):

        @service.on(id="account_id", repository=TableRepository(Other, table("ledger")))
        def fourth(other: Other, event: Opened) -> None: ...


class Cart(Base):
    __tablename__ = "cart"
    basket_id: Mapped[int] = mapped_column(primary_key=True)


class Filled(Event, topic="t-service", key="basket_id"):
    id: int  # of the event, as a person from outside may call it
    basket_id: int
    cart_id: int
    account_id: int


def test_the_entity_is_found_by_the_field_that_is_named_as_its_key_else_by_its_class_else_by_what_is_said(
    service: Service,
) -> None:
    @service.on
    def by_key(cart: Cart, event: Filled) -> None: ...

    @service.on  # `id` does not say whose
    def by_class(account: Account | None, event: Filled) -> None: ...

    @service.on(id="cart_id")
    def by_word(ledger: Ledger | None, event: Filled) -> Ledger | None: ...

    handlers = service.handlers["t-service.Filled.v1"]
    assert [(each.id_field, each.optional) for each in handlers] == [
        ("basket_id", False), ("account_id", True), ("cart_id", True),
    ]  # fmt: skip


def test_an_id_of_another_type_is_refused(service: Service) -> None:
    class Named(Event, topic="t-service", key="account_id"):
        account_id: str

    repositories = [TableRepository(Wallet, table("wallet", "account_id"))]
    for entity, where in ((Account, service), (Wallet, Service("typed", repositories=repositories))):

        def handle(entity: Any, event: Named) -> None: ...

        handle.__annotations__.update(entity=entity, event=Named)
        with pytest.raises(UsageError, match=f"Named.account_id is str, and the id of {entity.__name__} is int"):
            where.on(handle)


@dataclasses.dataclass
class Wallet:
    account_id: int


def test_a_handler_of_a_union_takes_each_of_its_events(service: Service) -> None:
    @service.on
    def handle(account: Account, event: Opened | Filled, step: Step) -> None: ...

    assert {kind: [each.name for each in found] for kind, found in service.handlers.items()} == {
        "t-service.Opened.v1": ["handle"], "t-service.Filled.v1": ["handle"],
    }  # fmt: skip


def test_an_entity_may_be_annotated_wider_than_it_is_when_it_is_said(service: Service) -> None:
    class Named(Protocol):
        id: int

    @service.on(entity=Account)
    def protocol(account: Named | None, event: Opened) -> None: ...

    @service.on(entity=Account)
    def base(account: Base, event: Opened) -> None: ...

    assert [(each.entity, each.optional) for each in service.handlers["t-service.Opened.v1"]] == [
        (Account, True), (Account, False),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="entity=Account, but parameter 'ledger' is annotated Ledger"):

        @service.on(entity=Account)
        def other(ledger: Ledger, event: Opened) -> None: ...


def test_two_parameters_for_one_thing_are_refused(service: Service) -> None:
    with pytest.raises(UsageError, match=r"'account' and 'ledger' ask for the same thing; a step has one entity"):

        @service.on
        def handle(account: Account, ledger: Ledger, event: Opened) -> None: ...

    with pytest.raises(UsageError, match=r"'event' and 'other' ask for the same thing; leave one out"):

        @service.on
        def twice(event: Opened, other: Filled) -> None: ...


def test_an_annotation_that_cannot_be_resolved_is_named(service: Service) -> None:
    with pytest.raises(
        UsageError, match=r"annotation 'Nowhere' of parameter 'event' cannot be resolved.*TYPE_CHECKING"
    ):

        @service.on
        async def handle(event: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821  # the point of it


def test_whatever_can_be_called_is_a_handler_of_what_its_annotations_say(service: Service) -> None:
    seen: list[str] = []

    def count(function: Any) -> Any:
        @functools.wraps(function)
        def counted(*args: Any) -> Any:
            seen.append("counted")
            return function(*args)

        return counted

    @service.on
    @count
    def wrapped(event: Opened, step: Step) -> None:
        seen.append("wrapped")

    def said(text: str, event: Opened, step: Step, *, loud: bool = False) -> None:
        seen.append(text.upper() if loud else text)

    service.on(functools.partial(said, "partial", loud=True))

    class Clerk:
        def method(self, event: Opened, step: Step) -> None:
            seen.append("method")

        def __call__(self, event: Opened, step: Step) -> None:
            seen.append("object")

    service.on(Clerk().method)
    service.on(Clerk())

    for handler in service.handlers["t-service.Opened.v1"]:
        handler.caller()(None, Opened(account_id=1), object.__new__(Step))
    assert seen == ["counted", "wrapped", "PARTIAL", "method", "object"]


def test_what_hides_its_parameters_is_refused(service: Service) -> None:
    def bare(function: Any) -> Any:
        return lambda *args: function(*args)

    with pytest.raises(UsageError, match=r"takes \*args.*functools\.wraps"):

        @service.on
        @bare
        def handle(event: Opened) -> None: ...

    with pytest.raises(UsageError, match=r"'self' has no annotation; register the method of an object"):

        class Clerk:
            @service.on
            def method(self, event: Opened) -> None: ...


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

        @service.on(entity="Account")  # type: ignore[call-overload, untyped-decorator]
        def handle(account: Account, event: Opened) -> None: ...
