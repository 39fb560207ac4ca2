"""Entities as SQLAlchemy maps them elsewhere: eager relationships, hierarchies, objects that were read before."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship
from tests.unit.stores.conftest import MakeStore

from ensue import Event, Service, Step, TableRepository, UsageError
from ensue.stores.sqlite import SqliteStore
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


async def test_a_service_starts_once_its_handlers_entities_have_tables_with_their_columns(
    make_store: MakeStore | None, tmp_path: Path
) -> None:
    make = make_store or (lambda service: SqliteStore(f"sqlite:///{tmp_path}/{service}.db", service))
    carts = Service("carts", repositories=[TableRepository(Shelf, shelf("cart_id"))])

    @carts.on
    def fill(cart: Cart, event: Filled) -> None: ...

    @carts.on
    def put(shelf: Shelf, event: Emptied) -> None: ...

    said = await refusal(carts, make)
    assert all(f"table {name}" in said for name in ("cart", "big_cart", "owner", "line", "shelf"))
    assert "needed by handler fill of t-mapped.Filled.v1 (Cart), handler put of t-mapped.Emptied.v1 (Shelf)" in said
    assert "Service('carts', tables=Base.metadata)" in said

    store = make("carts")
    await store.open()
    try:
        for metadata in (Base.metadata, shelf("cart_id").metadata):
            await store.create_tables(metadata)
    finally:
        await store.close()
    async with run(carts, make_store=make):
        pass

    longer = Service("carts", repositories=[TableRepository(Shelf, shelf("cart_id", "length"))])
    longer.on(put)
    said = await refusal(longer, make)
    assert "lacks column shelf.length, needed by handler put of t-mapped.Emptied.v1 (Shelf):" in said


@dataclasses.dataclass
class Shelf:
    cart_id: str


def shelf(key: str, *others: str) -> Table:
    return Table("shelf", MetaData(), Column(key, String(50), primary_key=True), *[Column(x, Integer) for x in others])


async def refusal(service: Service, make: MakeStore) -> str:
    with pytest.raises(UsageError, match="the database of service carts lacks ") as refused:
        async with run(service, make_store=make):
            pytest.fail("it started")
    return str(refused.value)


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
        # The last try: whoever asks for the session in the middle of a batch has it done anew.
        assert batch[-4:] == ["filled", "deleted", "new", "filled"]
        async with runtime.reading() as session:
            assert await session.scalar(select(Cart.filled)) == 8
