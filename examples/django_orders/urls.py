"""The project's URLs."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path

from django_orders.orders import views

urlpatterns = [
    path("admin/", admin.site.urls),
    path("orders/", views.place),
    path("orders/<int:order_id>/", views.show),
]
