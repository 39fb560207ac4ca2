"""Handlers in all the shapes of Python: each takes effect, or is refused with what to write instead."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from ensue import Event, Message, Service, Step
from ensue.errors import UsageError
from ensue.repository import TableRepository
from ensue.testing import given


class Paid(Event, topic="paid", key="k"):
    k: str


done: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


def logged(function: Callable[..., Any]) -> Callable[..., Any]:
    """The usual decorator, written for plain functions."""

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


async def body(event: Paid) -> None:
    done.append(event.k)


async def with_more(event: Paid, prefix: str) -> None:
    done.append(prefix + event.k)


def forgot_await(event: Paid) -> Awaitable[None]:
    return body(event)


async def forgot_await_inside(event: Paid) -> Awaitable[None]:
    return body(event)


class Async:
    async def __call__(self, event: Paid) -> None:
        done.append(event.k)

    async def method(self, event: Paid) -> None:
        done.append(event.k)

    @classmethod
    async def of_class(cls, event: Paid) -> None:
        done.append(event.k)

    @staticmethod
    async def static(event: Paid) -> None:
        done.append(event.k)

    def plain(self, event: Paid) -> None:
        done.append(event.k)


class PlainCall:
    def __call__(self, event: Paid) -> None:
        done.append(event.k)


@pytest.mark.parametrize(
    "handler",
    [
        logged(body), logged(logged(body)), forgot_await, forgot_await_inside, functools.partial(body),
        functools.partial(logged(body)), Async(), Async().method,
        Async.of_class, Async.static, staticmethod(body), Async().plain, PlainCall(), logged(Async().method),
        functools.partial(Async()),
    ],
    ids=[
        "decorated", "decorated twice", "forgot await", "forgot await inside", "partial", "partial of decorated",
        "async call", "async method", "classmethod", "static method", "staticmethod object", "plain method",
        "plain call", "decorated method", "partial of async call",
    ],
)  # fmt: skip
async def test_a_handler_takes_effect_in_any_shape(handler: Any) -> None:
    service = Service("shop")
    service.on(handler)
    result = await given(service).when(Paid(k="1"))
    assert (result.error, done) == (None, ["1"])


async def test_a_partial_may_bind_what_is_no_business_of_ours() -> None:
    service = Service("shop")
    service.on(functools.partial(with_more, prefix="no. "))
    await given(service).when(Paid(k="1"))
    assert done == ["no. 1"]


def generator(event: Paid) -> Iterator[None]:
    done.append("generator")
    yield


async def async_generator(event: Paid) -> AsyncIterator[None]:
    done.append("async generator")
    yield


class Made:
    def __init__(self, event: Paid) -> None:
        done.append("made")


@functools.lru_cache
def cached(event: Paid) -> None:
    done.append("cached")


def keyword_only(event: Paid, *, step: Step, message: Message) -> None:
    done.append(f"{event.k} {message.key} {step.message is message}")


@pytest.mark.parametrize("handler", [keyword_only, logged(keyword_only)], ids=["plain", "decorated"])
async def test_parameters_that_are_given_by_name_only_are_handed_over(handler: Any) -> None:
    service = Service("shop")
    service.on(handler)
    result = await given(service).when(Paid(k="1"))
    assert (result.error, done) == (None, ["1 1 True"])


class Shipped(Event, topic="paid", key="k"):
    k: str


async def answers(event: Paid) -> Shipped:
    return Shipped(k=event.k)


def answers_plainly(event: Paid) -> list[Shipped]:
    return [Shipped(k=event.k)]


@pytest.mark.parametrize("handler", [answers, answers_plainly, logged(answers)])
async def test_an_event_that_is_returned_is_a_failure_that_says_how_to_publish_it(handler: Any) -> None:
    service = Service("shop")
    service.on(handler)
    result = await given(service).when(Paid(k="1"))
    assert isinstance(result.error, UsageError)
    assert "returned a Shipped, which publishes nothing" in str(result.error)
    assert "step.publish(Shipped(...))" in str(result.error)


async def test_what_else_a_plain_handler_returns_is_nobodys_business() -> None:
    service = Service("shop")
    for number, value in enumerate((5, "text", [1, 2], {"a": 1})):
        service.on(name=f"handler{number}")(returning(value))
    assert (await given(service).when(Paid(k="1"))).error is None


def returning(value: object) -> Callable[[Paid], object]:
    return functools.partial(_returns, value)


def _returns(value: object, event: Paid) -> object:
    return value


class InClass:
    @classmethod
    def of_class(cls, event: Paid) -> None: ...


@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (generator, "yield"),
        (async_generator, "yield"),
        (functools.partial(generator), "yield"),
        (Made, "class"),
        (cached, "cached"),
        (functools.partial(cached), "cached"),
        (functools.lru_cache(body), "cached"),
        (InClass.__dict__["of_class"], "classmethod, which cannot be called"),
    ],
)
def test_what_would_do_nothing_when_called_is_refused_at_the_declaration(handler: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as refused:
        Service("shop").on(handler)
    assert str(refused.value).startswith("handler shop.")


@pytest.mark.parametrize(
    "handler",
    [logged(generator), logged(async_generator), contextlib.contextmanager(generator),
     contextlib.asynccontextmanager(async_generator)],
    ids=["generator", "async generator", "context manager", "async context manager"],
)  # fmt: skip
async def test_a_generator_under_a_decorator_is_a_failure_that_names_the_handler(handler: Any) -> None:
    service = Service("shop")
    service.on(handler)
    result = await given(service).when(Paid(k="1"))
    assert isinstance(result.error, UsageError)
    assert f"handler {handler.__name__} of paid.Paid.v1 returned a" in str(result.error)
    assert done == []


# ------------------------------------------------------------------------------------------------------ entity steps


@dataclasses.dataclass
class Account:
    id: str
    paid: int = 0


tables = sa.MetaData()
accounts = sa.Table("account", tables, sa.Column("id", sa.String, primary_key=True), sa.Column("paid", sa.Integer))


def service_with(*handlers: Any) -> Service:
    service = Service("bank", repositories=[TableRepository(Account, accounts)], tables=tables)
    for number, handler in enumerate(handlers):
        service.on(id="k", name=f"handler{number}")(handler)
    return service


async def pays(account: Account, event: Paid) -> None:
    account.paid += 1


async def opens(account: Account | None, event: Paid) -> Account:
    return account or Account(event.k, 1)


def opens_later(account: Account | None, event: Paid) -> Awaitable[Account]:
    return opens(account, event)


@pytest.mark.parametrize("mixed", [False, True], ids=["entity steps alone", "with a plain handler"])
async def test_an_entity_step_that_returns_an_event_is_a_failure_that_says_how_to_publish_it(mixed: bool) -> None:
    async def pays_and_answers(account: Account, event: Paid) -> Any:
        return account, Shipped(k=event.k)

    service = service_with(pays_and_answers)
    if mixed:
        service.on(body)
    result = await given(service, Account("a")).when(Paid(k="a"))
    assert isinstance(result.error, UsageError)
    assert "step.publish(Shipped(...))" in str(result.error)


async def test_an_entity_may_be_given_by_name_only() -> None:
    def by_name(*, event: Paid, account: Account) -> None:
        account.paid += 1

    result = await given(service_with(by_name), Account("a")).when(Paid(k="a"))
    assert result.entity(Account, "a").paid == 1


@pytest.mark.parametrize("mixed", [False, True], ids=["entity steps alone", "with a plain handler"])
async def test_an_entity_step_under_a_decorator_takes_effect(mixed: bool) -> None:
    for handler in (logged(pays), logged(opens), opens_later, pays):
        service = service_with(handler)
        if mixed:
            service.on(body)
        before = [Account("a")] if "pays" in handler.__name__ else []
        result = await given(service, *before).when(Paid(k="a"))
        assert result.error is None
        assert result.entity(Account, "a").paid == 1


async def test_an_entity_step_that_is_a_generator_under_a_decorator_is_a_failure() -> None:
    def yields(account: Account, event: Paid) -> Iterator[None]:
        account.paid += 1
        yield

    yields.__annotations__ = {"account": Account, "event": Paid}
    result = await given(service_with(logged(yields)), Account("a")).when(Paid(k="a"))
    assert isinstance(result.error, UsageError)
    assert "of which nothing has run" in str(result.error)
