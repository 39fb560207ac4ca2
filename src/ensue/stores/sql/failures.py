"""What is behind an error."""

from __future__ import annotations

from collections.abc import Iterator


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what SQLAlchemy wrapped in it, and its causes; four at most."""
    for _ in range(4):
        if error is None:
            return
        yield error
        error = getattr(error, "orig", None) or error.__cause__
