"""`ensue replay`: one event type is handled again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.unit.cli.harness import LEDGER, Ended, books_of
from tests.unit.cli.services import ledger

from ensue.message import Checkpoint, Missed, Partition

Command = Callable[..., Ended]
PLACE = Partition("ledger", "sales", 0)


def stored(checkpoint: Checkpoint | None = None) -> Checkpoint:
    """The checkpoint of one partition, after this one was saved."""

    async def load() -> Checkpoint:
        async with books_of(ledger) as (store, books):
            if checkpoint is not None:
                async with store.transaction() as transaction:
                    await books.save_checkpoint(transaction, PLACE, checkpoint)
            return await books.checkpoint(PLACE)

    return asyncio.run(load())


def test_a_type_is_noted_as_not_handled_yet(ensue: Command) -> None:
    kinds = tuple(sorted(ledger.handlers))
    before = stored(Checkpoint(offset=9, watermarks={"till/a": 9}, types=kinds))
    ended = ensue("replay", LEDGER, "--type", kinds[0], answer="y\n")
    assert ended.code == 0
    assert "a second time" in ended.out
    after = stored()
    assert after.types == kinds[1:]
    assert after.missed == {kinds[0]: Missed()}
    assert (after.offset, after.watermarks) == (before.offset, before.watermarks)
    assert after.revision > before.revision, "a running worker must notice"


def test_nothing_changes_without_a_yes(ensue: Command) -> None:
    kinds = tuple(sorted(ledger.handlers))
    before = stored(Checkpoint(offset=9, types=kinds))
    assert ensue("replay", LEDGER, "--type", kinds[0], answer="n\n").code == 1
    assert stored() == before


def test_a_type_without_a_handler_is_refused_with_what_there_is(ensue: Command) -> None:
    ended = ensue("replay", LEDGER, "--type", "nonsense", "--yes")
    assert ended.code == 1
    assert "has no handler of 'nonsense'; it handles" in ended.err


def test_a_service_that_has_read_nothing_has_nothing_to_read_again(ensue: Command) -> None:
    assert ensue("db", "init", LEDGER).code == 0
    ended = ensue("replay", LEDGER, "--type", sorted(ledger.handlers)[0], "--yes")
    assert ended.code == 1
    assert "has read nothing" in ended.err
