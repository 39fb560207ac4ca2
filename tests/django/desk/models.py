"""A row with whatever the databases have in ways of their own."""

from __future__ import annotations

from django.db import models


class Ticket(models.Model):
    id = models.IntegerField(primary_key=True)
    text = models.CharField(max_length=100, default="")
    count = models.IntegerField(default=0)
    closed = models.BooleanField(default=False)
    price = models.DecimalField(max_digits=8, decimal_places=2, default="0.00")
    opened_at = models.DateTimeField(null=True)
    notes = models.JSONField(default=dict)

    class Meta:
        app_label = "desk"


class Comment(models.Model):
    ticket = models.ForeignKey(Ticket, models.CASCADE)
    text = models.CharField(max_length=100, unique=True)

    class Meta:
        app_label = "desk"


class Badge(models.Model):
    """Holds what the database makes when the row is written."""

    id = models.UUIDField(primary_key=True)
    count = models.IntegerField(db_default=7)
    remark = models.JSONField(null=True)

    class Meta:
        app_label = "desk"


class Seat(models.Model):
    pk = models.CompositePrimaryKey("line", "number")
    line = models.IntegerField()
    number = models.IntegerField()

    class Meta:
        app_label = "desk"
