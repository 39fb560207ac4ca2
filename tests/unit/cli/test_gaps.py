from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from tests.unit.cli.harness import LEDGER, Ended, books_of
from tests.unit.cli.services import ledger

from ensue.message import Checkpoint, Gap, GapState, Partition

Command = Callable[..., Ended]


def stored(number: int = 0) -> Checkpoint:
    async def load() -> Checkpoint:
        async with books_of(ledger) as (_, books):
            return await books.checkpoint(Partition("ledger", "sales", number))

    return asyncio.run(load())


@pytest.fixture
def put_gaps(ensue: Command) -> Callable[..., None]:
    """Store a checkpoint with these gaps, as a consumer does that met them."""

    def put(*gaps: Gap, number: int = 0) -> None:
        async def save() -> None:
            checkpoint = Checkpoint(
                offset=9,
                watermarks={gap.source: gap.watermark for gap in gaps},
                gaps={gap.source: gap for gap in gaps},
            )
            async with books_of(ledger) as (store, books), store.transaction() as transaction:
                await books.save_checkpoint(transaction, Partition("ledger", "sales", number), checkpoint)

        asyncio.run(save())

    return put


LOST = Gap("till/a", 4, 9, 1000.0, GapState.LOST, 7)
OPEN = Gap("till/b", 1, 3, 2000.0)


def test_gaps_are_listed_with_what_is_missing(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(LOST, OPEN)
    lost, asked = ensue("gaps", "list", LEDGER, "--json").json["gaps"]
    assert (lost["source"], lost["state"], lost["watermark"], lost["lost_through"]) == ("till/a", "lost", 4, 7)
    assert (asked["source"], asked["state"], asked["needed"]) == ("till/b", "open", 3)
    assert "till/a" in ensue("gaps", "list", LEDGER).out
    [first, _] = ensue("status", LEDGER, "--json").json["services"][0]["partitions"]
    assert [gap["state"] for gap in first["gaps"]] == ["lost", "open"]
    assert "till/a lost after 4, needs 9, gone through 7" in ensue("status", LEDGER).out.replace("\n", "")


def test_accepting_says_what_is_given_up_and_moves_past_it(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(LOST, OPEN)
    ended = ensue("gaps", "accept", LEDGER, answer="y\n")
    assert ended.code == 0
    assert "positions 5 to 7 of till/a are gone from log and outbox, at most 3 events" in ended.out
    assert "goes on after position 7" in ended.out
    checkpoint = stored()
    assert checkpoint.watermarks == {"till/a": 7, "till/b": 1}
    assert checkpoint.gaps["till/a"].state is GapState.OPEN  # it needs more than what is lost
    assert "there is no such gap" in ensue("gaps", "accept", LEDGER, "--source", "till/c").err


def test_nothing_is_accepted_without_a_yes(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(LOST)
    for answer in ("n\n", ""):
        ended = ensue("gaps", "accept", LEDGER, answer=answer)
        assert ended.code == 1
        assert stored().watermarks == {"till/a": 4}
    assert ensue("gaps", "accept", LEDGER, "--yes").code == 0
    assert stored().watermarks == {"till/a": 7}


def test_of_several_lost_gaps_one_must_be_named(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(LOST)
    put_gaps(LOST, number=1)
    ended = ensue("gaps", "accept", LEDGER, "--yes")
    assert ended.code == 1
    assert "2 gaps are lost" in ended.err
    assert "--topic sales --partition 1 --source till/a" in ended.err
    accepted = ensue("gaps", "accept", LEDGER, "--topic", "sales", "--partition", 1, "--source", "till/a", "--yes")
    assert accepted.code == 0
    assert (stored(0).watermarks, stored(1).watermarks) == ({"till/a": 4}, {"till/a": 7})


def test_an_open_gap_cannot_be_accepted(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(OPEN)
    ended = ensue("gaps", "accept", LEDGER, "--yes")
    assert ended.code == 1
    assert "it is asked for again and closes by itself" in ended.err


def test_no_gaps_is_said(ensue: Command) -> None:
    ensue("db", "init", LEDGER)
    assert ensue("gaps", "list", LEDGER).out == "no gaps\n"
    assert ensue("gaps", "list", LEDGER, "--json").json == {"gaps": []}


def test_the_gap_of_an_invented_source_can_be_forgotten(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(LOST, OPEN)
    assert "no gap" in ensue("gaps", "forget", LEDGER, 0, "till/c", "--yes").err
    assert "no gap" in ensue("gaps", "forget", LEDGER, 1, "till/b", "--yes").err
    assert ensue("gaps", "forget", LEDGER, 0, "till/b", answer="n\n").code == 1
    assert set(stored().gaps) == {"till/a", "till/b"}
    assert ensue("gaps", "forget", LEDGER, 0, "till/b", "--topic", "sales", "--yes").code == 0
    assert set(stored().gaps) == {"till/a"}
    assert stored().watermarks == {"till/a": 4, "till/b": 1}


def test_a_source_is_taken_back_to_where_it_was_before_its_last_record(
    ensue: Command, put_gaps: Callable[..., None]
) -> None:
    put_gaps(OPEN)
    gap = ("gaps", "rewind", LEDGER, "--topic", "sales", "--partition", 0, "--source", "till/b")
    assert "there is no broker" in ensue(*gap, "--yes").err, "whose log would tell"
    assert "it was applied up to 1" in ensue(*gap, "--to", 1, "--yes").err
    assert "nothing of till/c was applied" in ensue(*gap[:-1], "till/c", "--yes").err
    assert ensue(*gap, "--to", 0, answer="n\n").code == 1
    assert stored().watermarks == {"till/b": 1}
    ended = ensue(*gap, "--to", 0, "--yes")
    assert "goes on after position 0 of till/b" in ended.out
    assert (stored().watermarks, stored().gaps) == ({"till/b": 0}, {})


def test_what_was_decided_about_gaps_is_kept(ensue: Command, put_gaps: Callable[..., None]) -> None:
    put_gaps(LOST, OPEN)
    by = ("--by", "ann", "--reason", "gone for good", "--yes")
    ensue("gaps", "accept", LEDGER, *by)
    ensue("gaps", "forget", LEDGER, 0, "till/b", *by)
    ensue("gaps", "rewind", LEDGER, "--topic", "sales", "--partition", 0, "--source", "till/b", "--to", 0, *by)
    accepted, forgotten, rewound = ensue("decisions", "list", LEDGER, "--json").json["decisions"]
    assert (accepted["actor"], accepted["reason"]) == ("ann", "gone for good")
    assert (accepted["action"], accepted["target"]) == ("gaps accept", "sales/0 till/a")
    assert (accepted["before"]["lost_through"], accepted["after"]["watermark"]) == (7, 7)
    assert (forgotten["action"], forgotten["before"]["source"], forgotten["after"]) == ("gaps forget", "till/b", None)
    assert (rewound["before"], rewound["after"]) == ({"watermark": 1}, {"watermark": 0})
    shown = ensue("decisions", "list", LEDGER).out
    assert "gone for good" in shown
    assert "sales/0 till/a" in shown
