"""The log's beginning is gone: a view never takes what is left for the whole."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
from tests.views.ledger import (
    QUICK,
    LedgerPosted,
    fold,
    make_scribe,
    make_view,
    rows_of,
    until,
    until_ready,
    until_rows,
    versions_of,
)

from ensue import UsageError
from ensue.engine.view_versions import Versions
from ensue.ports import Broker
from ensue.views.ready import Kind

#: The scribe's own outbox and the log keep nothing for long, and no tick comes after it.
FORGETS = dataclasses.replace(QUICK, retention_s=0.5, retention_interval_s=0.05, tick_first_s=100.0, tick_max_s=100.0)
OLD = [LedgerPosted(account="a", amount=each) for each in (1, 2, 3)]
NEW = [LedgerPosted(account="a", amount=each) for each in (10, 20)]


async def write(home: Path, events: list[LedgerPosted], *, forget: bool) -> None:
    scribe = make_scribe(home, FORGETS if forget else QUICK)
    async with scribe.running() as runtime:
        async with scribe.step() as step:
            for each in events:
                step.publish(each)

        async def gone() -> bool:
            bounds = [await runtime.broker.bounds("views.ledger", number) for number in range(3)]
            left = await runtime.store.outbox_after(0, 1)  # the last one stays
            sent = await runtime.context.books.relay_position() >= len(events)
            return sent and (
                not forget or (left[0].position == len(events) and all(each.last < each.first for each in bounds))
            )

        await until(gone, "what is sent, and forgotten again")


async def incomplete(versions: Versions, version: int, broker: Broker) -> bool:
    found = await versions.obstacles(version, broker)
    return bool(found) and all(each.kind is Kind.INCOMPLETE and each.final for each in found)


async def test_the_swap_is_refused_and_named_until_the_loss_is_accepted_which_is_kept(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, new = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2)
    async with old.running(), new.running() as runtime, versions_of(new) as versions:
        await write(tmp_path, OLD, forget=True)
        await until_rows(old, fold(OLD, 1))
        scribe = make_scribe(tmp_path)
        async with scribe.running():
            async with scribe.step() as step:
                for each in NEW:
                    step.publish(each)
            await until_rows(old, fold([*OLD, *NEW], 1))
            await versions.rebuild(2, "me")
            broker = runtime.context.broker
            await until(lambda: incomplete(versions, 2, broker), "what is missing")
            [missing] = await versions.missing(2, broker)
            assert (missing.topic, missing.after, missing.through) == ("views.ledger", 0, 2)
            assert missing.source.startswith("scribe/")
            with pytest.raises(UsageError, match=r"(?s)positions 1 to 2 of scribe/.*--accept-missing"):
                await versions.swap(2, "me", broker)
            assert (await versions.book.row()).active == 1

            # Somebody saw less than is missing: nothing is accepted, neither that nor the rest.
            less = msgspec.structs.replace(missing, through=1)
            for shown in ([less], [], [missing, less]):
                with pytest.raises(
                    UsageError,
                    match=r"not what was shown any more, and nothing is accepted; it lacks now: .*1 to 2",
                ):
                    await versions.accept_missing(2, "the boss", broker, shown)
            assert (await versions.book.row()).accepted == ()
            assert await versions.missing(2, broker) == [missing]
            [accepted] = await versions.accept_missing(2, "the boss", broker, [missing])
            assert (accepted.source, accepted.after, accepted.through) == (missing.source, 0, 2)
            await until_ready(versions, 2, broker)
            row = await versions.swap(2, "me", broker)
            assert row.accepted == (accepted,)

            async def told() -> bool:
                return bool(await runtime.remarks()) and not await runtime.readiness()

            await until(told, "the new version, which says what it lacks")
            assert "accepted by the boss" in (await runtime.remarks())[0]
            await until_rows(new, fold([OLD[-1], *NEW], 2))
            row = await versions.drop(1, "me")
            assert row.accepted == (accepted,)


async def test_the_first_version_does_not_take_what_is_left_for_the_whole(tmp_path: Path) -> None:
    await write(tmp_path, OLD, forget=True)
    view = make_view(tmp_path, f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF", 1)
    scribe = make_scribe(tmp_path)
    async with view.running() as runtime, versions_of(view) as versions, scribe.running():
        async with scribe.step() as step:
            for each in NEW:
                step.publish(each)
        broker = runtime.context.broker
        await until(lambda: incomplete(versions, 1, broker), "what is missing")
        assert await rows_of(view, ["a"]) == {}
        assert len(await versions.accept_missing(1, "me", broker, await versions.missing(1, broker))) == 1
        await until_rows(view, fold([OLD[-1], *NEW], 1))


async def test_what_the_outbox_still_has_is_asked_for_and_nothing_is_missing(tmp_path: Path) -> None:
    await write(tmp_path, OLD, forget=False)
    scribe = make_scribe(tmp_path)
    async with scribe.running() as source:
        for number in range(3):
            await source.broker.prune("views.ledger", number, 1e12, 100)
        async with scribe.step() as step:
            for each in NEW:
                step.publish(each)
        view = make_view(tmp_path, f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF", 1)
        async with view.running():
            await until_rows(view, fold([*OLD, *NEW], 1))


async def test_a_letter_is_in_the_way_until_it_is_decided(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF"
    old, new = make_view(tmp_path, url, 1), make_view(tmp_path, url, 2)
    await write(tmp_path, OLD, forget=False)

    @new.on
    async def refuse(event: LedgerPosted) -> None:
        if event.amount == 2:
            raise ValueError("version 2 does not know what to do with a 2")

    async with old.running(), new.running() as runtime, versions_of(new) as versions:
        await until_rows(old, fold(OLD, 1))
        await versions.rebuild(2, "me")

        async def letters() -> bool:
            found = await versions.obstacles(2, runtime.context.broker)
            return bool(found) and {each.kind for each in found} == {Kind.LETTER}

        await until(letters, "the letters")
        with pytest.raises(UsageError, match="is set aside: retry or discard it"):
            await versions.swap(2, "me", runtime.context.broker)
