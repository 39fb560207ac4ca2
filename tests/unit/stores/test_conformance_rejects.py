"""The Store suite accepts a healthy adapter and rejects each broken one, by the test that is meant to."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

import pytest
from tests.conformance_mutants import stores as broken
from tests.conformance_mutants.running import run

from ensue.conformance.store import SERVICE, StoreConformance
from ensue.ports import Capabilities, Store
from ensue.stores.sqlite import SqliteStore

REJECTED_BY: dict[type[broken.WrappedStore], str] = {
    broken.KeepsACheckpointAfterARollback: "test_a_step_that_raises_leaves_nothing",
    broken.KeepsAnInboxClaimAfterARollback: "test_a_rollback_gives_a_claim_back",
    broken.PublishesBeforeTheCommit: "test_a_step_that_raises_leaves_nothing",
    broken.CommitsWhatWasCancelled: "test_a_cancelled_step_leaves_nothing_and_holds_up_nobody",
    broken.LosesUpdates: "test_racing_steps_on_one_entity_lose_no_update",
    broken.LosesTheTail: "test_records_of_a_batch_keep_their_order_and_none_is_lost",
    broken.Reorders: "test_records_of_a_batch_keep_their_order_and_none_is_lost",
    broken.SkipsALateCommit: "test_racing_writers_and_a_follower_that_misses_nothing",
    broken.BreaksTheChain: "test_records_of_a_batch_keep_their_order_and_none_is_lost",
    broken.ForgetsHeadsWhenPruned: "test_pruning_everything_keeps_heads_and_chain",
    broken.PrunesWhatIsUnsent: "test_pruning_takes_old_records_up_to_a_position_a_chunk_at_a_time",
    broken.NeverWakes: "test_a_commit_ends_the_wait_for_it",
    broken.MissesWhatCameBeforeTheWait: "test_a_commit_between_looking_and_waiting_is_not_missed",
    broken.SendsHistoryAgain: "test_a_new_epoch_sends_the_unsent_records_as_a_chain_of_its_own",
    broken.EndsWhateverEpochThereIs: "test_a_new_epoch_becomes_known_to_other_stores_on_the_database",
    broken.ForgetsWhatItFollowsOn: "test_an_empty_store_goes_on_with_another_ones_history",
    broken.IgnoresTheRevision: "test_of_two_workers_with_one_partition_exactly_one_commits",
    broken.MakesATableAnew: "test_an_own_table_that_is_made_later_keeps_its_rows_whoever_makes_it_again",
    broken.DeletesWhatItDoesNotExpect: "test_a_letter_that_is_gone_cannot_be_removed_again",
    broken.InsertsOverARow: "test_an_own_row_that_is_there_already_dooms_the_step",
    broken.PassesOverARowThatIsThere: "test_a_second_answer_to_one_key_does_not_commit",
    broken.CommitsAfterACaughtConflict: "test_a_row_that_is_not_as_expected_dooms_the_step",
    broken.DeletesNothing: "test_rows_are_deleted_and_missing_ones_passed_over",
    broken.HandsOutTwoLeases: "test_of_workers_that_want_one_lease_at_once_exactly_one_gets_it",
    broken.StandsStill: "test_a_lease_that_ran_out_goes_to_whoever_asks",
    broken.CountsAPage: "test_rows_are_deleted_and_missing_ones_passed_over",
    broken.KeepsWhatASavepointTookBack: "test_what_is_published_in_a_savepoint_goes_with_it",
    broken.LetsAHandlerCommit: "test_a_handler_cannot_end_the_transaction",
    broken.ReadsWhatIsNotCommitted: "test_reading_sees_what_is_committed_and_nothing_else",
    broken.EndsAfterNothing: "test_nothing_comes_first_and_pages_go_on_after_it",
    broken.SortsNumbersAsText: "test_decimals_are_in_the_order_of_their_numbers",
    broken.NeverReadsBackward: "test_the_last_rows_are_found_from_the_end",
    broken.SkipsARowBetweenPages: "test_pages_put_together_are_everything_in_order",
}
#: Arguments for tests that take one.
GIVEN: dict[str, tuple[Any, ...]] = {
    "test_of_two_workers_with_one_partition_exactly_one_commits": (False,),
    "test_a_handler_cannot_end_the_transaction": ("commit",),
    "test_a_statement_that_ends_the_transaction_leaves_nothing_half_done": ("COMMIT",),
    "test_a_checkpoint_of_another_revision_is_refused_with_everything_else": ("before",),
    "test_a_row_that_is_not_as_expected_dooms_the_step": (0,),
}
OTHER_PROCESSES = "test_racing_processes_lose_no_update_and_a_follower_misses_nothing"  # they know no wrapper
TESTS = [
    name
    for name, _ in inspect.getmembers(StoreConformance, inspect.isfunction)
    if name.startswith("test_") and name != OTHER_PROCESSES
]
#: Short enough for the broken ones that make a test wait; only the healthy one needs more.
SHORT_PATIENCE_S = 1.0


class Suite(StoreConformance):
    """The suite around a healthy store, with a fault put over it or none."""

    capabilities = Capabilities(power_loss_safe=False, takes_over=True)

    def __init__(self, fault: type[broken.WrappedStore], directory: Path, patience_s: float) -> None:
        self.fault = fault
        self.patience_s = patience_s
        self.url = f"sqlite:///{directory}/orders.db?synchronous=OFF"

    async def make_store(self) -> Store:
        return cast(Store, self.fault(SqliteStore(self.url, SERVICE)))


async def test_every_fault_has_its_test() -> None:
    faults = {
        cls
        for name, cls in inspect.getmembers(broken, inspect.isclass)
        if issubclass(cls, broken.WrappedStore) and not name.startswith("_")
    }
    assert faults - {broken.WrappedStore} == set(REJECTED_BY)


@pytest.mark.parametrize("name", TESTS)
async def test_a_healthy_adapter_is_accepted(name: str, tmp_path: Path) -> None:
    suite = Suite(broken.WrappedStore, tmp_path, patience_s=10.0)
    if name == "test_without_sessions_the_error_says_so":
        with pytest.raises(pytest.skip.Exception, match="has sessions"):
            await run(suite, name)
    else:
        await run(suite, name, *GIVEN.get(name, ()))


@pytest.mark.parametrize("fault", REJECTED_BY, ids=lambda fault: fault.__name__)
async def test_a_broken_adapter_is_rejected(fault: type[broken.WrappedStore], tmp_path: Path) -> None:
    suite = Suite(fault, tmp_path, SHORT_PATIENCE_S)
    name = REJECTED_BY[fault]
    with pytest.raises((AssertionError, TimeoutError, pytest.fail.Exception, ExceptionGroup)) as caught:
        await run(suite, name, *GIVEN.get(name, ()))
    assert "pytest-timeout" not in str(caught.value), "the suite itself did not notice"
    if isinstance(caught.value, ExceptionGroup):
        assert caught.value.subgroup((AssertionError, TimeoutError)) is not None


async def test_a_store_that_does_not_survive_a_restart_is_rejected(tmp_path: Path) -> None:
    suite = Suite(broken.WrappedStore, tmp_path, SHORT_PATIENCE_S)
    suite.url = "sqlite://"
    with pytest.raises(AssertionError):
        await suite.test_what_was_committed_is_there_after_close_and_open()
