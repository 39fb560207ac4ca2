"""An order, and what has become of it."""

from __future__ import annotations

from typing import Any

from django.db import models, transaction

from django_orders.contracts import OrderPlaced
from ensue.integrations.django import publish


class Order(models.Model):
    customer_id = models.IntegerField()
    total = models.PositiveIntegerField()
    state = models.CharField(max_length=10, default="pending", editable=False)

    def __str__(self) -> str:
        return f"order {self.pk} of customer {self.customer_id}: {self.total}, {self.state}"

    def save(self, *given: Any, **options: Any) -> None:
        """A new one is placed, wherever it comes from: a view, the admin, a script."""
        new = self._state.adding
        with transaction.atomic():
            super().save(*given, **options)
            if new:
                publish(OrderPlaced(order_id=self.pk, customer_id=self.customer_id, total=self.total))


class Change(models.Model):
    """A line of an order's history. Only that each event takes effect once keeps it from being written twice."""

    order = models.ForeignKey(Order, models.CASCADE, related_name="changes")
    text = models.CharField(max_length=100)

    def __str__(self) -> str:
        return str(self.text)
