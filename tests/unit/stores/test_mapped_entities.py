"""Entities as SQLAlchemy maps them elsewhere: eager relationships, hierarchies, objects that were read before."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey, String, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from ensue import Event, Service, Step
from ensue.ports import Store
from ensue.stores.mariadb.store import MariaDbStore
from ensue.stores.postgres.store import PostgresStore
from ensue.testing import run


class Filled(Event, topic="t-mapped", key="cart_id"):
    cart_id: str


class Emptied(Event, topic="t-mapped", key="cart_id"):
    cart_id: str


class Base(DeclarativeBase):
    pass


class Owner(Base):
    __tablename__ = "owner"
    id: Mapped[int] = mapped_column(primary_key=True)


class Cart(Base):
    __tablename__ = "cart"
    cart_id: Mapped[str] = mapped_column(String(50), primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    filled: Mapped[int] = mapped_column(default=0)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("owner.id"))
    owner: Mapped[Owner | None] = relationship(lazy="joined")
    lines: Mapped[list[Line]] = relationship(lazy="joined")
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "plain", "with_polymorphic": "*"}  # noqa: RUF012  # as SQLAlchemy wants it


class BigCart(Cart):
    __tablename__ = "big_cart"
    cart_id: Mapped[str] = mapped_column(ForeignKey("cart.cart_id"), primary_key=True)
    wheels: Mapped[int] = mapped_column(default=0)
    __mapper_args__ = {"polymorphic_identity": "big"}  # noqa: RUF012


class Line(Base):
    __tablename__ = "line"
    id: Mapped[int] = mapped_column(primary_key=True)
    cart_id: Mapped[str] = mapped_column(ForeignKey("cart.cart_id"))


MakeStore = Callable[[str], Store]


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
def make_store(request: pytest.FixtureRequest) -> MakeStore | None:
    database = f"mapped_{secrets.token_hex(4)}"
    if request.param == "postgres":
        postgres = request.getfixturevalue("postgres_server")
        postgres.psql("postgres", f"CREATE DATABASE {database}")
        return lambda service: PostgresStore(postgres.url(database), service)
    if request.param == "mariadb":
        mariadb = request.getfixturevalue("mariadb_server")
        mariadb.sql(f"CREATE DATABASE {database}")
        return lambda service: MariaDbStore(mariadb.url(database), service)
    return None


async def test_an_entity_of_a_hierarchy_with_eager_relationships_is_loaded_and_saved(
    make_store: MakeStore | None,
) -> None:
    carts = Service("carts", tables=Base.metadata, publishes=[Filled])

    @carts.on
    def fill(cart: Cart, event: Filled) -> None:
        cart.filled += len(cart.lines)

    @carts.on
    def roll(cart: BigCart, event: Filled) -> None:
        cart.wheels += 4

    async with run(carts, make_store=make_store) as world:
        runtime = world.runtimes["carts"]
        async with runtime.step() as step:
            step.session.add(BigCart(cart_id="a", lines=[Line(), Line()]))
            await step.session.flush()
            step.publish(Filled(cart_id="a"))
            step.publish(Filled(cart_id="a"))
        await world.settle()
        assert not await world.dead_letters(carts)
        async with runtime.reading() as session:
            assert (await session.execute(select(BigCart.filled, BigCart.wheels))).one() == (4, 8)


async def test_what_a_plain_handler_read_without_a_lock_is_read_anew_for_an_entity_step(
    make_store: MakeStore | None,
) -> None:
    if make_store is None:
        pytest.skip("one writer at a time: nobody changes a row between read and lock")
    carts = Service("carts", tables=Base.metadata, publishes=[Filled])
    kept: list[Any] = []

    @carts.on
    async def look(event: Filled, session: AsyncSession) -> None:
        kept.append(await session.get(Cart, event.cart_id))
        if len(kept) == 1:
            async with runtime.store.transaction() as other:  # as another process would
                await other.session.execute(update(Cart).values(filled=100))

    @carts.on
    def fill(cart: Cart, event: Filled) -> None:
        cart.filled += 1

    async with run(carts, make_store=make_store) as world:
        runtime = world.runtimes["carts"]
        async with runtime.step() as step:
            step.session.add(Cart(cart_id="a"))
            await step.session.flush()
            step.publish(Filled(cart_id="a"))
        await world.settle()
        assert not await world.dead_letters(carts)
        async with runtime.reading() as session:
            assert await session.scalar(select(Cart.filled)) == 101


@pytest.mark.parametrize("flushed", [False, True])
async def test_an_entity_that_a_handler_deletes_is_gone_for_the_rest_of_its_batch(
    make_store: MakeStore | None, flushed: bool
) -> None:
    carts = Service("carts", tables=Base.metadata, publishes=[Filled, Emptied])
    batch: list[str] = []

    @carts.on
    async def empty(cart: Cart, event: Emptied, step: Step) -> None:
        batch.append("deleted")
        await step.session.delete(cart)
        if flushed:
            await step.session.flush()

    @carts.on
    def fill(cart: Cart | None, event: Filled) -> Cart | None:
        if cart is None:
            batch.append("new")
            return Cart(cart_id=event.cart_id, kind="plain", filled=7)
        batch.append("filled")
        cart.filled += 1
        return None

    async with run(carts, make_store=make_store) as world:
        runtime = world.runtimes["carts"]
        async with runtime.step() as step:
            step.session.add(Cart(cart_id="a"))
            await step.session.flush()
            for event in (Filled, Emptied, Filled, Filled):
                step.publish(event(cart_id="a"))
        await world.settle()
        assert not await world.dead_letters(carts)
        assert batch == ["filled", "deleted", "new", "filled"]
        async with runtime.reading() as session:
            assert await session.scalar(select(Cart.filled)) == 8
