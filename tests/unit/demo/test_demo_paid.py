"""What the demo checks of the money, by orchestration: each difference is found, and named."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

from shop.demo.model import CANCELLED, OPEN, REJECTED, Model, ModelOrder, run_model
from shop.demo.paid import KINDS, Entry, Money, check_money, check_sagas, of_book
from shop.demo.plan import CreateCustomer, Operation, PlaceOrder, Plan, Planned
from shop.demo.snapshot import PaymentState

OPENED, GIVEN_UP, DECLINED, NO_CREDIT = (UUID(int=number) for number in range(1, 5))
CUSTOMER, AT = UUID(int=9), datetime(2011, 1, 1, tzinfo=UTC)
PRICE = Decimal("5.00")


def order(status: str, *, declined: bool = False) -> ModelOrder:
    return ModelOrder(CUSTOMER, PRICE, AT, status, declined)


MODEL = Model(
    orders={
        OPENED: order(OPEN), GIVEN_UP: order(CANCELLED), DECLINED: order(REJECTED, declined=True),
        NO_CREDIT: order(REJECTED),
    }
)  # fmt: skip
PAYMENTS = {
    OPENED: PaymentState(PRICE, "CAPTURED"), GIVEN_UP: PaymentState(PRICE, "REFUNDED"),
    DECLINED: PaymentState(PRICE, "REFUSED"),
}  # fmt: skip


def entry(kind: str, payment: UUID, pence: int = 500, status: int = 200, key: str = "", asked: int = 1) -> Entry:
    return Entry(key or f"{kind} {payment}", kind, payment, pence, status, asked)


BOOK = [
    entry("authorisations", OPENED, asked=3), entry("captures", OPENED),
    entry("authorisations", GIVEN_UP), entry("captures", GIVEN_UP), entry("refunds", GIVEN_UP),
    entry("authorisations", DECLINED, status=402), entry("voids", DECLINED, 0),
]  # fmt: skip


def broken(payments: dict[UUID, PaymentState], book: list[Entry]) -> dict[str, tuple[str, ...]]:
    found = check_money(Money("HTTP", payments, book), MODEL)
    return {each.name: each.differences for each in found if not each.holds}


def test_money_that_is_where_it_should_be_holds() -> None:
    assert broken(PAYMENTS, BOOK) == {}
    assert of_book(BOOK) == dict(zip(KINDS, (2, 0, 2, 1), strict=True)) | {"refused": 1, "asked_again": 2}


def test_an_open_order_that_is_not_paid_is_named() -> None:
    for status in ("AUTHORISED", "ASKED", "REFUSED"):
        found = broken(PAYMENTS | {OPENED: PaymentState(PRICE, status)}, BOOK)
        assert found["OPEN is captured, CANCELLED is refunded"] == (f"{OPENED}: 5.00 CAPTURED against 5.00 {status}",)


def test_a_payment_of_an_order_without_credit_is_named() -> None:
    found = broken(PAYMENTS | {NO_CREDIT: PaymentState(PRICE, "VOIDED")}, BOOK)
    assert found == {"OPEN is captured, CANCELLED is refunded": (f"{NO_CREDIT}: nothing against 5.00 VOIDED",)}


def test_what_the_provider_did_otherwise_is_named() -> None:
    for kind in ("voids", "refunds"):
        [said] = broken(PAYMENTS, [*BOOK, entry(kind, OPENED)])["the provider's book = ours"]
        assert f"{kind} 500" in said
    [said] = broken(PAYMENTS, [each for each in BOOK if each.kind != "refunds"])["the provider's book = ours"]
    assert said.startswith(f"{GIVEN_UP}: REFUNDED of 5.00 here; pence there: authorisations 500")
    [said] = broken(PAYMENTS, [*BOOK, entry("authorisations", NO_CREDIT)])["the provider's book = ours"]
    assert said.startswith(f"{NO_CREDIT}: nothing of 0 here")


def test_what_is_charged_twice_is_named() -> None:
    found = broken(PAYMENTS, [*BOOK, entry("captures", OPENED, key="another")])
    assert found["nothing is charged twice"] == (f"{OPENED}: 2 captures",)


def test_a_saga_that_has_not_ended_is_named() -> None:
    assert check_sagas({"orders": {"COMPLETED": 7, "UNDONE": 2}}).holds
    found = check_sagas({"orders": {"COMPLETED": 7}, "payments": {"PARKED": 1}})
    assert (found.compared, found.differences) == (8, ("payments: 1 sagas are PARKED",))


def test_a_refused_card_rejects_an_order_and_leaves_the_credit_to_the_next() -> None:
    operations: list[Operation] = [
        CreateCustomer(CUSTOMER, "Ann", Decimal(100)),
        PlaceOrder(CUSTOMER, DECLINED, Decimal(90), AT),
        PlaceOrder(CUSTOMER, OPENED, Decimal(80), AT),
        PlaceOrder(CUSTOMER, NO_CREDIT, Decimal(30), AT),
    ]
    model = run_model(Plan({CUSTOMER: [Planned(0.0, each) for each in operations]}, 0, 0), card_max=Decimal(80))
    assert {key: (each.status, each.declined) for key, each in model.orders.items()} == {
        DECLINED: (REJECTED, True), OPENED: (OPEN, False), NO_CREDIT: (REJECTED, False),
    }  # fmt: skip
    assert model.events() == {"orders": 6, "customers": 1 + 3 + 1}
