"""Commands, failures and their handlers as they are declared: what is refused when the module is imported."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, Generic, NoReturn, TypeVar

import msgspec
import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from typing_extensions import TypeAliasType

from ensue import Command, Event, Failure, Service, UnknownFailure, UsageError
from ensue.command import CommandType, command_type
from ensue.errors import BadMessage, EventMismatch
from ensue.event import event_type
from ensue.failure import Discarded, read, written
from ensue.reply import Reply, outcome, read_reply, reply_with, write_reply

R = TypeVar("R")
T = TypeVar("T")


class CreditReserved(Event, topic="declared.credit", key="customer_id"):
    customer_id: int
    left: Decimal


class KeepCredit(Command[CreditReserved], service="customers", key="customer_id"):
    customer_id: int
    total: Decimal


class ForgetCustomer(Command[None], service="customers", key="customer_id"):
    customer_id: int


class CreditLimitExceeded(Failure):
    available: Decimal
    note: str = ""


@dataclasses.dataclass
class Plain:
    at: int


def spec_of(cls: type) -> CommandType[Any]:
    spec: Any = event_type(cls)
    assert isinstance(spec, CommandType)
    return spec


def test_a_command_has_a_type_and_a_topic_of_its_service_and_a_reply() -> None:
    spec = spec_of(KeepCredit)
    assert (spec.type, spec.topic) == ("customers.commands.KeepCredit.v1", "customers.commands")
    assert (spec.service, spec.key_field) == ("customers", "customer_id")
    assert spec.reply is not None
    assert spec.reply.cls is CreditReserved
    assert spec_of(ForgetCustomer).reply is None


def test_a_reply_is_any_class_with_fields() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Model(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        at: int

    class Struct(msgspec.Struct):
        at: int

    for number, reply in enumerate((Model, Struct, Plain)):

        class Ask(Command[reply], service="declared", key="n", type_name=f"Ask{number}"):  # type: ignore[valid-type]
            n: int

        spec = spec_of(Ask)
        answer = reply(at=7)
        again = read_reply(write_reply(reply_with(spec, "c-1", answer)))
        assert outcome(spec, again) == answer


def test_abstract_bases_share_fields_and_reply() -> None:
    class Base(Command[Plain]):
        n: int

    class Derived(Base, service="declared", key="n"):
        pass

    reply = spec_of(Derived).reply
    assert reply is not None
    assert reply.cls is Plain
    with pytest.raises(UsageError, match=r'no command of its own, since it has no service.*service="..."'):
        event_type(Base)


def test_a_generic_base_leaves_the_reply_or_a_field_open() -> None:
    class Asks(Command[R], Generic[R]):
        n: int

    class Page(Command[Plain], Generic[T]):
        of: T

    class Both(Command[R], Generic[T, R]):
        of: T

    class A(Asks[Plain], service="declared", key="n"):
        pass

    class B(Page[int], service="declared", key="of"):
        pass

    class C(Both[int, Plain], service="declared", key="of"):
        pass

    for each in (A, B, C):
        reply = spec_of(each).reply
        assert reply is not None
        assert reply.cls is Plain, each


def _no_reply() -> None:
    class Wrong(Command, service="customers", key="n"):  # type: ignore[type-arg]
        n: int


def _forward() -> None:
    class Wrong(Command["CreditReserved"], service="customers", key="n"):
        n: int


def _union() -> None:
    class Wrong(Command[CreditReserved | Plain], service="customers", key="n"):
        n: int


def _bare() -> None:
    class Wrong(Command[int], service="customers", key="n"):
        n: int


def _command_as_reply() -> None:
    class Wrong(Command[ForgetCustomer], service="customers", key="n"):
        n: int


class Listed(msgspec.Struct, Generic[T]):
    items: list[T]


def _failure_as_reply() -> None:
    class Wrong(Command[CreditLimitExceeded], service="customers", key="n"):
        n: int


def _any_event() -> None:
    class Wrong(Command[Event], service="customers", key="n"):
        n: int


def _any_struct() -> None:
    class Wrong(Command[msgspec.Struct], service="customers", key="n"):
        n: int


def _any_model() -> None:
    model = pytest.importorskip("pydantic").BaseModel

    class Wrong(Command[model], service="customers", key="n"):  # type: ignore[valid-type]
        n: int


def _open() -> None:
    class Wrong(Command[Listed], service="customers", key="n"):  # type: ignore[type-arg]
        n: int


def _closed_on_the_spot() -> None:
    class Wrong(Command[Listed[int]], service="customers", key="n"):
        n: int


def _generic() -> None:
    class Wrong(Command[R], Generic[R], service="customers", key="n"):
        n: int


def _topic() -> None:
    class Wrong(Command[None], topic="customers", key="n"):
        n: int


def _bad_service() -> None:
    class Wrong(Command[None], service="Customers!", key="n"):
        n: int


def _no_key() -> None:
    class Wrong(Command[None], service="customers"):
        n: int


def _strange_option() -> None:
    class Wrong(Command[None], service="customers", key="n", urgent=True):
        n: int


def _taken() -> None:
    class KeepCredit(Command[None], service="customers", key="n"):
        n: int


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (_no_reply, r"does not say what its reply is: write `class Wrong\(Command\[Reply\]"),
        (_forward, "expected one class, declared above it"),
        (_union, "expected one class.*Failure classes"),
        (_bare, "its reply: int has no fields by name"),
        (_command_as_reply, "its reply is ForgetCustomer, expected one class"),
        (_failure_as_reply, "its reply is CreditLimitExceeded, a Failure, which any handler may answer"),
        (_any_event, "its reply: Event has no fields by name"),
        (_any_struct, "its reply: Struct has no fields by name"),
        (_any_model, "its reply: BaseModel has no fields by name"),
        (_open, r"its reply: Listed is generic, .*declare a class for each, `class X\(Listed\[int\]\)`"),
        (_closed_on_the_spot, r"its reply is .*Listed\[int\], expected one class, declared above it"),
        (_generic, r"declare one for each, `class X\(Wrong\[int\], service=..., key=...\)`"),
        (_topic, 'write service="..."'),
        (_bad_service, "service='Customers!', expected the name of the service"),
        (_no_key, "has no key"),
        (_strange_option, "urgent in its class line; expected service, key, type_name, version"),
        (_taken, "is declared by .* and again by"),
    ],
)
def test_a_command_that_cannot_be_is_refused(declare: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        declare()


def test_a_failure_travels_by_name_and_fields() -> None:
    failure = CreditLimitExceeded(available=Decimal("1.20"), note="soon")
    name, fields = written(failure)
    assert name == "CreditLimitExceeded"
    found = read(name, fields)
    assert type(found) is CreditLimitExceeded
    assert (found.available, found.note) == (Decimal("1.20"), "soon")
    assert str(found) == "CreditLimitExceeded(available=Decimal('1.20'), note='soon')"
    assert found.args == ()  # it is a whole exception
    assert isinstance(read(*written(Discarded())), Discarded)


def test_a_failure_keeps_what_it_is_through_copies_processes_and_the_users_own_code() -> None:
    class Counted(Failure):
        left: int
        seen: int = dataclasses.field(init=False, default=1)

        def __post_init__(self) -> None:
            self.twice = 2 * self.left

    class Own(Failure):
        left: int

        def __init__(self, left: int) -> None:
            self.left = left

    exceeded = CreditLimitExceeded(available=Decimal(1))
    exceeded.add_note("seen")
    for again in (copy.copy(exceeded), copy.deepcopy(exceeded), pickle.loads(pickle.dumps(exceeded))):
        assert type(again) is CreditLimitExceeded
        assert (again.available, again.note, again.__notes__, again.args) == (Decimal(1), "", ["seen"], ())
    counted = read(*written(Counted(left=3)))
    assert isinstance(counted, Counted)
    assert (counted.left, counted.seen, counted.twice) == (3, 1, 6)
    own = read(*written(Own(3)))
    assert isinstance(own, Own)
    assert (own.left, own.args) == (3, ())


def test_a_failure_that_is_not_known_here_keeps_name_and_fields() -> None:
    found = read("Elsewhere", b'{"left":3}')
    assert isinstance(found, UnknownFailure)
    assert (found.type_name, found.fields) == ("Elsewhere", {"left": 3})
    changed = read("CreditLimitExceeded", b'{"left":3}')
    assert isinstance(changed, UnknownFailure)
    assert isinstance(changed.__cause__, BadMessage)


def _two_of_a_name() -> None:
    class CreditLimitExceeded(Failure):
        pass


def _no_name() -> None:
    class Wrong(Failure, type_name=""):
        pass


def _number_as_name() -> None:
    class Wrong(Failure, type_name=5):  # type: ignore[arg-type]
        pass


def _own_field() -> None:
    class Wrong(Failure):
        args: tuple[int, ...]


def _not_json() -> None:
    class Wrong(Failure):
        left: complex


@pytest.mark.parametrize(
    ("declare", "says"),
    [
        (_two_of_a_name, "travels by its name: give one another type_name"),
        (_no_name, "type_name='', expected a str of 1 to 255 characters"),
        (_number_as_name, "type_name=5, expected a str"),
        (_own_field, "each exception has args"),
        (_not_json, "which JSON cannot carry"),
    ],
)
def test_a_failure_that_cannot_be_is_refused(declare: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        declare()


def test_what_would_not_come_back_is_refused_where_it_is_made() -> None:
    with pytest.raises(EventMismatch, match="answer CreditLimitExceeded cannot be published, its field available"):
        written(CreditLimitExceeded(available="x"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Failure itself says nothing"):
        written(Failure())


def test_an_answer_is_what_the_command_declares() -> None:
    reserve, forget = spec_of(KeepCredit), spec_of(ForgetCustomer)
    with pytest.raises(UsageError, match="returned nothing, expected a CreditReserved or a Failure"):
        reply_with(reserve, "c-1", None)
    with pytest.raises(UsageError, match="returned a Plain, expected a CreditReserved"):
        reply_with(reserve, "c-1", Plain(1))
    with pytest.raises(UsageError, match="returned the class CreditReserved, expected a CreditReserved"):
        reply_with(reserve, "c-1", CreditReserved)
    with pytest.raises(UsageError, match="returned a Plain, expected nothing or a Failure"):
        reply_with(forget, "c-1", Plain(1))
    assert outcome(forget, reply_with(forget, "c-1", None)) is None
    with pytest.raises(CreditLimitExceeded):
        outcome(reserve, reply_with(reserve, "c-1", CreditLimitExceeded(available=Decimal(0))))
    with pytest.raises(BadMessage, match=r"the command c-1 was done, but the reply to .*KeepCredit.v1"):
        outcome(reserve, Reply("c-1", msgspec.Raw(b'{"other":1}')))


def test_what_is_no_command_is_not_sent() -> None:
    with pytest.raises(UsageError, match=r"is an event.*step.publish\(CreditReserved"):
        command_type(CreditReserved(customer_id=1, left=Decimal(0)))
    with pytest.raises(UsageError, match="a Plain is no command"):
        command_type(Plain(1))
    with pytest.raises(UsageError, match="is a class: send an object of it"):
        command_type(ForgetCustomer)


# ------------------------------------------------------------------------------------------------------------ handlers


def reserve(command: KeepCredit) -> CreditReserved | CreditLimitExceeded:
    return CreditReserved(customer_id=1, left=Decimal(0))


async def reserve_async(command: KeepCredit) -> CreditReserved:
    return CreditReserved(customer_id=1, left=Decimal(0))


def reserve_later(command: KeepCredit) -> Awaitable[CreditReserved]:
    return reserve_async(command)


def refuse(command: KeepCredit) -> NoReturn:
    raise CreditLimitExceeded(available=Decimal(0))


def say_nothing(command: KeepCredit) -> None: ...


def say_else(command: KeepCredit) -> Plain:
    return Plain(1)


def pair_without_entity(command: KeepCredit) -> tuple[Plain, CreditReserved]:
    raise NotImplementedError


Answer = TypeAliasType("Answer", CreditReserved | CreditLimitExceeded)  # as `type Answer = ...` makes it


def reserve_alias(command: KeepCredit) -> Answer:
    raise NotImplementedError


def forget(command: ForgetCustomer) -> None: ...


def forget_and_say(command: ForgetCustomer) -> CreditReserved:
    raise NotImplementedError


def of_an_event(event: CreditReserved) -> None: ...


def of_two(command: KeepCredit | ForgetCustomer) -> None: ...


@pytest.mark.parametrize("function", [reserve, reserve_async, reserve_later, reserve_alias, refuse, forget])
def test_a_return_type_that_fits_is_accepted(function: Any) -> None:
    customers = Service("customers")
    assert customers.handles(function) is function
    assert customers.subscribed_topics == ("customers.commands",)


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "declared_accounts"

    customer_id: Mapped[int] = mapped_column(primary_key=True)


ANSWERS: list[Any] = [CreditReserved, CreditLimitExceeded, CreditReserved | CreditLimitExceeded]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_new_entity_comes_with_the_reply_or_a_failure(answer: Any) -> None:
    def open_account(account: Account | None, command: KeepCredit) -> Any: ...

    customers = Service("customers")
    open_account.__annotations__["return"] = tuple[Account, answer]
    customers.handles(open_account)
    open_account.__annotations__["return"] = tuple[Account, answer | Plain]
    with pytest.raises(UsageError, match=r"expected CreditReserved, tuple\[Account, CreditReserved\]"):
        Service("customers").handles(open_account)


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (say_nothing, "annotated to return NoneType; expected CreditReserved or a Failure"),
        (say_else, "annotated to return Plain; expected CreditReserved"),
        (pair_without_entity, r"annotated to return tuple\[.*expected CreditReserved"),
        (forget_and_say, "annotated to return CreditReserved; expected None or a Failure"),
        (of_an_event, "takes CreditReserved, expected one command: .* declared with @customers.on"),
        (of_two, r"takes KeepCredit \| ForgetCustomer, expected one command"),
    ],
)
def test_a_handler_that_cannot_work_is_refused(function: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Service("customers").handles(function)


def test_a_command_has_one_handler_in_its_own_service() -> None:
    with pytest.raises(UsageError, match=r"a command for service customers: declare it with @customers.handles"):
        Service("orders").handles(reserve)
    customers = Service("customers")
    customers.handles(reserve)
    with pytest.raises(UsageError, match=r"two handlers of customers\.commands\.KeepCredit\.v1, reserve and again"):
        customers.handles(name="again")(reserve)
    with pytest.raises(UsageError, match=r"which is a command: declare it with @customers\.handles"):
        customers.on(name="third")(reserve)


def test_a_service_calls_commands_only() -> None:
    assert Service("orders", calls=[KeepCredit]).subscribed_topics == ("orders.replies",)
    with pytest.raises(UsageError, match="calls=CreditReserved, which is an event"):
        Service("orders", calls=[CreditReserved])
    with pytest.raises(UsageError, match=r"calls=KeepCredit is no list; write calls=\[KeepCredit\]"):
        Service("orders", calls=KeepCredit)  # type: ignore[arg-type]
