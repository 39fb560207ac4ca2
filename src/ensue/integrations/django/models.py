"""Ensue's own tables as the admin shows them. They are unmanaged: a migration makes them from Ensue's statements."""

from __future__ import annotations

import datetime
from typing import Any

from django.db import models

from ensue.codec import decode_envelope
from ensue.errors import BadMessage
from ensue.message import DeadLetterState


class DeadLetter(models.Model):
    """A message set aside after its last attempt, or behind one that was."""

    id = models.CharField(primary_key=True, max_length=191)
    place = models.TextField("topic/partition")
    number = models.BigIntegerField()
    state = models.CharField(max_length=191, choices=[(each.value, each.value) for each in DeadLetterState])
    log_offset = models.BigIntegerField("offset")
    position = models.BigIntegerField()
    record_key = models.BinaryField()
    envelope = models.BinaryField()
    data = models.BinaryField()
    attempts = models.BigIntegerField()
    due_at = models.FloatField()
    error_type = models.TextField()
    error = models.TextField()
    parked_at = models.FloatField()

    class Meta:
        managed = False
        db_table = "ensue_dead_letter"
        ordering = ("parked_at", "id")
        verbose_name = "dead letter"
        default_permissions = ("change", "view")

    def __str__(self) -> str:
        return str(self.id)

    @property
    def key(self) -> str:
        return bytes(self.record_key).decode(errors="replace")

    @property
    def event(self) -> str:
        """The type of the message, where it can be read."""
        try:
            return decode_envelope(bytes(self.envelope)).type
        except BadMessage:
            return "(no message)"

    @property
    def text(self) -> str:
        """The data, as far as it is text."""
        return bytes(self.data).decode(errors="replace")

    @property
    def set_aside(self) -> datetime.datetime:
        return _time(self.parked_at)


class Decision(models.Model):
    """What a person has decided, through whichever face, and why."""

    id = models.CharField(primary_key=True, max_length=191)
    decided_at = models.FloatField()
    actor = models.TextField()
    origin = models.CharField(max_length=191)
    action = models.CharField(max_length=191)
    target = models.TextField()
    reason = models.TextField()
    state_before = models.TextField("before")
    state_after = models.TextField("after")

    class Meta:
        managed = False
        db_table = "ensue_decision"
        ordering = ("-decided_at", "-id")
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    @property
    def when(self) -> datetime.datetime:
        return _time(self.decided_at)


def _time(seconds: Any) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)
