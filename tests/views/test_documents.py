"""A version is built where each entity is a document of its own, and its process is killed in the middle.

Apart from `test_rebuild`: the server of the tests for the MongoDB protocol does one command at a time, some ten a
second on a busy machine, which is too few for live load.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.views.ledger import (
    Child,
    LedgerClosed,
    LedgerPosted,
    database_of,
    fold,
    make_scribe,
    make_view,
    until,
    until_ready,
    until_rows,
    versions_of,
)


@pytest.mark.timeout(300)
async def test_a_version_in_documents_is_built_swapped_and_dropped(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url, _ = database_of(request, "mongodb", tmp_path)
    events = [LedgerPosted(account=f"account-{number % 4}", amount=number) for number in range(24)]
    told = [*events, LedgerClosed(account="account-1")]
    old, new, scribe = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2), make_scribe(tmp_path)
    async with scribe.running() as source, old.running(), versions_of(new) as versions:
        broker = source.context.broker
        async with scribe.step() as step:
            for each in told:
                step.publish(each)
        await until_rows(old, fold(told, 1))
        await versions.rebuild(2, "the test", rate=8)
        child = Child(tmp_path, url, 2)

        async def begun() -> bool:
            return (await versions.progress(2, broker)).done > 0

        await until(begun, "something to kill")
        child.kill()
        async with new.running():
            await until_ready(versions, 2, broker)
            await versions.swap(2, "the test", broker)

            async def asked() -> bool:
                return not await new.runtime.readiness()

            await until(asked, "version 2")
            await until_rows(new, fold(told, 2))
            await until_rows(old, fold(told, 1))  # the one before is fed, and answers
            assert (await versions.drop(1, "the test")).active == 2
            assert not await old.make_store().exists()
            await until_rows(new, fold(told, 2))
