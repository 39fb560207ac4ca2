"""The consumer's side: checkpoints under a revision, dead letters, claims, kept answers."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from ensue.conformance.store_suite import PARTITION, SERVICE, SOURCE, StoreSuite, Undo, letter, response
from ensue.deciding import Deciding, Face
from ensue.engine.books import REFUSED_MAX, Books
from ensue.errors import CheckpointConflict, RetryableError, RowConflict, UsageError
from ensue.message import Checkpoint, Counters, DeadLetterState, Gap, GapState, Partition
from ensue.ports import StepTransaction, Store

PAST, FUTURE = 1.0, time.time() + 3600


class Consuming(StoreSuite):
    async def save(self, store: Store, checkpoint: Checkpoint) -> None:
        async with store.transaction() as transaction:
            revision = await self.books(store).save_checkpoint(transaction, PARTITION, checkpoint)
        checkpoint.revision = revision

    # --- checkpoints

    async def test_a_checkpoint_comes_back_as_it_was_saved(self, store: Store) -> None:
        assert await self.books(store).checkpoint(PARTITION) == Checkpoint()
        gap = Gap("billing/2", 4, 9, 1000.5)
        saved = Checkpoint(
            offset=17,
            watermarks={SOURCE: 12, "billing/2": 4},
            gaps={"billing/2": gap},
            counters=Counters(1, 2, 3, 4),
        )
        await self.save(store, saved)
        assert await self.books(store).checkpoint(PARTITION) == saved
        other = Partition(SERVICE, "payments", 1)
        assert await self.books(store).checkpoint(other) == Checkpoint()
        assert await self.books(store).checkpoints() == {PARTITION: saved}

    async def test_saving_leaves_the_given_checkpoint_as_it_is(self, store: Store) -> None:
        checkpoint = Checkpoint(offset=1, watermarks={SOURCE: 1})
        async with store.transaction() as transaction:
            await self.books(store).save_checkpoint(transaction, PARTITION, checkpoint)
        assert checkpoint == Checkpoint(offset=1, watermarks={SOURCE: 1})
        checkpoint.watermarks[SOURCE] = 99
        assert (await self.books(store).checkpoint(PARTITION)).watermarks == {SOURCE: 1}

    async def test_a_partition_of_a_thousand_sources_is_kept(self, store: Store) -> None:
        checkpoint = Checkpoint(watermarks={f"source-{number}/abcd": number for number in range(1000)})
        await self.save(store, checkpoint)
        checkpoint.watermarks["source-7/abcd"] = 2**62
        await self.save(store, checkpoint)
        assert await self.books(store).checkpoint(PARTITION) == checkpoint

    async def test_a_gap_that_is_closed_is_gone(self, store: Store) -> None:
        checkpoint = Checkpoint(gaps={SOURCE: Gap(SOURCE, 1, 3, 1.0), "b/1": Gap("b/1", 1, 3, 1.0)})
        await self.save(store, checkpoint)
        del checkpoint.gaps["b/1"]
        await self.save(store, checkpoint)
        assert (await self.books(store).checkpoint(PARTITION)).gaps == checkpoint.gaps
        checkpoint.gaps.clear()
        await self.save(store, checkpoint)
        assert (await self.books(store).checkpoint(PARTITION)).gaps == {}

    @pytest.mark.parametrize("which", ["none", "before", "after"])
    async def test_a_checkpoint_of_another_revision_is_refused_with_everything_else(
        self, store: Store, which: str
    ) -> None:
        checkpoint = Checkpoint()
        await self.save(store, checkpoint)
        before = checkpoint.revision
        await self.save(store, checkpoint)
        revision = {"none": 0, "before": before, "after": checkpoint.revision + 1}[which]
        other = Checkpoint(offset=9, revision=revision, watermarks={SOURCE: 9})
        with pytest.raises((CheckpointConflict, RowConflict)):
            async with store.transaction() as transaction:
                await self.leave(transaction, "never")
                await self.books(store).save_checkpoint(transaction, PARTITION, other)
        assert await self.books(store).checkpoint(PARTITION) == checkpoint
        assert await self.traces(store) == []

    @pytest.mark.parametrize("first", [True, False])
    async def test_of_two_workers_with_one_partition_exactly_one_commits(
        self, store: Store, other: Store, first: bool
    ) -> None:
        if not first:
            await self.save(store, Checkpoint())
        loaded = [
            (through, await self.books(through).checkpoint(PARTITION)) for through in (store, other, store, other)
        ]

        async def work(number: int) -> None:
            through, checkpoint = loaded[number]
            checkpoint.offset = number + 1
            async with through.transaction() as transaction:
                await self.leave(transaction, str(number))
                await asyncio.sleep(0)
                await self.books(through).save_checkpoint(transaction, PARTITION, checkpoint)

        async with asyncio.timeout(self.patience_s):
            outcomes = await asyncio.gather(*(work(number) for number in range(4)), return_exceptions=True)
        winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
        assert len(winners) == 1, f"expected one worker to commit, found {outcomes}"
        losers = [outcome for outcome in outcomes if outcome is not None]
        assert all(isinstance(outcome, CheckpointConflict | RowConflict) for outcome in losers)
        assert (await self.books(store).checkpoint(PARTITION)).offset == winners[0] + 1
        if self.capabilities.transactions:  # else each entity knows by itself what took effect on it
            assert await self.traces(store) == [str(winners[0])]

    # --- lost gaps

    async def test_an_accepted_loss_moves_the_watermark_and_the_revision(self, store: Store) -> None:
        lost = Gap(SOURCE, 5, 9, 1.0, GapState.LOST, lost_through=9)
        before = Checkpoint(watermarks={SOURCE: 5, "b/1": 1}, gaps={SOURCE: lost})
        await self.save(store, before)
        assert await self.books(store).accept_loss(PARTITION, SOURCE) == 9
        found = await self.books(store).checkpoint(PARTITION)
        assert (found.watermarks, found.gaps) == ({SOURCE: 9, "b/1": 1}, {})
        assert found.revision > before.revision

    async def test_what_a_gap_needs_beyond_the_loss_stays_asked_for(self, store: Store) -> None:
        lost = Gap(SOURCE, 5, 20, 1.0, GapState.LOST, lost_through=9)
        await self.save(store, Checkpoint(watermarks={SOURCE: 5}, gaps={SOURCE: lost}))
        assert await self.books(store).accept_loss(PARTITION, SOURCE) == 9
        [gap] = (await self.books(store).checkpoint(PARTITION)).gaps.values()
        assert (gap.state, gap.watermark, gap.needed) == (GapState.OPEN, 9, 20)

    async def test_other_positions_than_were_shown_are_not_accepted(self, store: Store) -> None:
        lost = Gap(SOURCE, 5, 9, 1.0, GapState.LOST, lost_through=9)
        await self.save(store, Checkpoint(watermarks={SOURCE: 5}, gaps={SOURCE: lost}))
        before = await self.books(store).checkpoint(PARTITION)
        less = Gap(SOURCE, 5, 9, 1.0, GapState.LOST, lost_through=8)
        with pytest.raises(UsageError):
            await self.books(store).accept_loss(PARTITION, SOURCE, shown=less)
        assert await self.books(store).checkpoint(PARTITION) == before
        assert await self.books(store).accept_loss(PARTITION, SOURCE, shown=lost) == 9

    async def test_only_a_lost_gap_can_be_accepted(self, store: Store) -> None:
        await self.save(store, Checkpoint(watermarks={SOURCE: 5}, gaps={SOURCE: Gap(SOURCE, 5, 9, 1.0)}))
        before = await self.books(store).checkpoint(PARTITION)
        for source in (SOURCE, "nobody/1"):
            with pytest.raises(UsageError):
                await self.books(store).accept_loss(PARTITION, source)
        with pytest.raises(UsageError):
            await self.books(store).accept_loss(Partition(SERVICE, "nothing", 0), SOURCE)
        assert await self.books(store).checkpoint(PARTITION) == before

    # --- dead letters

    async def test_a_letter_comes_back_as_it_was_with_a_number_of_its_own(self, store: Store) -> None:
        given = [letter("a"), letter("b")]
        checkpoint = Checkpoint()
        async with store.transaction() as transaction:
            await self.books(store).add_letters(transaction, checkpoint, given)
            await self.books(store).save_checkpoint(transaction, PARTITION, checkpoint)
        assert [each.id for each in given] == ["payments/0:1", "payments/0:2"]
        assert await self.books(store).letters() == given
        assert await self.books(store).letter(given[1].id) == given[1]
        assert await self.books(store).letter("payments/0:3") is None
        assert (await self.books(store).checkpoint(PARTITION)).letters == 2

    async def test_letters_are_found_by_partition_and_state_in_their_order(self, store: Store) -> None:
        kinds = [(0, "dead"), (1, "waiting"), (0, "waiting"), (0, "retrying"), (1, "dead")]
        for at, (number, state) in enumerate(kinds):
            given = letter(number=number, state=DeadLetterState(state))
            given.parked_at = 1000.0 + at
            await self.add_letters(store, given)
        found = await self.books(store).letters()
        assert [(each.partition.number, each.state.value) for each in found] == kinds
        zero = Partition(SERVICE, "payments", 0)
        assert await self.books(store).letters(zero) == [found[0], found[2], found[3]]
        states = (DeadLetterState.DEAD, DeadLetterState.RETRYING)
        assert await self.books(store).letters(None, states) == [found[0], found[3], found[4]]
        assert await self.books(store).letters(zero, states, 1) == [found[0]]
        counts = await self.books(store).letter_counts()
        assert counts == {(each.partition, each.state): 1 for each in found}
        assert sum((await self.books(store).letter_totals()).values()) == len(kinds)

    async def test_more_letters_than_a_page_are_all_found_in_order(self, store: Store) -> None:
        checkpoint = Checkpoint()
        async with store.transaction() as transaction:
            await self.books(store).add_letters(transaction, checkpoint, [letter(str(each)) for each in range(1203)])
            await self.books(store).save_checkpoint(transaction, PARTITION, checkpoint)
        found = await self.books(store).letters(PARTITION, (DeadLetterState.DEAD,), 2**31)
        assert [each.number for each in found] == list(range(1, 1204))

    async def test_a_letter_changes_and_goes_with_the_step_that_does_it(self, store: Store) -> None:
        await self.add_letters(store, letter("a", state=DeadLetterState.RETRYING), letter("b"))
        first, second = await self.books(store).letters()
        with pytest.raises(Undo):
            async with store.transaction() as transaction:
                await self.books(store).change_letter(transaction, first)
                await self.books(store).remove_letter(transaction, second)
                raise Undo
        first, second = await self.books(store).letters()
        assert [first.attempts, second.attempts] == [2, 2]
        first.state, first.attempts, first.due_at = DeadLetterState.DEAD, 5, 99.5
        first.error_type, first.error = "KeyError", "half a character: \ud800"
        async with store.transaction() as transaction:
            await self.books(store).change_letter(transaction, first)
            await self.books(store).remove_letter(transaction, second)
        [found] = await self.books(store).letters()
        assert (found.state, found.attempts, found.due_at) == (DeadLetterState.DEAD, 5, 99.5)
        assert found.error.startswith("half a character")

    async def test_a_letter_that_is_gone_cannot_be_removed_again(self, store: Store) -> None:
        """Two workers put one letter through: the second one's effects must not commit."""
        await self.add_letters(store, letter())
        [stored] = await self.books(store).letters()
        async with store.transaction() as transaction:
            await self.books(store).remove_letter(transaction, stored)
        with pytest.raises((CheckpointConflict, RowConflict)):
            async with store.transaction() as transaction:
                await self.leave(transaction, "never")
                await self.books(store).remove_letter(transaction, stored)
        assert await self.traces(store) == []

    async def test_an_operator_decides_on_dead_and_retrying_letters_only(self, store: Store) -> None:
        states = ("dead", "retrying", "waiting", "released", "discarded")
        await self.add_letters(store, *(letter(state=DeadLetterState(state)) for state in states))
        dead, retrying, *others = await self.books(store).letters()
        decided = await self.books(store).decide(dead.id, DeadLetterState.RELEASED)
        assert (decided.id, decided.state) == (dead.id, DeadLetterState.RELEASED)
        await self.books(store).decide(retrying.id, DeadLetterState.DISCARDED)
        for each in others:
            with pytest.raises(UsageError, match=each.state.value):
                await self.books(store).decide(each.id, DeadLetterState.RELEASED)
        with pytest.raises(UsageError):
            await self.books(store).decide("payments/0:99", DeadLetterState.RELEASED)
        with pytest.raises(UsageError):
            await self.books(store).decide(retrying.id, DeadLetterState.WAITING)
        found = [each.state.value for each in await self.books(store).letters()]
        assert found == ["released", "discarded", "waiting", "released", "discarded"]

    async def test_a_decision_is_kept_with_what_it_decides_or_not_at_all(self, store: Store) -> None:
        books, by = self.books(store), Deciding(actor="ann", origin=Face.CLI, reason="why not")
        checkpoint = Checkpoint(watermarks={SOURCE: 4}, gaps={SOURCE: Gap(SOURCE, 4, 7, 1.0, GapState.LOST, 6)})
        await self.save(store, checkpoint)

        async def note(transaction: StepTransaction, before: Gap, after: Gap | None) -> None:
            await books.record(transaction, by, "gaps accept", "half \ud800 a zero \0", before, after)

        async def fails(transaction: StepTransaction, before: Gap, after: Gap | None) -> None:
            await note(transaction, before, after)
            raise Undo

        with pytest.raises(Undo):
            await books.accept_loss(PARTITION, SOURCE, fails)
        assert await books.last_decisions(10) == []
        assert (await books.checkpoint(PARTITION)).gaps
        before_s = await store.now()
        await books.accept_loss(PARTITION, SOURCE, note)
        [found] = [each async for each in books.decisions()]
        assert (found.actor, found.origin, found.action, found.reason) == ("ann", Face.CLI, "gaps accept", "why not")
        assert found.target == r"half \ud800 a zero \x00"
        assert before_s - 1 <= found.decided_at <= await store.now() + 1
        assert msgspec.json.decode(found.before, type=Gap).lost_through == 6
        assert msgspec.json.decode(found.after, type=Gap).watermark == 6

    async def test_decisions_come_in_the_order_in_which_they_were_taken(self, store: Store) -> None:
        books, by = self.books(store), Deciding(actor="ann", origin=Face.API)
        for number in range(5):
            async with store.transaction() as transaction:
                await self.books(store).save_checkpoint(
                    transaction, Partition(SERVICE, "decided", number), Checkpoint()
                )
                await books.record(transaction, by, "test", f"{number}", None, number)
            before_s = await store.now()
            while await store.now() <= before_s:  # noqa: ASYNC110  # the next one has a later time, by any clock
                await asyncio.sleep(0)
        assert [each.target for each in [one async for one in books.decisions()]] == ["0", "1", "2", "3", "4"]
        assert len(await books.last_decisions(10)) == 5
        third = [each async for each in books.decisions()][2]
        assert [each.target async for each in books.decisions((third.decided_at, third.id))] == ["3", "4"]
        assert [each.target for each in await books.last_decisions(2)] == ["4", "3"]
        assert [each.target for each in await books.last_decisions(9, (third.decided_at, third.id))] == ["1", "0"]

    async def test_letters_go_on_behind_one_that_need_not_be_there_any_more(self, store: Store) -> None:
        """Of one moment by their numbers, where 10 comes after 9, though not by its name; of two states as one list."""
        given = [letter(state=(DeadLetterState.DEAD, DeadLetterState.WAITING)[at % 2]) for at in range(12)]
        given[11].parked_at += 1
        await self.add_letters(store, *given)
        books, states = self.books(store), (DeadLetterState.DEAD, DeadLetterState.WAITING)
        whole = [each async for each in books.letters_by_time(states)]
        assert [each.number for each in whole] == [*range(1, 13)]
        for at in (0, 8, 9, 11):
            behind = (whole[at].parked_at, whole[at].partition, whole[at].number)
            assert [each.number async for each in books.letters_by_time(states, behind)] == [*range(at + 2, 13)]
        gone = (whole[0].parked_at, Partition(SERVICE, "payments", 0), 99)
        assert [each.number async for each in books.letters_by_time(states, gone)] == [12]

    async def test_a_letter_that_is_no_message_can_only_be_discarded(self, store: Store) -> None:
        garbage = letter()
        garbage.source = ""
        await self.add_letters(store, garbage)
        [stored] = await self.books(store).letters()
        with pytest.raises(UsageError, match="no message"):
            await self.books(store).decide(stored.id, DeadLetterState.RELEASED)
        decided = await self.books(store).decide(stored.id, DeadLetterState.DISCARDED)
        assert decided.state is DeadLetterState.DISCARDED

    async def test_what_was_refused_gives_way_to_what_is_refused_later(self, store: Store) -> None:
        """However much is refused, the last ones are kept, and the numbers of letters go on as if there was none."""
        for start in (0, REFUSED_MAX // 2, 3 * REFUSED_MAX):
            refused = [letter(state=DeadLetterState.REFUSED) for _ in range(REFUSED_MAX // 2 + 1)]
            for offset, each in enumerate(refused, start):
                each.offset = offset
            await self.add_letters(store, *refused, letter())
        found = await self.books(store).letters(None, (DeadLetterState.REFUSED,), 10 * REFUSED_MAX)
        assert len(found) == REFUSED_MAX
        newest = range(3 * REFUSED_MAX, 3 * REFUSED_MAX + REFUSED_MAX // 2 + 1)
        assert {*newest} <= {each.offset for each in found}
        dead = await self.books(store).letters(None, (DeadLetterState.DEAD,))
        assert [each.number for each in dead] == [1, 2, 3]
        with pytest.raises(UsageError, match="refused"):
            await self.books(store).decide(found[0].id, DeadLetterState.RELEASED)

    async def test_a_discarded_letter_stays_discarded(self, store: Store) -> None:
        """An operator gave up what a worker is about to put through: one of them is right, and it was first."""
        await self.add_letters(store, letter())
        [stored] = await self.books(store).letters()
        await self.books(store).decide(stored.id, DeadLetterState.DISCARDED)
        for late in (self.books(store).change_letter, self.books(store).remove_letter):
            with pytest.raises((CheckpointConflict, RowConflict)):
                async with store.transaction() as transaction:
                    await late(transaction, msgspec.structs.replace(stored))
        assert [each.state for each in await self.books(store).letters()] == [DeadLetterState.DISCARDED]


class Remembering(StoreSuite):
    # --- what has happened once already

    async def test_a_message_is_claimed_once_for_each_subscription(self, store: Store) -> None:
        pairs = [("a", "1"), ("a", "2"), ("b", "1")]
        async with store.transaction() as transaction:
            assert await self.books(store).claim(transaction, pairs) == set(pairs)
            assert await self.books(store).claim(transaction, pairs[:1]) == set()
        async with store.transaction() as transaction:
            assert await self.books(store).claim(transaction, [*pairs, ("b", "2")]) == {("b", "2")}
            assert await Books(store, "view").claim(transaction, pairs) == set(pairs)
            assert await self.books(store).claim(transaction, []) == set()

    async def test_a_rollback_gives_a_claim_back(self, store: Store) -> None:
        for _ in range(2):
            with pytest.raises(Undo):
                async with store.transaction() as transaction:
                    assert await self.books(store).claim(transaction, [("a", "1")]) == {("a", "1")}
                    raise Undo

    async def test_old_claims_are_pruned_a_chunk_at_a_time(self, store: Store) -> None:
        pairs = [("a", str(number)) for number in range(5)]
        async with store.transaction() as transaction:
            await self.books(store).claim(transaction, pairs)
        assert await self.books(store).prune_claims(PAST, 10) == 0
        assert [await self.books(store).prune_claims(FUTURE, 3) for _ in range(3)] == [3, 2, 0]
        async with store.transaction() as transaction:
            assert await self.books(store).claim(transaction, pairs) == set(pairs)

    async def test_an_answer_is_kept_with_its_step(self, store: Store) -> None:
        async with store.transaction() as transaction:
            assert await self.books(store).answer(transaction, "key-1") is None
            await self.books(store).keep_answer(transaction, response())
            assert await self.books(store).answer(transaction, "key-1") == response()
        async with store.transaction() as transaction:
            assert await self.books(store).answer(transaction, "key-1") == response()
            assert await self.books(store).answer(transaction, "key-2") is None

    async def test_a_second_answer_to_one_key_does_not_commit(self, store: Store) -> None:
        async with store.transaction() as transaction:
            await self.books(store).keep_answer(transaction, response())
        with pytest.raises(RetryableError):
            async with store.transaction() as transaction:
                await self.leave(transaction, "never")
                await self.books(store).keep_answer(transaction, response())
        assert await self.traces(store) == []

    async def test_old_answers_are_pruned_a_chunk_at_a_time(self, store: Store) -> None:
        async with store.transaction() as transaction:
            for number in range(5):
                await self.books(store).keep_answer(transaction, response(f"key-{number}"))
        assert await self.books(store).prune_answers(PAST, 10) == 0
        assert [await self.books(store).prune_answers(FUTURE, 3) for _ in range(3)] == [3, 2, 0]
        async with store.transaction() as transaction:
            assert await self.books(store).answer(transaction, "key-0") is None

    # --- the relay's position

    async def test_the_relays_position_never_moves_backwards(self, store: Store, other: Store) -> None:
        self.needs("publishes")
        assert await self.books(store).relay_position() == 0
        await self.books(store).save_relay_position(store.source, 5)
        await self.books(other).save_relay_position(other.source, 3)
        assert await self.books(store).relay_position() == 5
        await self.books(other).save_relay_position(other.source, 9)
        assert await self.books(store).relay_position() == 9
