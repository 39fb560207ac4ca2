from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.cli.harness import LEDGER, TILL, Ended, applied, books_of, entries, work_until
from tests.unit.cli.services import Sold, ledger, till

from ensue.adapters import make_broker, make_store
from ensue.cli import status as status_command
from ensue.codec import encode_envelope
from ensue.engine.books import Books
from ensue.engine.lookup import records_between
from ensue.engine.sealing import SealedBroker
from ensue.engine.worker import worker_name
from ensue.errors import BrokerUnavailable, StoreUnavailable
from ensue.event import event_type
from ensue.message import TICK, Envelope, Message, OutboxRecord
from ensue.operations.opening import opened
from ensue.operations.status import service_status
from ensue.seal import sealed
from ensue.signatures import Trust


def test_a_missing_database_is_an_error_and_nothing_is_made(ensue: Callable[..., Ended], home: Path) -> None:
    ended = ensue("status", TILL)
    assert ended.code == 1
    assert ended.out == ""
    assert f"service till has no database at sqlite:///{home}/till.db" in ended.err
    assert "ENSUE_TILL_DATABASE" in ended.err
    assert not home.exists()


def test_without_a_broker_the_store_is_shown_and_no_broker_is_made(ensue: Callable[..., Ended], home: Path) -> None:
    ensue("db", "init", LEDGER)
    ended = ensue("status", LEDGER, "--json")
    assert ended.code == 0
    [status] = ended.json["services"]
    assert f"there is no broker at sqlite:///{home}/broker.db" in status["broker_error"]
    assert [each["lag"] for each in status["partitions"]] == [None, None]
    assert status["lag"] is None
    assert not (home / "broker.db").exists()
    assert "the log cannot be asked" in ensue("status", LEDGER).out


def test_what_is_unsent_is_counted(ensue: Callable[..., Ended], sell: Callable[..., None]) -> None:
    sell(("ann", 1), ("bob", 2), ("ann", 3))
    [status] = ensue("status", TILL, "--json").json["services"]
    assert status["outbox"] == {"head": 3, "sent": 0, "unsent": 3, "held": []}
    assert status["workers"] == []
    assert status["epoch"] == status["source"].removeprefix("till/")


def test_a_quiet_system_has_no_lag_although_ticks_and_duplicates_lie_unread(
    ensue: Callable[..., Ended], sell: Callable[..., None]
) -> None:
    sell(("ann", 1), ("bob", 2), ("ann", 3))

    async def all_applied() -> bool:
        return await applied() == 3

    asyncio.run(work_until(all_applied, till, ledger))

    async def tick_and_repeat() -> None:
        """As a quiet relay and one that restarts do: records that say nothing new."""
        settings = till.settings()
        broker = SealedBroker(make_broker(settings.broker), "till", Trust())
        store = make_store(settings.database, "till")
        await broker.open()
        await store.open()
        try:
            records = await store.outbox_after(0, 10)
            for (topic, number), head in (await store.outbox_heads()).items():
                tick = OutboxRecord(topic, number, "", encode_envelope(Envelope("t", TICK)), b"", head, head)
                again = [each for each in records if (each.topic, each.partition) == (topic, number)]
                await broker.append(topic, number, store.source, [tick, *again])
        finally:
            await store.close()
            await broker.close()

    asyncio.run(tick_and_repeat())
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert status["lag"] == 0
    assert status["counters"]["applied"] == 3
    assert sum(each["log_end"] - each["offset"] for each in status["partitions"]) > 0
    sources = {source for each in status["partitions"] for source in each["watermarks"]}
    assert len(sources) == 1


def test_records_that_nobody_could_handle_are_counted_by_topic(ensue: Callable[..., Ended]) -> None:
    ensue("db", "init", LEDGER)
    assert "passed over" not in ensue("status", LEDGER).out

    async def put() -> None:
        event = encode_envelope(Envelope("e", event_type(Sold).type))
        damaged = OutboxRecord("sales", 0, "ann", event, b"{}", 7, 6)  # a chain and no checksum
        garbage = OutboxRecord("sales", 0, "ann", b"no envelope", b"")
        broker = make_broker(ledger.settings().broker)
        await broker.open()
        try:
            await broker.ensure_topic("sales", 2)
            await broker.append("sales", 0, "stranger", [damaged, damaged, garbage])
        finally:
            await broker.close()

        async def set_aside() -> bool:
            async with books_of(ledger) as (_, books):
                return bool(await books.letters(None))

        await work_until(set_aside, ledger)

    asyncio.run(put())
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert {name: status["counters"][name] for name in ("damaged", "refused", "garbage")} == {
        "damaged": 2, "refused": 0, "garbage": 1,
    }  # fmt: skip
    expected = "  records  of sales passed over: 2 damaged (sent again), 1 no messages (dead letters)\n"
    assert expected in ensue("status", LEDGER).out


