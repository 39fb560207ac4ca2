"""The project's own tests: `python manage.py test`. No broker and no worker runs."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import transaction
from django.test import TestCase

from django_orders.contracts import CreditRefused, CreditReserved, OrderOpened, OrderPlaced, OrderRejected
from django_orders.orders.models import Order
from ensue.errors import UsageError
from ensue.integrations.django import publish
from ensue.integrations.django.testing import captured_events, deliver


class OrderTest(TestCase):
    def test_an_order_is_placed_in_the_view_and_opened(self) -> None:
        with captured_events() as captured:
            answer = self.client.post("/orders/", {"customer_id": 7, "total": 30}, content_type="application/json")
        order_id = answer.json()["id"]
        self.assertTrue(answer.headers["X-Correlation-Id"])
        self.assertEqual(captured.events, [OrderPlaced(order_id=order_id, customer_id=7, total=30)])

        with captured_events() as captured:
            deliver(CreditReserved(order_id=order_id, customer_id=7))
        self.assertEqual(captured.events, [OrderOpened(order_id=order_id, customer_id=7)])
        self.assertEqual(self.client.get(f"/orders/{order_id}/").json()["state"], "open")

    def test_an_order_is_placed_in_the_admin_and_rejected(self) -> None:
        self.client.force_login(User.objects.create_superuser("ann", password=None))
        form = {"customer_id": 7, "total": 30, "changes-TOTAL_FORMS": 0, "changes-INITIAL_FORMS": 0}
        with captured_events() as captured:
            self.client.post("/admin/orders/order/add/", form)
        order = Order.objects.get()
        self.assertEqual(captured.events, [OrderPlaced(order_id=order.pk, customer_id=7, total=30)])
        deliver(CreditRefused(order_id=order.pk, customer_id=7, available=20))
        order.refresh_from_db()
        self.assertEqual([order.state, order.changes.get().text], ["rejected", "only 20 available"])

    def test_a_savepoint_takes_its_event_along(self) -> None:
        with captured_events() as captured, transaction.atomic():
            try:
                with transaction.atomic():
                    Order.objects.create(customer_id=1, total=1)
                    raise ValueError
            except ValueError:
                order = Order.objects.create(customer_id=1, total=2)
        self.assertEqual(captured.events, [OrderPlaced(order_id=order.pk, customer_id=1, total=2)])

    def test_what_a_handler_raises_undoes_all_of_it(self) -> None:
        with captured_events() as captured, self.assertRaises(Order.DoesNotExist):
            deliver(CreditReserved(order_id=77, customer_id=7))
        self.assertEqual(captured.events, [])

    def test_an_event_that_nobody_here_handles_is_told_of(self) -> None:
        with self.assertRaisesRegex(UsageError, "no handler of it"):
            deliver(OrderOpened(order_id=1, customer_id=1))

    def test_outside_of_a_transaction_of_its_own_it_is_refused_as_in_production(self) -> None:
        with self.assertRaisesRegex(UsageError, "outside of a transaction"):
            publish(OrderRejected(order_id=1, customer_id=1))
