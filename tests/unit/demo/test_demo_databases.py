"""What is read past the services' own code, from tables that the services' own models made."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from ensue.stores.sqlite.schema import statements
from shop.customers.model import Base as CustomersBase
from shop.customers.model import Customer, Reservation
from shop.demo.databases import embedded
from shop.demo.from_databases import over_limit, snapshot_from_databases
from shop.demo.moments import Moments
from shop.demo.snapshot import CustomerState, OrderState
from shop.order_history.model import history_customers, history_orders, metadata
from shop.orders.model import Base as OrdersBase
from shop.orders.model import Order, Status

ANN, ORDER = UUID(int=1), UUID(int=2)
PLACED = datetime(2011, 1, 3, 9, 30, tzinfo=UTC)
STATE = OrderState(ANN, Decimal("60.10"), PLACED, "OPEN")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """One customer with a limit of 100 and one open order of 60.10, in all three databases."""
    placed: dict[str, Any] = {"order_id": ORDER, "customer_id": ANN, "total": STATE.total, "placed_at": PLACED}
    known: dict[str, Any] = {"customer_id": ANN, "name": "Ann", "credit_limit": Decimal(100), "reserved": STATE.total}
    for service, base in (
        ("orders", OrdersBase.metadata),
        ("customers", CustomersBase.metadata),
        ("order_history_v1", metadata),
    ):
        engine = create_engine(f"sqlite:///{tmp_path}/{service}.db")
        base.create_all(engine)
        with engine.begin() as connection:
            for statement in statements():
                connection.exec_driver_sql(statement)
        with Session(engine) as session, session.begin():
            if service == "orders":
                session.add(Order(**placed, status=Status.OPEN))
            elif service == "customers":
                session.add(Customer(**known))
                session.add(Reservation(order_id=ORDER, customer_id=ANN, amount=STATE.total))
            else:
                session.execute(history_orders.insert().values(**placed, status="OPEN", reason=""))
                session.execute(history_customers.insert().values(**known))
        engine.dispose()
    return tmp_path


def change(directory: Path, statement: str) -> None:
    with closing(sqlite3.connect(directory / "customers.db")) as database, database:
        database.execute(statement)


def test_event_sourced_customers_are_folded_by_the_demos_own_rules(directory: Path) -> None:
    change(directory, "DELETE FROM customers")
    change(directory, "DELETE FROM reservations")
    told = [
        ("CustomerCreated", {"name": "Ann", "credit_limit": "100"}),
        ("CreditReserved", {"order_id": str(UUID(int=9)), "amount": "7.00"}),
        ("CreditReservationFailed", {"order_id": str(UUID(int=8)), "reason": "too much"}),
        ("CreditReleased", {"order_id": str(UUID(int=9)), "amount": "7.00"}),
        ("CreditReserved", {"order_id": str(ORDER), "amount": "60.10"}),
    ]
    for version, (name, event) in enumerate(told, 1):
        envelope, data = {"type": f"customers.{name}.v1"}, {"customer_id": str(ANN), **event}
        row = f"'customer:{ANN}:{version:010}', x'{json.dumps(envelope).encode().hex()}'"
        change(directory, f"INSERT INTO ensue_stream VALUES ({row}, x'{json.dumps(data).encode().hex()}')")
    customers = snapshot_from_databases(embedded(directory)).customers
    assert customers[ANN].reserved == Decimal("60.10")
    assert (customers[ANN].name, customers[ANN].reservations) == ("Ann", {ORDER: Decimal("60.10")})
    assert over_limit(embedded(directory)["customers"]) == []
    state = {"customer_id": str(ANN), "credit_limit": "50", "reserved": "1", "reservations": {"x": "60.10"}}
    row = f"'customer:{ANN}', 'customer', 5, 5, '', x'{json.dumps(state).encode().hex()}'"
    change(directory, f"INSERT INTO ensue_aggregate VALUES ({row})")
    assert over_limit(embedded(directory)["customers"]) == [f"customer {ANN}: reserved 60.10, limit 50"]


def test_everything_is_read_to_the_penny_and_the_second(directory: Path) -> None:
    snapshot = snapshot_from_databases(embedded(directory))
    assert snapshot.orders == snapshot.view_orders == {ORDER: STATE}
    ann = CustomerState("Ann", Decimal(100), Decimal("60.10"))
    assert snapshot.view_customers == {ANN: ann}
    assert snapshot.customers == {ANN: CustomerState("Ann", Decimal(100), Decimal("60.10"), {ORDER: Decimal("60.10")})}


def test_reservation_of_nobody_is_not_overlooked(directory: Path) -> None:
    change(directory, "DELETE FROM customers")
    assert snapshot_from_databases(embedded(directory)).customers[ANN].reservations == {ORDER: Decimal("60.10")}


async def test_reservations_above_the_limit_are_seen_at_the_moment_they_are_there(directory: Path) -> None:
    moments = Moments(embedded(directory)["customers"])
    moments.look()
    change(directory, "UPDATE reservations SET amount = 10001")
    moments.look()
    change(directory, "UPDATE reservations SET amount = 10000")
    moments.look()
    assert moments.looks == 3
    assert moments.over == [f"customer {ANN}: reserved 100.01, limit 100.00"]
    assert over_limit(embedded(directory)["customers"]) == []


def test_reading_changes_nothing(directory: Path) -> None:
    before = (directory / "customers.db").read_bytes()
    snapshot_from_databases(embedded(directory))
    assert (directory / "customers.db").read_bytes() == before
