"""Orders in the admin: one that is added there is placed like any other."""

from __future__ import annotations

from django.contrib import admin

from django_orders.orders.models import Change, Order


class ChangeInline(admin.TabularInline):
    model = Change
    extra = 0
    can_delete = False
    readonly_fields = ("text",)


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = ("id", "customer_id", "total", "state")
    readonly_fields = ("state",)
    inlines = (ChangeInline,)
