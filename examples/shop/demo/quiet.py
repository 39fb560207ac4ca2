"""When is all quiet? Read from the databases alone, so that no service's own opinion is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from shop.demo.books import Books, read_books
from shop.demo.databases import Databases

#: How long to wait for the next event to be applied anywhere before giving up, in seconds.
PATIENCE_S = 60.0
#: The same where a saga may have tried a provider for so often that it waits for minutes.
PATIENCE_PAID_S = 200.0


#: What a saga is at its end. One that waits for an answer, a provider or a person is not done.
ENDED = ("COMPLETED", "UNDONE")


class NotQuiet(Exception):
    """The services did not finish; the text says who lags behind whom, by what."""


def unfinished(books: Books, expected: Mapping[str, int] | None = None) -> list[str]:
    """Return who still has what to do, in words; empty when there is nothing.

    expected: how many events each service has published in the end. Positions have no holes, so the last one says how
    many there are that have one; an event may wait for its position where nobody can see it (in a log that is read).
    By orchestration commands and answers have positions too, so the events of each topic have to be counted, if all
    else is done.
    """
    behind = [
        f"{each.subscriber} is at position {each.watermark} of {each.head} in {each.topic}/{each.partition} of "
        f"{each.source}" + (" and has an open gap" if each.gap else "")
        for each in books.streams
        if each.watermark != each.head or each.gap
    ]
    aside = [
        f"{subscriber} has {count} messages set aside that it will try again"
        for subscriber, count in books.undecided.items()
        if count
    ]
    missing = [
        f"{service} has published {books.last[service]} of {count} events"
        for service, count in (expected or {}).items()
        if not books.sagas and books.last[service] < count
    ]
    alive = [
        f"{service} has {count} sagas that are {status}"
        for service, by_status in books.sagas.items()
        for status, count in by_status.items()
        if status not in ENDED
    ]
    return behind + aside + missing + alive


async def wait_until_quiet(
    databases: Databases,
    expected: Mapping[str, int] | None = None,
    patience_s: float = PATIENCE_S,
    interval_s: float = 0.1,
) -> None:
    """Return when every subscriber has applied everything sent to it and nobody has anything left to send.

    The databases are not read at one moment. But positions never go back: when two looks find the same, and nothing
    unfinished, then at the moment between the two all databases were like that at once. Nothing new may be asked of
    the services meanwhile.
    Raises NotQuiet when nothing moved for `patience_s`.
    """
    loop = asyncio.get_running_loop()
    before = None
    moved_at = loop.time()
    while True:
        books = await asyncio.to_thread(read_books, databases, count_published=False)
        left = unfinished(books, expected)
        if books.streams == before:
            if not left:
                left = await asyncio.to_thread(_unsent, databases, expected or {}) if books.sagas else []
            if not left:
                return
            if loop.time() - moved_at > patience_s:
                raise NotQuiet(f"nothing moved for {patience_s:g} s, but {'; '.join(left)}")
        else:
            before, moved_at = books.streams, loop.time()
        await asyncio.sleep(interval_s)


def _unsent(databases: Databases, expected: Mapping[str, int]) -> list[str]:
    published = read_books(databases).published
    return [
        f"{published.get(topic, 0)} of {count} events are published in {topic}"
        for topic, count in expected.items()
        if published.get(topic, 0) < count
    ]
