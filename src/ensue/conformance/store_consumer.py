"""The consumer's side: checkpoints under a revision, dead letters, claims, kept answers."""

# ruff: noqa: PT012  # what a step did before it raised belongs into the block
from __future__ import annotations

import asyncio
import time

import pytest

from ensue.conformance.store_suite import PARTITION, SERVICE, SOURCE, StoreSuite, Undo, letter, response
from ensue.errors import CheckpointConflict, RetryableError, UsageError
from ensue.message import Checkpoint, Counters, DeadLetterState, Gap, GapState, Partition
from ensue.ports import Store

PAST, FUTURE = 1.0, time.time() + 3600


class Consuming(StoreSuite):
    async def save(self, store: Store, checkpoint: Checkpoint, *sources: str) -> None:
        async with store.transaction() as transaction:
            await transaction.save_checkpoint(PARTITION, checkpoint, sources)
        checkpoint.revision += 1

    # --- checkpoints

    async def test_a_checkpoint_comes_back_as_it_was_saved(self) -> None:
        async with self.opened() as store:
            assert await store.checkpoint_load(PARTITION) == Checkpoint()
            gap = Gap("billing/2", 4, 9, 1000.5)
            saved = Checkpoint(
                offset=17,
                watermarks={SOURCE: 12, "billing/2": 4},
                gaps={"billing/2": gap},
                counters=Counters(1, 2, 3, 4),
            )
            await self.save(store, saved, SOURCE, "billing/2")
            assert await store.checkpoint_load(PARTITION) == saved
            other = Partition(SERVICE, "payments", 1)
            assert await store.checkpoint_load(other) == Checkpoint()
            assert await store.checkpoints() == {PARTITION: saved}

    async def test_saving_leaves_the_given_checkpoint_as_it_is(self) -> None:
        async with self.opened() as store:
            checkpoint = Checkpoint(offset=1, watermarks={SOURCE: 1})
            async with store.transaction() as transaction:
                await transaction.save_checkpoint(PARTITION, checkpoint, [SOURCE])
            assert checkpoint == Checkpoint(offset=1, watermarks={SOURCE: 1})
            checkpoint.watermarks[SOURCE] = 99
            assert (await store.checkpoint_load(PARTITION)).watermarks == {SOURCE: 1}

    async def test_only_the_watermarks_of_the_given_sources_are_saved(self) -> None:
        async with self.opened() as store:
            checkpoint = Checkpoint(watermarks={"a/1": 1, "b/1": 1})
            await self.save(store, checkpoint, "a/1", "b/1")
            checkpoint.watermarks = {"a/1": 5, "b/1": 6, "c/1": 7}
            await self.save(store, checkpoint, "a/1", "c/1")
            assert (await store.checkpoint_load(PARTITION)).watermarks == {"a/1": 5, "b/1": 1, "c/1": 7}

    async def test_a_gap_that_is_closed_is_gone(self) -> None:
        async with self.opened() as store:
            checkpoint = Checkpoint(gaps={SOURCE: Gap(SOURCE, 1, 3, 1.0), "b/1": Gap("b/1", 1, 3, 1.0)})
            await self.save(store, checkpoint)
            del checkpoint.gaps["b/1"]
            await self.save(store, checkpoint)
            assert (await store.checkpoint_load(PARTITION)).gaps == checkpoint.gaps
            checkpoint.gaps.clear()
            await self.save(store, checkpoint)
            assert (await store.checkpoint_load(PARTITION)).gaps == {}

    @pytest.mark.parametrize("revision", [0, 1, 3])
    async def test_a_checkpoint_of_another_revision_is_refused_with_everything_else(self, revision: int) -> None:
        async with self.opened() as store:
            checkpoint = Checkpoint()
            await self.save(store, checkpoint)
            await self.save(store, checkpoint)
            with pytest.raises(CheckpointConflict):
                async with store.transaction() as transaction:
                    await self.leave(transaction, "never")
                    await transaction.save_checkpoint(
                        PARTITION, Checkpoint(offset=9, revision=revision, watermarks={SOURCE: 9}), [SOURCE]
                    )
            assert await store.checkpoint_load(PARTITION) == checkpoint
            assert await self.traces(store) == []

    @pytest.mark.parametrize("first", [True, False])
    async def test_of_two_workers_with_one_partition_exactly_one_commits(self, first: bool) -> None:
        async with self.opened() as store, self.another(store) as other:
            if not first:
                await self.save(store, Checkpoint())
            loaded = [(through, await through.checkpoint_load(PARTITION)) for through in (store, other, store, other)]

            async def work(number: int) -> None:
                through, checkpoint = loaded[number]
                checkpoint.offset = number + 1
                async with through.transaction() as transaction:
                    await self.leave(transaction, str(number))
                    await asyncio.sleep(0)
                    await transaction.save_checkpoint(PARTITION, checkpoint, ())

            async with asyncio.timeout(self.patience_s):
                outcomes = await asyncio.gather(*(work(number) for number in range(4)), return_exceptions=True)
            winners = [number for number, outcome in enumerate(outcomes) if outcome is None]
            assert len(winners) == 1, f"expected one worker to commit, found {outcomes}"
            assert all(isinstance(outcome, CheckpointConflict) for outcome in outcomes if outcome is not None)
            assert (await store.checkpoint_load(PARTITION)).offset == winners[0] + 1
            if self.capabilities.transactions:  # else each entity knows by itself what took effect on it
                assert await self.traces(store) == [str(winners[0])]

    # --- lost gaps

    async def test_an_accepted_loss_moves_the_watermark_and_the_revision(self) -> None:
        async with self.opened() as store:
            lost = Gap(SOURCE, 5, 9, 1.0, GapState.LOST, lost_through=9)
            await self.save(store, Checkpoint(watermarks={SOURCE: 5, "b/1": 1}, gaps={SOURCE: lost}), SOURCE, "b/1")
            assert await store.accept_loss(PARTITION, SOURCE) == 9
            found = await store.checkpoint_load(PARTITION)
            assert (found.watermarks, found.gaps, found.revision) == ({SOURCE: 9, "b/1": 1}, {}, 2)

    async def test_what_a_gap_needs_beyond_the_loss_stays_asked_for(self) -> None:
        async with self.opened() as store:
            lost = Gap(SOURCE, 5, 20, 1.0, GapState.LOST, lost_through=9)
            await self.save(store, Checkpoint(watermarks={SOURCE: 5}, gaps={SOURCE: lost}), SOURCE)
            assert await store.accept_loss(PARTITION, SOURCE) == 9
            [gap] = (await store.checkpoint_load(PARTITION)).gaps.values()
            assert (gap.state, gap.watermark, gap.needed) == (GapState.OPEN, 9, 20)

    async def test_only_a_lost_gap_can_be_accepted(self) -> None:
        async with self.opened() as store:
            await self.save(store, Checkpoint(watermarks={SOURCE: 5}, gaps={SOURCE: Gap(SOURCE, 5, 9, 1.0)}), SOURCE)
            before = await store.checkpoint_load(PARTITION)
            for source in (SOURCE, "nobody/1"):
                with pytest.raises(UsageError):
                    await store.accept_loss(PARTITION, source)
            with pytest.raises(UsageError):
                await store.accept_loss(Partition(SERVICE, "nothing", 0), SOURCE)
            assert await store.checkpoint_load(PARTITION) == before

    # --- dead letters

    async def test_a_letter_comes_back_as_it_was_with_a_number_of_its_own(self) -> None:
        async with self.opened() as store:
            given = [letter("a"), letter("b")]
            async with store.transaction() as transaction:
                await transaction.dead_letters_add(given)
            assert 0 < given[0].id < given[1].id, "the letters that were given must know their numbers"
            assert await store.dead_letters() == given
            assert await store.dead_letter_get(given[1].id) == given[1]
            assert await store.dead_letter_get(given[1].id + 1) is None

    async def test_letters_are_found_by_partition_and_state_in_their_order(self) -> None:
        async with self.opened() as store:
            kinds = [(0, "dead"), (1, "waiting"), (0, "waiting"), (0, "retrying"), (1, "dead")]
            for number, state in kinds:
                async with store.transaction() as transaction:
                    await transaction.dead_letters_add([letter(number=number, state=DeadLetterState(state))])
            found = await store.dead_letters()
            assert [(each.partition.number, each.state.value) for each in found] == kinds
            assert [each.id for each in found] == sorted(each.id for each in found)
            zero = Partition(SERVICE, "payments", 0)
            assert await store.dead_letters(zero) == [found[0], found[2], found[3]]
            states = (DeadLetterState.DEAD, DeadLetterState.RETRYING)
            assert await store.dead_letters(None, states) == [found[0], found[3], found[4]]
            assert await store.dead_letters(zero, states, 1) == [found[0]]
            counts = await store.dead_letter_counts()
            assert counts == {(each.partition, each.state): 1 for each in found}

    async def test_a_letter_changes_and_goes_with_the_step_that_does_it(self) -> None:
        async with self.opened() as store:
            async with store.transaction() as transaction:
                await transaction.dead_letters_add([letter("a", state=DeadLetterState.RETRYING), letter("b")])
            first, second = await store.dead_letters()
            first.state, first.attempts, first.due_at = DeadLetterState.DEAD, 5, 99.5
            first.error_type, first.error = "KeyError", "half a character: \ud800"
            with pytest.raises(Undo):
                async with store.transaction() as transaction:
                    await transaction.dead_letter_change(first)
                    await transaction.dead_letter_remove([second.id])
                    raise Undo
            assert [each.attempts for each in await store.dead_letters()] == [2, 2]
            async with store.transaction() as transaction:
                await transaction.dead_letter_change(first)
                await transaction.dead_letter_remove([second.id])
            [found] = await store.dead_letters()
            assert (found.state, found.attempts, found.due_at) == (DeadLetterState.DEAD, 5, 99.5)
            assert found.error.startswith("half a character")

    async def test_a_letter_that_is_gone_cannot_be_removed_again(self) -> None:
        """Two workers put one letter through: the second one's effects must not commit."""
        async with self.opened() as store:
            async with store.transaction() as transaction:
                await transaction.dead_letters_add([letter()])
            [stored] = await store.dead_letters()
            async with store.transaction() as transaction:
                await transaction.dead_letter_remove([stored.id])
            with pytest.raises(CheckpointConflict):
                async with store.transaction() as transaction:
                    await self.leave(transaction, "never")
                    await transaction.dead_letter_remove([stored.id])
            assert await self.traces(store) == []

    async def test_an_operator_decides_on_dead_and_retrying_letters_only(self) -> None:
        async with self.opened() as store:
            states = ("dead", "retrying", "waiting", "released", "discarded")
            async with store.transaction() as transaction:
                await transaction.dead_letters_add([letter(state=DeadLetterState(state)) for state in states])
            dead, retrying, *others = await store.dead_letters()
            decided = await store.dead_letter_decide(dead.id, DeadLetterState.RELEASED)
            assert (decided.id, decided.state) == (dead.id, DeadLetterState.RELEASED)
            await store.dead_letter_decide(retrying.id, DeadLetterState.DISCARDED)
            for each in others:
                with pytest.raises(UsageError, match=each.state.value):
                    await store.dead_letter_decide(each.id, DeadLetterState.RELEASED)
            with pytest.raises(UsageError):
                await store.dead_letter_decide(others[-1].id + 1, DeadLetterState.RELEASED)
            with pytest.raises(UsageError):
                await store.dead_letter_decide(retrying.id, DeadLetterState.WAITING)
            found = [each.state.value for each in await store.dead_letters()]
            assert found == ["released", "discarded", "waiting", "released", "discarded"]

    async def test_a_letter_that_is_no_message_can_only_be_discarded(self) -> None:
        async with self.opened() as store:
            garbage = letter()
            garbage.source = ""
            async with store.transaction() as transaction:
                await transaction.dead_letters_add([garbage])
            [stored] = await store.dead_letters()
            with pytest.raises(UsageError, match="no message"):
                await store.dead_letter_decide(stored.id, DeadLetterState.RELEASED)
            decided = await store.dead_letter_decide(stored.id, DeadLetterState.DISCARDED)
            assert decided.state is DeadLetterState.DISCARDED

    async def test_a_discarded_letter_stays_discarded(self) -> None:
        """An operator gave up what a worker is about to put through: one of them is right, and it was first."""
        async with self.opened() as store:
            async with store.transaction() as transaction:
                await transaction.dead_letters_add([letter()])
            [stored] = await store.dead_letters()
            await store.dead_letter_decide(stored.id, DeadLetterState.DISCARDED)
            with pytest.raises(CheckpointConflict):
                async with store.transaction() as transaction:
                    await transaction.dead_letter_change(stored)
            with pytest.raises(CheckpointConflict):
                async with store.transaction() as transaction:
                    await transaction.dead_letter_remove([stored.id])
            assert [each.state for each in await store.dead_letters()] == [DeadLetterState.DISCARDED]

    # --- what has happened once already

    async def test_a_message_is_claimed_once_for_each_subscription(self) -> None:
        async with self.opened() as store:
            pairs = [("a", "1"), ("a", "2"), ("b", "1")]
            async with store.transaction() as transaction:
                assert await transaction.inbox_claim("orders", pairs) == set(pairs)
                assert await transaction.inbox_claim("orders", pairs[:1]) == set()
            async with store.transaction() as transaction:
                assert await transaction.inbox_claim("orders", [*pairs, ("b", "2")]) == {("b", "2")}
                assert await transaction.inbox_claim("view", pairs) == set(pairs)
                assert await transaction.inbox_claim("orders", []) == set()

    async def test_a_rollback_gives_a_claim_back(self) -> None:
        async with self.opened() as store:
            for _ in range(2):
                with pytest.raises(Undo):
                    async with store.transaction() as transaction:
                        assert await transaction.inbox_claim(SERVICE, [("a", "1")]) == {("a", "1")}
                        raise Undo

    async def test_old_claims_are_pruned_a_chunk_at_a_time(self) -> None:
        async with self.opened() as store:
            pairs = [("a", str(number)) for number in range(5)]
            async with store.transaction() as transaction:
                await transaction.inbox_claim(SERVICE, pairs)
            assert await store.inbox_prune(PAST, 10) == 0
            assert [await store.inbox_prune(FUTURE, 3) for _ in range(3)] == [3, 2, 0]
            async with store.transaction() as transaction:
                assert await transaction.inbox_claim(SERVICE, pairs) == set(pairs)

    async def test_an_answer_is_kept_with_its_step(self) -> None:
        async with self.opened() as store:
            async with store.transaction() as transaction:
                assert await transaction.response_load("key-1") is None
                await transaction.response_save(response())
                assert await transaction.response_load("key-1") == response()
            async with store.transaction() as transaction:
                assert await transaction.response_load("key-1") == response()
                assert await transaction.response_load("key-2") is None

    async def test_a_second_answer_to_one_key_does_not_commit(self) -> None:
        async with self.opened() as store:
            async with store.transaction() as transaction:
                await transaction.response_save(response())
            with pytest.raises(RetryableError):
                async with store.transaction() as transaction:
                    await self.leave(transaction, "never")
                    await transaction.response_save(response())
            assert await self.traces(store) == []

    async def test_old_answers_are_pruned_a_chunk_at_a_time(self) -> None:
        async with self.opened() as store:
            async with store.transaction() as transaction:
                for number in range(5):
                    await transaction.response_save(response(f"key-{number}"))
            assert await store.responses_prune(PAST, 10) == 0
            assert [await store.responses_prune(FUTURE, 3) for _ in range(3)] == [3, 2, 0]
            async with store.transaction() as transaction:
                assert await transaction.response_load("key-0") is None
