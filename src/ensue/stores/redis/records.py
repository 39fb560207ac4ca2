"""What this store refuses."""

from __future__ import annotations

from ensue.errors import UsageError


def no_sessions() -> UsageError:
    return UsageError(
        "a Redis store has no SQLAlchemy sessions: declare entities with TableRepository, and read them by `rows`"
    )


def no_outbox(service: str) -> UsageError:
    return UsageError(
        f"service {service} published an event, and its Redis store is for views: it has no outbox. Let this service "
        f"publish nothing (publishes=[]), or give it another database, e.g. postgresql://"
    )