def test_a_source_in_whose_name_somebody_wrote_is_shown_and_can_be_taken_back(
    ensue: Callable[..., Ended], sell: Callable[..., None]
) -> None:
    def work(count: int) -> None:
        async def done() -> bool:
            return await applied() == count

        asyncio.run(work_until(done, till, ledger))

    sell(("ann", 1))
    work(1)
    [before] = [each for each in ensue("status", LEDGER, "--json").json["services"][0]["partitions"] if each["offset"]]
    [(source, watermark)] = before["watermarks"].items()

    async def forge() -> None:
        broker = make_broker(till.settings().broker)
        await broker.open()
        try:
            envelope = encode_envelope(Envelope("forged", event_type(Sold).type))
            data = b'{"customer":"ann","amount":-1}'
            record = OutboxRecord("sales", before["partition"], "ann", envelope, data, 10**15, watermark)
            whole = sealed("sales", before["partition"], source, record)
            await broker.append("sales", before["partition"], source, [whole])
        finally:
            await broker.close()

    asyncio.run(forge())
    work(2)
    sell(("ann", 2))

    async def sent() -> bool:
        broker = make_broker(till.settings().broker)
        await broker.open()
        try:
            last = (await broker.bounds("sales", before["partition"])).last
            records = await records_between(broker, "sales", before["partition"], 0, last)
            return any(isinstance(each, Message) and each.position == 2 for each in records)
        finally:
            await broker.close()

    asyncio.run(work_until(sent, till))
    [doubted] = [each["doubted"] for each in ensue("status", LEDGER, "--json").json["services"][0]["partitions"]
                 if each["doubted"]]  # fmt: skip
    assert doubted == [source]
    assert f"doubted  {source} in sales/{before['partition']}" in ensue("status", LEDGER).out
    ended = ensue(
        "gaps", "rewind", LEDGER, "--topic", "sales", "--partition", before["partition"], "--source", source,
        answer="y\n",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    assert f"up to position {10**15} (message forged), and was up to {watermark} before that" in ended.out
    work(3)
    assert entries() == [("ann", 1), ("ann", -1), ("ann", 2)]


def test_what_lies_in_the_log_unread_is_the_lag(ensue: Callable[..., Ended], sell: Callable[..., None]) -> None:
    ensue("db", "init", LEDGER)
    sell(("ann", 1), ("bob", 2), ("ann", 3))

    async def all_sent() -> bool:
        broker = make_broker(till.settings().broker)
        await broker.open()
        try:
            return sum([(await broker.bounds("sales", number)).last for number in range(2)]) >= 3
        finally:
            await broker.close()

    asyncio.run(work_until(all_sent, till))
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert status["lag"] == 3
    assert "  lag      3\n" in ensue("status", LEDGER).out


def test_looking_takes_no_lease_and_leaves_no_worker(ensue: Callable[..., Ended]) -> None:
    ensue("db", "init", LEDGER)

    async def with_a_worker() -> None:
        async with books_of(ledger) as (_, books):
            before = await books.heartbeat("somewhere:1:a", 60.0, ["relay", "sales/0"])
            status = await asyncio.to_thread(ensue, "status", LEDGER, "--json")
            after = await books.leases()
            assert after.workers == before.workers == ("somewhere:1:a",)
            assert [each.name for each in after.leases] == ["relay", "sales/0"]
            [shown] = status.json["services"]
            assert shown["workers"] == ["somewhere:1:a"]
            assert {each["name"]: each["worker"] for each in shown["leases"]} == {
                "relay": "somewhere:1:a",
                "sales/0": "somewhere:1:a",
            }
            assert [each["worker"] for each in shown["partitions"]] == ["somewhere:1:a", None]

    asyncio.run(with_a_worker())


def test_one_service_that_cannot_be_read_does_not_hide_the_others(ensue: Callable[..., Ended]) -> None:
    ensue("db", "init", LEDGER)
    ended = ensue("status", TILL, LEDGER, "--json")
    assert ended.code == 1
    assert [each["service"] for each in ended.json["services"]] == ["ledger"]
    assert "service till has no database" in ended.err


def test_a_worker_whose_process_is_gone_is_marked(ensue: Callable[..., Ended]) -> None:
    ensue("db", "init", LEDGER)
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()  # and its number is not soon given to another
    machine = worker_name().rsplit(":", 2)[0]
    gone, alive = f"{machine}:{process.pid}:a", worker_name()

    async def leave_leases() -> None:
        async with books_of(ledger) as (_, books):
            await books.heartbeat(gone, 60.0, ["relay", "sales/0"])
            await books.heartbeat(alive, 60.0, ["sales/1"])

    asyncio.run(leave_leases())
    [status] = ensue("status", LEDGER, "--json").json["services"]
    assert status["gone"] == [gone]
    assert sorted(status["workers"]) == sorted([gone, alive])
    text = ensue("status", LEDGER).out
    assert f"relay: {gone} (gone)\n" in text
    assert f"{alive} (gone)" not in text
    [workers] = [line for line in text.splitlines() if line.startswith("  workers ")]
    assert f"{gone} (gone)" in workers
    assert alive in workers


def test_who_is_busy_for_long_and_what_is_suspect_is_shown(ensue: Callable[..., Ended]) -> None:
    ensue("db", "init", LEDGER)

    async def beat() -> None:
        async with books_of(ledger) as (_, books):
            await books.heartbeat("elsewhere:1:a", 600.0, ["sales/0", "relay"])
            await books.bury("elsewhere:1:a")
            await books.heartbeat("elsewhere:2:b", 600.0, ["sales/1"], busy=(75.0, "handler enter with message m-1"))

    asyncio.run(beat())
    [status] = ensue("status", LEDGER, "--json").json["services"]
    [busy] = status["busy"]
    assert (busy["worker"], busy["what"]) == ("elsewhere:2:b", "handler enter with message m-1")
    assert busy["running_s"] >= 75.0
    assert status["suspects"] == ["sales/0"]
    shown = ensue("status", LEDGER).out
    assert re.search(r"busy     elsewhere:2:b, for \d+ s with one transaction: handler enter with message m-1", shown)
    assert "suspect  sales/0: the last worker died there" in shown


async def test_a_part_that_fails_or_takes_too_long_is_named_and_the_rest_is_shown(
    ensue: Callable[..., Ended], sell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(sell, ("ann", 1))

    async def silent(_: object) -> None:
        await asyncio.Event().wait()

    async def failing(_: object) -> None:
        raise StoreUnavailable("the disk is gone")

    monkeypatch.setattr(Books, "letter_counts", silent)
    monkeypatch.setattr(Books, "leases", failing)
    async with opened(till, broker=True) as access:
        found = await service_status(access, answer_s=0.2)
    assert found.unanswered == {"workers and leases": "the disk is gone", "dead letters": "no answer within 0.2 s"}
    assert found.outbox.unsent == 1
    monkeypatch.setattr(status_command, "ANSWER_S", 0.2)
    ended = await asyncio.to_thread(ensue, "status", TILL)
    assert ended.code == 1
    assert "unknown  workers and leases: the disk is gone" in ended.out
    assert "1 unsent" in ended.out


async def test_why_nothing_is_sent_is_shown(ensue: Callable[..., Ended], sell: Callable[..., None]) -> None:
    await asyncio.to_thread(sell, ("ann", 1))
    ended = await asyncio.to_thread(ensue, "status", TILL, "--json")
    assert ended.json["services"][0]["relay"] == ["no worker lives, so nothing is sent"]
    async with books_of(till) as (_, books):
        await books.heartbeat("somewhere:1:a", 60.0, relay=["the broker refuses record 7"])
        ended = await asyncio.to_thread(ensue, "status", TILL)
        assert "unsent   somewhere:1:a: the broker refuses record 7" in ended.out
        assert "no worker has taken the relay's lease" in ended.out
        await books.heartbeat("somewhere:1:a", 60.0, ["relay"])
        ended = await asyncio.to_thread(ensue, "status", TILL)
        assert "unsent   " not in ended.out


async def test_a_broker_that_fails_while_it_is_asked_leaves_the_database_shown(
    ensue: Callable[..., Ended], sell: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    await asyncio.to_thread(sell, ("ann", 1))

    async def failing(*_: object) -> None:
        raise BrokerUnavailable("away again")

    async with opened(till, broker=True) as access:
        monkeypatch.setattr(type(access.broker), "topics", failing)
        found = await service_status(access)
    assert (found.broker_error, found.outbox.unsent, found.unanswered) == ("away again", 1, {})
