"""Publishing steps one by one, as HTTP requests make them, against the bare transaction that each of them is.

A transaction with synchronous FULL: change one account, INSERT one outbox record. Bare: stdlib sqlite3 on one
connection. Ensue: `async with service.step()`, the account changed by an UPDATE through `step.session` (SQLAlchemy), or
loaded and saved by the repository of a plain dataclass; each against the very same statements. For comparison the
UPDATE by SQLAlchemy over aiosqlite, which takes every call to a thread. Only steps are measured here; no relay runs.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

from benchmarks import bare_files, ensue_side, workload
from benchmarks.bare_files import Headers
from benchmarks.bare_loop import UPDATE_ACCOUNT, Outbox, moment
from benchmarks.bare_plain import ADD, begin_by_hand
from benchmarks.bare_tables import outbox_table
from benchmarks.figures import Report
from benchmarks.rounds import Sample, Stopwatch, alternate
from benchmarks.workload import Account, BalanceChanged, TransferMade, accounts, amount_told, balance_changed
from ensue import Step, TableRepository

_ACCOUNT = "SELECT id, owner, balance, changes FROM accounts WHERE id = ?"
_ADD = "UPDATE accounts SET balance = balance + ?, changes = changes + 1 WHERE id = ?"
_HEADERS = Headers("0123456789abcdef-1", "transfers.TransferMade.v1", correlationid="fedcba9876543210-1")


def run(quick: bool) -> Report:
    count, rounds = (50, 1) if quick else (5_000, 7)
    events = list(workload.transfers(count))
    fewer = events[: max(count // 3, 1)]
    measured = alternate(
        {
            "bare update": lambda: _bare(events, _update_bare),
            "bare entity": lambda: _bare(events, _entity_bare),
            "session": lambda: asyncio.run(_ensue(events, _by_session)),
            "dataclass": lambda: asyncio.run(_ensue(events, _by_repository)),
            "publish": lambda: asyncio.run(_ensue(events, _publish_only)),
            "aiosqlite": lambda: asyncio.run(_aiosqlite(fewer)),
        },
        rounds,
    )
    return Report(
        name="step",
        question="How many steps a second, each its own transaction with its own fsync?",
        scale=f"{rounds} rounds of {count:,} steps ({len(fewer):,} with aiosqlite), one after the other.",
        bad="below SQLAlchemy over aiosqlite: then the dialect of our own would be for nothing.",
        bound="the disk's fsync for the bare transaction; SQLAlchemy's session for a step that uses one.",
        figures=(
            measured.rate("bare update", "bare: UPDATE, INSERT, COMMIT", unit="steps/s"),
            measured.rate("session", "Ensue, UPDATE through step.session", unit="steps/s"),
            measured.ratio("session", "bare update", "ratio, step.session"),
            measured.rate("aiosqlite", "AsyncSession over aiosqlite, no Ensue", unit="steps/s"),
            measured.rate("bare entity", "bare: SELECT, UPDATE, INSERT, COMMIT", unit="steps/s"),
            measured.rate("dataclass", "Ensue, dataclass through its repository", unit="steps/s"),
            measured.ratio("dataclass", "bare entity", "ratio, dataclass"),
            measured.rate("publish", "Ensue, a step that only publishes", unit="steps/s"),
        ),
    )


def _bare(
    events: Sequence[TransferMade], handle: Callable[[sqlite3.Connection, TransferMade], BalanceChanged]
) -> Sample:
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        bare_files.make_files(Path(name), [])
        files = bare_files.open_files(Path(name))
        service, outbox = files.service, Outbox()
        watch = Stopwatch()
        for event in events:
            service.execute("BEGIN IMMEDIATE")
            following = handle(service, event)
            service.execute(bare_files.INSERT_OUTBOX, outbox.row(_HEADERS, following, *moment()))
            service.execute("COMMIT")
        sample = watch.stop(len(events))
        files.close()
        return sample


def _update_bare(service: sqlite3.Connection, event: TransferMade) -> BalanceChanged:
    service.execute(_ADD, (event.amount, event.account_id))
    return amount_told(event)


def _entity_bare(service: sqlite3.Connection, event: TransferMade) -> BalanceChanged:
    account = Account(*service.execute(_ACCOUNT, (event.account_id,)).fetchone())
    account.add(event.amount)
    service.execute(UPDATE_ACCOUNT, (account.owner, account.balance, account.changes, account.id))
    return balance_changed(account, event)


async def _ensue(events: Sequence[TransferMade], handle: Callable[[TransferMade, Step], Awaitable[None]]) -> Sample:
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        runtime = ensue_side.make_runtime(ensue_side.make_service(), Path(name))
        await ensue_side.make_template(Path(name), [], ensue_side.make_service())
        await runtime.start(work=False)
        watch = Stopwatch()
        for event in events:
            async with runtime.step() as step:
                await handle(event, step)
        sample = watch.stop(len(events))
        heads = await runtime.store.outbox_heads()
        await runtime.stop()
        assert max(heads.values()) == len(events)
        return sample


async def _by_session(event: TransferMade, step: Step) -> None:
    await step.session.execute(ADD, {"account": event.account_id, "amount": event.amount})
    step.publish(amount_told(event))


async def _by_repository(event: TransferMade, step: Step) -> None:
    [account] = (await _repository.load(step.transaction, [event.account_id])).values()
    account.add(event.amount)
    await _repository.save(step.transaction, {account.id: account}, {})
    step.publish(balance_changed(account, event))


_repository = TableRepository(Account, accounts)


async def _publish_only(event: TransferMade, step: Step) -> None:
    step.publish(amount_told(event))


async def _aiosqlite(events: Sequence[TransferMade]) -> Sample:
    with tempfile.TemporaryDirectory(prefix="ensue-bench-") as name:
        bare_files.make_files(Path(name), [])
        engine = create_async_engine(f"sqlite+aiosqlite:///{name}/service.db")
        begin_by_hand(engine)
        names, outbox = outbox_table.columns.keys(), Outbox()
        watch = Stopwatch()
        for event in events:
            async with AsyncSession(engine) as session, session.begin():
                await session.execute(ADD, {"account": event.account_id, "amount": event.amount})
                row = outbox.row(_HEADERS, amount_told(event), *moment())
                await session.execute(insert(outbox_table), dict(zip(names, row, strict=True)))
        sample = watch.stop(len(events))
        await engine.dispose()
        return sample
