"""The Broker suite accepts a healthy adapter and rejects each broken one, by the test that is meant to."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Mapping, Sequence

import pytest
from tests.conformance_mutants import brokers as broken
from tests.conformance_mutants.running import run

from ensue.brokers.memory import MemoryBroker
from ensue.conformance.broker import SOURCE, BrokerConformance
from ensue.errors import BadMessage, BrokerUnavailable, RecordRefused
from ensue.message import OutboxRecord
from ensue.ports import Broker, Capabilities, Entry

REJECTED_BY = {
    broken.LosesTheTail: "test_a_batch_comes_back_whole_and_in_order",
    broken.Reorders: "test_a_batch_comes_back_whole_and_in_order",
    broken.GoesOnAfterAFailedRecord: "test_an_append_that_fails_leaves_a_prefix",
    broken.CallsARefusalAnOutage: "test_a_record_that_is_refused_for_ever_is_told_from_a_broker_that_is_away",
    broken.MixesPartitions: "test_append_many_keeps_the_order_of_each_partition",
    broken.RepeatsOldOffsets: "test_a_read_begins_after_the_given_offset",
    broken.ReturnsTheNewest: "test_reads_of_any_limit_leave_nothing_out",
    broken.ReturnsPastALateRecord: "test_racing_writers_lose_nothing_and_a_follower_misses_nothing",
    broken.NeverWakes: "test_a_waiting_read_is_woken_by_an_append",
    broken.FillsTheBatch: "test_a_read_returns_what_is_there_and_does_not_wait_for_a_full_batch",
    broken.SleepsThroughClose: "test_closing_the_broker_closes_its_readers_and_ends_their_reads_with_nothing",
    broken.SleepsThroughItsReadersClose: "test_closing_a_reader_ends_its_read_with_nothing_and_no_other",
    broken.SharesOnePlace: "test_readers_of_one_partition_each_get_everything",
    broken.ForgetsItsPlace: "test_a_reader_keeps_its_place_and_says_where_it_is",
    broken.LosesWhatACancelledReadTook: "test_a_cancelled_read_costs_nothing",
    broken.PruneResetsOffsets: "test_pruning_everything_keeps_the_last_offset",
    broken.TakesAnyNumberOfPartitions: "test_another_number_of_partitions_is_refused_with_both_numbers",
    broken.DropsExtensions: "test_a_foreign_cloudevent_without_a_chain_is_carried_faithfully",
    broken.CutsBigRecords: "test_any_data_comes_back_empty_binary_or_a_megabyte",
    broken.DropsTheSeal: "test_the_seal_of_a_record_comes_back_and_what_it_covers",
    broken.StopsAtGarbage: "test_garbage_comes_with_its_offset_and_stops_nobody",
}
RESTART = "test_what_was_appended_is_there_after_close_and_open"
#: Short enough for the broken ones that make a test wait; only the healthy one needs more.
SHORT_PATIENCE_S = 0.5


class Limited(MemoryBroker):
    """limits: bytes of data that are too many, by partition; of all brokers of a suite."""

    def __init__(self, url: str, limits: dict[tuple[str, int], int]) -> None:
        super().__init__(url)
        self.limits = limits

    async def _append(self, source: str, batches: Mapping[tuple[str, int], Sequence[Entry]]) -> list[int]:
        for where, entries in batches.items():
            for each in entries:
                if len(each.data) >= self.limits.get(where, 2**31):
                    raise RecordRefused(f"{len(each.data)} bytes", position=each.position)
        return await super()._append(source, batches)


class Suite(BrokerConformance):
    """The suite around a healthy log in memory, with a fault put over it or none."""

    capabilities = MemoryBroker.capabilities

    def __init__(self, fault: type[broken.WrappedBroker], patience_s: float) -> None:
        self.fault = fault
        self.patience_s = patience_s
        self.url = f"memory:{secrets.token_hex(8)}"
        self.kept = MemoryBroker(self.url)
        self.limits: dict[tuple[str, int], int] = {}

    async def make_broker(self) -> Broker:
        return self.fault(Limited(self.url, self.limits))

    async def limit_records(self, broker: Broker, topic: str, partition: int) -> int:
        self.limits[topic, partition] = 1_000
        return 1_000

    async def inject_garbage(self, broker: Broker, topic: str, partition: int) -> None:
        await broker.append(topic, partition, SOURCE, [OutboxRecord(topic, partition, "", b"\xff{", b"?")])


class ForgetfulSuite(Suite):
    """A log that says it survives a restart, and does not."""

    capabilities = Capabilities(survives_restart=True)

    async def make_broker(self) -> Broker:
        return MemoryBroker("memory:")


TESTS = [name for name, _ in inspect.getmembers(BrokerConformance, inspect.isfunction) if name.startswith("test_")]


async def test_every_fault_has_its_test() -> None:
    faults = {cls for _, cls in inspect.getmembers(broken, inspect.isclass) if issubclass(cls, broken.WrappedBroker)}
    assert faults - {broken.WrappedBroker} == set(REJECTED_BY)


@pytest.mark.parametrize("name", TESTS)
async def test_a_healthy_adapter_is_accepted(name: str) -> None:
    suite = Suite(broken.WrappedBroker, patience_s=10.0)
    if name == RESTART:
        with pytest.raises(pytest.skip.Exception, match="survives_restart"):
            await suite.test_what_was_appended_is_there_after_close_and_open()
    else:
        await run(suite, name)


@pytest.mark.parametrize("fault", REJECTED_BY, ids=lambda fault: fault.__name__)
async def test_a_broken_adapter_is_rejected(fault: type[broken.WrappedBroker]) -> None:
    suite = Suite(fault, SHORT_PATIENCE_S)
    with pytest.raises(
        (AssertionError, TimeoutError, BadMessage, BrokerUnavailable, pytest.fail.Exception, ExceptionGroup)
    ) as caught:
        await run(suite, REJECTED_BY[fault])
    assert "pytest-timeout" not in str(caught.value), "the suite itself did not notice"
    if isinstance(caught.value, ExceptionGroup):
        assert caught.value.subgroup(AssertionError) is not None


async def test_a_log_that_does_not_survive_a_restart_is_rejected() -> None:
    suite = ForgetfulSuite(broken.WrappedBroker, SHORT_PATIENCE_S)
    with pytest.raises(AssertionError):
        await suite.test_what_was_appended_is_there_after_close_and_open()
