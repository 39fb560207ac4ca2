"""A server that comes back with nothing: the view's versions are filled again, and the same one is asked."""

from __future__ import annotations

from pathlib import Path

from servers import RedisServer
from tests.views.ledger import (
    LedgerPosted,
    fold,
    make_scribe,
    make_view,
    until,
    until_ready,
    until_rows,
    versions_of,
)

from ensue import View


async def test_the_version_that_is_asked_stays_so_when_the_server_forgets_all(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    import redis.asyncio as driver

    url = redis_server.url(43)
    async with driver.Redis.from_url(url) as client:
        await client.flushdb()
        events = [LedgerPosted(account=f"account-{number % 5}", amount=number) for number in range(60)]
        old, new, scribe = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2), make_scribe(tmp_path)
        async with scribe.running(), old.running() as runtime, new.running(), versions_of(new) as versions:
            async with scribe.step() as step:
                for each in events:
                    step.publish(each)
            await versions.rebuild(2, "me")
            await until_ready(versions, 2, runtime.context.broker)
            await versions.swap(2, "me", runtime.context.broker)

            async def asked() -> bool:
                return (await versions.book.row()).active == 2

            await until(lambda: _ready(new), "version 2")
            await client.flushdb()
            await until(asked, "the row, as it was")
            await until_rows(new, fold(events, 2))
            await until_rows(old, fold(events, 1))


async def _ready(view: View) -> bool:
    return not await view.runtime.readiness()
