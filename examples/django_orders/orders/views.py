"""Orders over HTTP."""

from __future__ import annotations

import json

from django.http import HttpRequest, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from django_orders.orders.models import Order


@csrf_exempt  # of an API, whose clients have no cookies
@require_POST
def place(request: HttpRequest) -> JsonResponse:
    wanted = json.loads(request.body)
    order = Order.objects.create(customer_id=int(wanted["customer_id"]), total=int(wanted["total"]))
    return JsonResponse({"id": order.pk, "state": order.state}, status=201)


@require_GET
def show(request: HttpRequest, order_id: int) -> JsonResponse:
    order = get_object_or_404(Order, pk=order_id)
    changes = list(order.changes.values_list("text", flat=True))
    return JsonResponse({"id": order.pk, "state": order.state, "changes": changes})
