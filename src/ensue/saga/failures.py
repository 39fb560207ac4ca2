"""Failures that Ensue itself resolves an operation with, or ends a saga with."""

from __future__ import annotations

from ensue.failure import Failure


class TimeLimitExceeded(Failure, type_name="ensue.TimeLimitExceeded"):
    """Nothing came within the `limit=` of an operation. What it asked for may have been done all the same."""

    operation: str


class DeadlineExceeded(Failure, type_name="ensue.DeadlineExceeded"):
    """A saga was not past its pivot when its deadline came."""


class SagaCancelled(Failure, type_name="ensue.SagaCancelled"):
    """A saga was cancelled before its pivot."""
