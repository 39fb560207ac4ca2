"""Each decision over HTTP: it takes effect, leaves a row with its actor, origin and reason, and is taken once."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import ClientDisconnect
from tests.unit.cli.test_new_epoch import copy_database, put_back
from tests.unit.console.desk import DeskSold, books, client, desk_api, first, second, shop, who
from tests.views.ledger import make_scribe, make_view, until
from tests.views.test_incomplete import NEW, OLD, incomplete, write

from ensue.console import Action, Actor, Payloads, api
from ensue.errors import IdempotencyConflict, IdempotencyMismatch, StoreUnavailable
from ensue.message import HeldPartition
from ensue.operations import epoch as operations
from ensue.operations.decisions import decisions, opened_decisions
from ensue.operations.opening import Opened, opened
from ensue.operations.outbox import outbox
from ensue.operations.repeats import done_once
from ensue.operations.views import opened_view

BOOKS, SHOP, SEEN = "/services/desk_books", "/services/desk_shop", "/services/desk_seen@2"
WHY = {"reason": "rates are there now"}

Ask = httpx.AsyncClient


async def ask(asking: Ask, path: str, status: int = 200, key: str = "", **body: Any) -> Any:
    headers = {"idempotency-key": key} if key else {}
    answer = await asking.post(path, json={**WHY, **body}, headers=headers)
    assert answer.status_code == status, (path, answer.text)
    return answer.json()


async def letters(asking: Ask, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = (await asking.get(f"{BOOKS}/letters", params=query)).json()["letters"]
    return found


async def letter_path(asking: Ask, key: str) -> str:
    found = next(each for each in await letters(asking, state="dead") if each["key"] == key)
    return f"{BOOKS}/letters/{found['topic']}/{found['partition']}/{found['number']}"


async def rows(service: Any = books) -> list[Any]:
    async with opened_decisions(service) as found:
        return [each async for each in decisions(found) if each.actor != "seed"]


async def timer_id(asking: Ask) -> str:
    found: str = (await asking.get(f"{SHOP}/timers")).json()["timers"][0]["id"]
    return found


async def group_name(asking: Ask) -> str:
    found: str = (await asking.get(f"{BOOKS}/groups")).json()["groups"][0]["name"]
    return found


# ------------------------------------------------------------------------------------ a way to take each decision


async def letter_retry(asking: Ask) -> None:
    answer = await ask(asking, await letter_path(asking, "bob") + "/retry")
    assert (answer["state"], answer["works"]) == ("released", False)


async def letter_discard(asking: Ask) -> None:
    assert (await ask(asking, await letter_path(asking, "eve") + "/discard"))["state"] == "discarded"


async def letter_edit(asking: Ask) -> None:
    path, data = await letter_path(asking, "zoe"), {"customer": "zoe", "amount": 4}
    seen = (await asking.get(path)).json()["seen"]
    assert (await ask(asking, f"{path}/edit", data=data, seen=seen))["state"] == "released"


async def letter_purge(asking: Ask) -> None:
    await letter_discard(asking)
    assert await ask(asking, f"{BOOKS}/letters/purge", older_s=0) == {"deleted": 1}


async def gap_accept(asking: Ask) -> None:
    found = await ask(asking, f"{BOOKS}/gaps/desk/0/accept", source="gone/1", positions=5, through=7)
    assert found["position"] == 7


async def gap_forget(asking: Ask) -> None:
    path = f"{BOOKS}/gaps/desk/0/forget"
    assert "applied up to position 2 now" in (await ask(asking, path, 409, source="open/1", watermark=1))["detail"]
    await ask(asking, path, source="open/1", watermark=2)


async def gap_rewind(asking: Ask) -> None:
    path = f"{BOOKS}/gaps/desk/0/rewind"
    # Two operators have seen the same, and it was applied again since the first of them took it back.
    refused = await ask(asking, path, 409, source="open/1", position=1, watermark=3)
    assert "applied up to position 2 now" in refused["detail"]
    await ask(asking, path, source="open/1", position=1, watermark=2)


async def partition_pause(asking: Ask) -> None:
    assert (await ask(asking, f"{BOOKS}/partitions/desk/0/pause"))["paused"] is True


async def partition_resume(asking: Ask) -> None:
    await partition_pause(asking)
    assert (await ask(asking, f"{BOOKS}/partitions/desk/0/resume"))["paused"] is False


async def partition_release(asking: Ask) -> None:
    async def released() -> bool:
        return (await asking.post(f"{BOOKS}/partitions/desk/0/release", json=WHY)).status_code == 200

    async with books.running():
        await until(released, "the lease")


async def publish(asking: Ask) -> None:
    data = {"customer": "kim", "amount": 1}
    answer = await ask(asking, f"{SHOP}/events", 201, type="DeskSold", data=data)
    assert (answer["type"], answer["key"], answer["position"]) == ("desk.DeskSold.v1", "kim", 6)


async def epoch(asking: Ask) -> None:
    path, database = f"{SHOP}/epoch", Path(os.environ["ENSUE_HOME"], "desk_shop.db")
    agrees = (await asking.get(path)).json()
    assert (agrees["needed"], agrees["left"], agrees["published_through"]) == (False, 0, 5)
    seen = {"source": agrees["source"], "published_through": 5}
    assert "needs no new epoch" in (await ask(asking, path, 409, **seen))["detail"]
    copy = database.with_name("copy")
    copy_database(database, copy)
    await publish(asking)

    async def sent() -> bool:
        return not (await asking.get(f"{SHOP}/outbox", params={"unsent": True})).json()["records"]

    async with shop.running():
        await until(sent, "the event")
        assert "shop runs" in (await ask(asking, path, 409, **seen))["detail"]
    put_back(copy, database)
    await publish(asking)  # as far as its position goes, the old life's sixth
    found = (await asking.get(path)).json()
    assert (found["needed"], found["left"], found["diverged_at"], found["workers"]) == (True, 1, 6, [])
    assert (found["source"], found["published_through"]) == (agrees["source"], 5)
    other = await ask(asking, path, 409, source=found["source"], published_through=4)
    assert "through 4, when it was looked at: nothing is done" in other["detail"]
    async with AsyncExitStack() as stack:
        patched = stack.enter_context(pytest.MonkeyPatch.context())
        compared = operations.compared

        async def and_a_worker_begins(access: Opened) -> operations.Compared:
            """To compare a long log takes its time: somebody starts the service meanwhile."""
            found = await compared(access)
            await stack.enter_async_context(shop.running())
            return found

        patched.setattr(operations, "compared", and_a_worker_begins)
        late = await ask(asking, path, 409, **seen)
        assert "lives, and none may while an epoch begins: stop it" in late["detail"]
    begun = await ask(asking, path, key="1", **seen)
    assert (begun["ended"], begun["source"] != begun["ended"]) == (found["source"], True)
    assert await ask(asking, path, key="1", **seen) == begun
    assert "when it was looked at" in (await ask(asking, path, 409, **seen))["detail"]


async def outbox_withdraw(asking: Ask) -> None:
    async with shop.running(work=False), shop.step() as step:
        step.publish(DeskSold(customer="kim", amount=1))
    async with opened(shop) as access:
        last = (await outbox(access, 0, 100)).records[-1]
        place, event = (last.topic, last.partition, last.position), (last.headers["type"], last.headers["id"])
        await access.books.tell_held([HeldPartition(*place, *event, "2 MB are too much", refused=True)])
    found = await ask(asking, f"{SHOP}/outbox/withdraw", id=last.headers["id"])
    assert (found["type"], found["id"], found["position"]) == (*event, last.position)
    listed = (await asking.get(f"{SHOP}/outbox")).json()["records"]
    assert [each["position"] for each in listed if each["withdrawn"]] == [last.position]


async def replay(asking: Ask) -> None:
    found = await ask(asking, f"{BOOKS}/replay", type="desk.DeskSold.v1")
    assert found == {"type": "desk.DeskSold.v1", "partitions": ["desk/0"]}


async def revision(asking: Ask, saga: str) -> int:
    found: int = (await asking.get(f"{BOOKS}/sagas/ship/{saga}")).json()["revision"]
    return found


async def saga_retry(asking: Ask) -> None:
    await ask(asking, f"{BOOKS}/sagas/ship/a/b/retry")  # an id with a slash


async def saga_cancel(asking: Ask) -> None:
    await ask(asking, f"{BOOKS}/sagas/ship/two/cancel")


async def saga_skip(asking: Ask) -> None:
    answer = await ask(asking, f"{BOOKS}/sagas/ship/one/skip", result=7, revision=await revision(asking, "one"))
    assert "pack" in answer["skipped"]


async def timer_cancel(asking: Ask) -> None:
    wanted = await timer_id(asking)
    assert await ask(asking, f"{SHOP}/timers/cancel", ids=[wanted]) == {"cancelled": [wanted]}


async def view_rebuild(asking: Ask) -> None:
    row = await ask(asking, f"{SEEN}/view/rebuild", rate=5)
    assert (row["active"], row["building"], row["rate"]) == (1, 2, 5.0)


async def view_pause(asking: Ask) -> None:
    await view_rebuild(asking)
    assert (await ask(asking, f"{SEEN}/view/pause"))["state"] == "paused"


async def view_resume(asking: Ask) -> None:
    await view_pause(asking)
    assert (await ask(asking, f"{SEEN}/view/resume", rate=7))["rate"] == 7.0


async def view_swap(asking: Ask) -> None:
    await view_rebuild(asking)
    refused = await ask(asking, f"{SEEN}/view/swap", 409)
    assert "it is not ready" in refused["detail"]
    async with first.running(), second.running():
        await until_swapped(asking)


async def until_swapped(asking: Ask) -> None:
    async def swapped() -> bool:
        return (await asking.post(f"{SEEN}/view/swap", json=WHY)).status_code == 200

    await until(swapped, "version 2")


async def view_rollback(asking: Ask) -> None:
    await view_rebuild(asking)
    async with first.running(), second.running():
        await until_swapped(asking)
        assert (await ask(asking, f"{SEEN}/view/rollback", version=1))["active"] == 1
        # The answer was lost, and it is sent again: it does not go forth again.
        again = await ask(asking, f"{SEEN}/view/rollback", 409, version=1)
        assert "version 1 is not the one to go back to, 2 is" in again["detail"]


async def view_drop(asking: Ask) -> None:
    await view_rebuild(asking)
    assert (await ask(asking, f"{SEEN}/view/drop", version=2))["building"] == 0
    # A place that no version has may still be there, and is removed: that is a decision too.
    before = len(await rows(second))
    await ask(asking, f"{SEEN}/view/drop", version=2)
    assert len(await rows(second)) == before + 1


WAYS: dict[Action, tuple[Callable[[Ask], Awaitable[None]], Any]] = {
    Action.LETTER_RETRY: (letter_retry, books),
    Action.LETTER_DISCARD: (letter_discard, books),
    Action.LETTER_EDIT: (letter_edit, books),
    Action.LETTER_PURGE: (letter_purge, books),
    Action.GAP_ACCEPT: (gap_accept, books),
    Action.GAP_FORGET: (gap_forget, books),
    Action.GAP_REWIND: (gap_rewind, books),
    Action.PARTITION_PAUSE: (partition_pause, books),
    Action.PARTITION_RESUME: (partition_resume, books),
    Action.PARTITION_RELEASE: (partition_release, books),
    Action.NEW_EPOCH: (epoch, shop),
    Action.PUBLISH: (publish, shop),
    Action.OUTBOX_WITHDRAW: (outbox_withdraw, shop),
    Action.REPLAY: (replay, books),
    Action.SAGA_RETRY: (saga_retry, books),
    Action.SAGA_SKIP: (saga_skip, books),
    Action.SAGA_CANCEL: (saga_cancel, books),
    Action.TIMER_CANCEL: (timer_cancel, shop),
    Action.VIEW_REBUILD: (view_rebuild, second),
    Action.VIEW_PAUSE: (view_pause, second),
    Action.VIEW_RESUME: (view_resume, second),
    Action.VIEW_SWAP: (view_swap, second),
    Action.VIEW_ROLLBACK: (view_rollback, second),
    Action.VIEW_DROP: (view_drop, second),
}


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("action", WAYS, ids=str)
async def test_each_decision_leaves_a_row_with_who_from_where_and_why(action: Action) -> None:
    decide, service = WAYS[action]
    async with client(user="ann@desk") as asking:
        await decide(asking)
    last = (await rows(service))[-1]
    assert (last.action, last.actor, last.origin) == (action.value, "ann@desk", "api")
    assert last.reason == "rates are there now"
    assert last.target


async def test_what_a_view_misses_is_accepted_with_who_and_why(tmp_path: Path) -> None:
    """A view whose log has lost its beginning, before it has read any of it."""
    await write(tmp_path, OLD, forget=True)
    view = make_view(tmp_path, f"sqlite:///{tmp_path}/ledger.db?synchronous=OFF", 1)
    app = api(view, authorize=who)
    async with view.running() as runtime, make_scribe(tmp_path).running() as scribe, client(app, user="boss") as asking:
        async with scribe.step() as step:
            step.publish(NEW[0])
        async with opened_view(view) as access:
            await until(lambda: incomplete(access.versions, 1, runtime.context.broker), "what is missing")
        path = "/services/ledger@1/view"
        [version] = (await asking.get(path)).json()["versions"]
        assert (version["role"], version["obstacles"]) == ("active", [])
        lacks = version["missing"]
        assert (lacks["positions"], [each["through"] for each in lacks["obstacles"]]) == (2, [2])
        await ask(asking, f"{path}/accept-missing", 422, positions=2)
        for positions, seen, said in (
            (9, lacks["seen"], "2 positions are missing in version 1 now, and 9 were confirmed"),
            (2, "0123456789abcdef", "2 positions are missing in version 1, but others than when it was looked at"),
        ):
            refused = await ask(asking, f"{path}/accept-missing", 409, positions=positions, seen=seen)
            assert said in refused["detail"]
        row = await ask(asking, f"{path}/accept-missing", positions=2, seen=lacks["seen"])
        assert [(each["by"], each["through"]) for each in row["accepted"]] == [("boss", 2)]
    last = (await rows(view))[-1]
    assert (last.action, last.actor, last.origin) == ("views accept-missing", "boss", "api")


def test_there_is_a_way_for_every_decision() -> None:
    """That of what a view misses is the test above."""
    assert set(WAYS) | {Action.VIEW_ACCEPT_MISSING} == {each for each in Action if each.decides}


# --------------------------------------------------------------------------------------------- twice, and by two


@pytest.mark.usefixtures("desk")
async def test_of_two_who_decide_at_once_one_is_told_that_the_other_was_quicker() -> None:
    app = desk_api()
    async with client(app, user="ann") as ann, client(app, user="bob") as bob:
        path = await letter_path(ann, "bob")
        both = await asyncio.gather(*(each.post(f"{path}/retry", json=WHY) for each in (ann, bob)))
        assert sorted(each.status_code for each in both) == [200, 409]
        [late] = [each.json() for each in both if each.status_code == 409]
        assert late["title"] == "Not to be decided any more"
        assert len([each for each in await rows() if each.action == "dead-letters retry"]) == 1


@pytest.mark.usefixtures("desk")
async def test_many_letters_are_decided_and_what_somebody_else_has_is_passed_over() -> None:
    async with client() as asking:
        ids = [each["id"] for each in await letters(asking, state="dead")]
        await ask(asking, await letter_path(asking, "bob") + "/discard")
        found = await ask(asking, f"{BOOKS}/letters/retry", ids=[*ids, ids[0]])
        assert (found["decided"], found["passed"], found["stopped"]) == (3, 1, "")
        assert [each["outcome"] for each in found["letters"] if each["key"] == "bob"] == ["passed over"]
        refused = await ask(asking, f"{BOOKS}/letters/retry", 404, ids=[ids[0], "desk/0:99"])
        assert "no dead letter desk/0:99" in refused["detail"]


@pytest.mark.usefixtures("desk")
async def test_a_bulk_decision_with_its_key_is_taken_once_and_answered_the_same() -> None:
    async with client() as asking:
        ids = [each["id"] for each in await letters(asking, state="dead")]
        first_time = await ask(asking, f"{BOOKS}/letters/retry", key="1", ids=ids)
        assert first_time["decided"] == 4
        headers = {"idempotency-key": "1"}
        again = await asking.post(f"{BOOKS}/letters/retry", json={**WHY, "ids": ids}, headers=headers)
        assert (again.json(), again.headers["idempotency-replayed"]) == (first_time, "true")
        assert len([each for each in await rows() if each.action == "dead-letters retry"]) == 4
        other = await ask(asking, f"{BOOKS}/letters/retry", 422, key="1", ids=ids[:1])
        assert other["type"] == "urn:ensue:problem:idempotency-mismatch"
        async with client(user="bob") as bob:  # whose key is his own
            assert (await ask(bob, f"{BOOKS}/letters/retry", key="1", ids=ids))["decided"] == 0


@pytest.mark.usefixtures("desk")
async def test_what_is_refused_may_be_asked_for_again_with_the_same_key() -> None:
    async with client() as asking:
        await ask(asking, f"{BOOKS}/partitions/desk/0/resume", 409, key="1")
        await ask(asking, f"{BOOKS}/partitions/desk/0/pause")
        await ask(asking, f"{BOOKS}/partitions/desk/0/resume", key="1")


async def fail(access: Opened, error: BaseException, *, fingerprint: str = "f", started: bool = False) -> None:
    """Do something under a key, and end by this error."""
    async with done_once(access, "key", fingerprint) as repeated:
        repeated.started = started
        raise error


@pytest.mark.usefixtures("desk")
async def test_a_key_whose_request_never_ended_decides_nothing_a_second_time() -> None:
    async with opened(books) as access:
        with pytest.raises(asyncio.CancelledError):
            await fail(access, asyncio.CancelledError())  # its process ends
        with pytest.raises(IdempotencyConflict, match="ended before it could answer"):
            await fail(access, AssertionError("it is done again"))
        with pytest.raises(IdempotencyMismatch):
            await fail(access, AssertionError("it is done again"), fingerprint="g")


@pytest.mark.usefixtures("desk")
async def test_once_something_is_done_a_failure_does_not_free_the_key() -> None:
    async with opened(books) as access:
        for started in (False, True):
            with pytest.raises(StoreUnavailable):
                await fail(access, StoreUnavailable("it went down"), started=started)
        with pytest.raises(IdempotencyConflict):
            await fail(access, AssertionError("it is done again"))


@pytest.mark.usefixtures("desk")
async def test_a_key_that_cannot_be_kept_is_refused() -> None:
    async with client() as asking:
        for headers in ([("idempotency-key", "x" * 256)], [("idempotency-key", "1"), ("idempotency-key", "2")]):
            answer = await asking.post(f"{BOOKS}/letters/purge", json={**WHY, "older_s": 0}, headers=headers)
            assert (answer.status_code, answer.json()["header"]) == (400, "Idempotency-Key")


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("path", "of", "body"),
    [
        (f"{SHOP}/events", "publishing.publish", {"type": "DeskSold", "data": {"customer": "kim"}}),
        (f"{BOOKS}/replay", "replay.replay", {"type": "desk.DeskSold.v1"}),
    ],
)
async def test_what_may_have_been_published_or_replayed_is_not_done_again_under_its_key(
    path: str, of: str, body: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(*arguments: Any) -> None:
        raise StoreUnavailable("the connection ended, perhaps after the commit")

    async with client() as asking:
        with monkeypatch.context() as patch:
            patch.setattr(f"ensue.operations.{of}", lose)
            await ask(asking, path, 503, key="1", **body)
        assert "look at the decisions" in (await ask(asking, path, 409, key="1", **body))["detail"]


# ------------------------------------------------------------------------------------------- what has to be said


@pytest.mark.usefixtures("desk")
async def test_counts_that_were_not_seen_are_refused() -> None:
    async with client() as asking:
        refused = await ask(asking, f"{BOOKS}/gaps/desk/0/accept", 409, source="gone/1", positions=4, through=7)
        assert "5 positions of gone/1 are lost, and 4 were confirmed" in refused["detail"]
        others = await ask(asking, f"{BOOKS}/gaps/desk/0/accept", 409, source="gone/1", positions=5, through=8)
        assert "are lost through 7, and through 8 when it was looked at" in others["detail"]
        still = await ask(asking, f"{BOOKS}/gaps/desk/0/accept", 409, source="open/1", positions=5, through=7)
        assert "is open" in still["detail"]
        await ask(asking, f"{BOOKS}/gaps/desk/0/accept", 404, source="nobody/1", positions=5, through=7)
        group = await group_name(asking)
        [seen] = [each["seen"] for each in (await asking.get(f"{BOOKS}/groups")).json()["groups"]]
        fewer = await ask(asking, f"{BOOKS}/groups/{group}/discard", 409, dead=3, seen=seen)
        assert "4 dead letters" in fewer["detail"]
        others = await ask(asking, f"{BOOKS}/groups/{group}/discard", 409, dead=4, seen="0" * 16)
        assert "others than when it was looked at" in others["detail"]
        assert (await ask(asking, f"{BOOKS}/groups/{group}/discard", dead=4, seen=seen))["decided"] == 4
        assert await letters(asking, state="dead") == []
        await ask(asking, f"{BOOKS}/groups/{group}/discard", 404, dead=4, seen=seen)


@pytest.mark.usefixtures("desk")
async def test_nothing_is_decided_on_what_nobody_says_to_have_seen() -> None:
    async with client() as asking:
        path, group = await letter_path(asking, "zoe"), await group_name(asking)
        data, views = {"customer": "zoe", "amount": 4}, f"{SEEN}/view"
        for decision, body in (
            (f"{path}/edit", {"data": data}),
            (f"{BOOKS}/groups/{group}/discard", {"dead": 4}),
            (f"{BOOKS}/gaps/desk/0/accept", {"source": "gone/1", "positions": 5}),
            (f"{BOOKS}/sagas/ship/one/skip", {"result": 7}),
            (f"{views}/rollback", {}),
        ):
            missing = await ask(asking, decision, 422, **body)
            assert missing["errors"][0]["type"] == "missing", missing
        # What somebody else has written since is not written over, and a saga that has gone on not skipped elsewhere.
        seen, at = (await asking.get(path)).json()["seen"], await revision(asking, "one")
        await ask(asking, f"{path}/edit", data=data, seen=seen)
        late = await ask(asking, f"{path}/edit", 422, data={"customer": "zoe", "amount": 5}, seen=seen)
        assert "somebody has edited it since it was looked at" in late["detail"]
        gone_on = await ask(asking, f"{BOOKS}/sagas/ship/one/skip", 409, result=7, revision=at + 1)
        assert "ship:one" in gone_on["detail"]
    async with client(desk_api(payloads={"reader": "full"})) as asking:
        assert (await asking.get(path)).json()["seen"]
    async with client(desk_api(payloads={"reader": "masked", "operator": "limited"})) as asking:
        assert (await asking.get(path)).json()["seen"] is None, "short data could be found out by it"


@pytest.mark.usefixtures("desk")
async def test_a_view_s_decision_with_its_key_is_taken_once_and_answered_the_same() -> None:
    async with client() as asking:
        path = f"{SEEN}/view/rebuild"
        row = await ask(asking, path, key="1", rate=5)
        again = await asking.post(path, json={**WHY, "rate": 5}, headers={"idempotency-key": "1"})
        assert (again.json(), again.headers["idempotency-replayed"]) == (row, "true")
        assert [each.action for each in await rows(second)] == ["views rebuild"]
        assert (await ask(asking, path, 422, key="1", rate=6))["type"] == "urn:ensue:problem:idempotency-mismatch"


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": " \n"}, {"reason": "x" * 1001}, {**WHY, "because": 1}])
async def test_nothing_is_decided_without_a_reason(body: dict[str, Any]) -> None:
    async with client() as asking:
        answer = await asking.post(await letter_path(asking, "bob") + "/retry", json=body)
        assert answer.status_code == 422
        assert answer.json()["errors"]
        assert len(await letters(asking, state="dead")) == 4


@pytest.mark.usefixtures("desk")
async def test_an_edit_keeps_every_digit_and_what_it_had_and_refuses_what_does_not_fit() -> None:
    async with client() as asking:
        path = await letter_path(asking, "zoe")
        seen = (await asking.get(path)).json()["seen"]
        for data, said in (
            ({"customer": "zoe", "amount": "four"}, "amount"),
            ({"customer": "zoe", "colour": 1}, "has no field colour"),
            ({"customer": "kim"}, "has the key zoe"),
        ):
            assert said in (await ask(asking, f"{path}/edit", 422, data=data, seen=seen))["detail"]
        exact = b'{"customer": "zoe", "amount": 1.10000000000000000001}'
        body = b'{"reason": "a slip", "seen": "' + seen.encode() + b'", "data": ' + exact + b"}"
        answer = await asking.post(f"{path}/edit", content=body, headers={"content-type": "application/json"})
        assert answer.json()["state"] == "released"
        assert base64.b64decode((await asking.get(path)).json()["raw"]) == exact
        [decision] = (await asking.get(f"{BOOKS}/decisions", params={"last": True, "limit": 1})).json()["decisions"]
        assert json.loads(decision["before"]["data"])["note"] == "secret"
        async with client(desk_api(payloads=Payloads.MASKED)) as masked:
            shown = (await masked.get(f"{BOOKS}/decisions")).text
            assert "secret" not in shown
            assert "acme" not in shown
        seen = (await asking.get(path)).json()["seen"]
        late = await ask(asking, f"{path}/edit", 409, data={"customer": "zoe"}, seen=seen)
        assert "is released" in late["detail"]


@pytest.mark.usefixtures("desk")
async def test_a_saga_s_operation_is_skipped_with_what_fits_it() -> None:
    async with client() as asking:
        skip, at = f"{BOOKS}/sagas/ship/one/skip", await revision(asking, "one")
        assert "does not come to" in (await ask(asking, skip, 409, result="x", revision=at))["detail"]
        both = await ask(asking, skip, 422, result=1, failure={"name": "NoBox"}, revision=at)
        assert "one of them" in both["detail"]
        await ask(asking, skip, 422, failure={"name": "NoBox"}, revision=at)
        await ask(asking, f"{BOOKS}/sagas/retry", 404, sagas=["ship:two", "ship:none"])
        assert (await ask(asking, f"{BOOKS}/sagas/retry", sagas=["ship:two", "ship:a/b"]))["sagas"] == [
            "ship:two",
            "ship:a/b",
        ]


# ------------------------------------------------------------------------------------------------ a group, in waves


async def lines(asking: Ask, group: str, key: str = "") -> list[dict[str, Any]]:
    headers = {"idempotency-key": key} if key else {}
    async with asking.stream("POST", f"{BOOKS}/groups/{group}/retry", json=WHY, headers=headers) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson", await answer.aread()
        return [json.loads(each) async for each in answer.aiter_lines()]


def admin_at_first(request: Any) -> Actor:
    """Who loses the role as soon as the request is let in."""
    again = "asked_before" in request.scope
    request.scope["asked_before"] = True
    return Actor("ann", ["reader"] if again else ["admin"])


async def test_a_group_is_tried_again_in_waves_line_by_line_and_stops_at_the_first_that_fails(desk: Path) -> None:
    async with client() as asking:
        group = await group_name(asking)
        nobody = await ask(asking, f"{BOOKS}/groups/{group}/retry", 409)
        assert "no worker of desk_books lives" in nobody["detail"]
        await ask(asking, f"{BOOKS}/groups/0a/retry", 404)
        async with books.running() as runtime:
            await runtime.ready()
            broken = await lines(asking, group, key="broken")
            assert (broken[-1]["end"], broken[-1]["left"]) == ("failed again", 3)
            assert await lines(asking, group, key="broken") == broken[-1:]
            (desk / "broken").unlink()
            async with client(desk_api(authorize=admin_at_first)) as demoted:
                stopped = (await lines(demoted, group))[-1]
            assert (stopped["end"], stopped["left"]) == ("not allowed any more", 3)
            assert "needs operator" in stopped["why"]
            found = await lines(asking, group, key="repaired")
            assert [(each["wave"], each["end"]) for each in found if each["end"]] == [
                (1, "took effect"),
                (2, "took effect"),
            ]
            assert found[-1]["left"] == 0
            assert await lines(asking, group, key="repaired") == found[-1:]  # though the group is gone
        assert await letters(asking) == []


@pytest.mark.usefixtures("desk")
async def test_a_group_is_discarded_no_further_when_the_right_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensue.operations.group_decisions._PORTION", 2)
    async with client() as asking, client(desk_api(authorize=admin_at_first)) as demoted:
        [group] = (await asking.get(f"{BOOKS}/groups")).json()["groups"]
        path = f"{BOOKS}/groups/{group['name']}/discard"
        stopped = await ask(demoted, path, 409, dead=4, seen=group["seen"])
        assert "no letter is discarded after 2, which stay so: ann has reader" in stopped["detail"]
        assert len(await letters(asking, state="dead")) == 2


async def test_who_closes_the_connection_has_no_further_letter_released(desk: Path) -> None:
    (desk / "broken").unlink()
    async with client() as asking:
        group = await group_name(asking)
        sent: list[bytes] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": json.dumps(WHY, separators=(",", ":")).encode()}

        async def send(message: Any) -> None:
            if sent:
                raise OSError("the client is gone")
            if message["type"] == "http.response.body":
                sent.append(message["body"])

        raw = [(b"x-user", b"ann"), (b"content-type", b"application/json"), (b"idempotency-key", b"1")]
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1", "method": "POST",
            "path": f"{BOOKS}/groups/{group}/retry", "raw_path": b"", "query_string": b"", "headers": raw,
            "server": ("desk", 80), "client": ("desk", 1), "scheme": "http", "root_path": "",
        }  # fmt: skip
        async with books.running() as runtime:
            await runtime.ready()
            with pytest.raises(ClientDisconnect):
                await desk_api()(scope, receive, send)
        [line] = sent
        assert (json.loads(line)["released"], json.loads(line)["left"]) == (1, 3)
        assert len(await letters(asking, state="dead")) == 3
        # How far it came is not known to its key: nothing is released a second time under it.
        await ask(asking, f"{BOOKS}/groups/{group}/retry", 409, key="1")


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
async def test_a_retry_whose_client_is_gone_closes_the_database(
    desk: Path, monkeypatch: pytest.MonkeyPatch, spec_version: str
) -> None:
    """Servers of 2.3 have Starlette cancel all that an answer awaits, closing too."""
    (desk / "broken").unlink()
    kind = type(books.make_store())
    close, closed = kind.close, list[int]()

    async def closes(store: Any) -> None:
        await asyncio.sleep(0)  # as one over the network does
        await close(store)
        closed.append(1)

    async with client() as asking:
        group = await group_name(asking)
        first = asyncio.Event()
        begun = iter([{"type": "http.request", "body": json.dumps(WHY).encode()}])

        async def receive() -> dict[str, Any]:
            if (message := next(begun, None)) is None:
                await first.wait()
                return {"type": "http.disconnect"}
            return message

        async def send(message: Any) -> None:
            if first.is_set():
                if spec_version == "2.4":
                    raise OSError("the client is gone")
                await asyncio.Event().wait()
            if message.get("body"):
                first.set()

        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": spec_version}, "http_version": "1.1",
            "method": "POST", "path": f"{BOOKS}/groups/{group}/retry", "raw_path": b"", "query_string": b"",
            "headers": [(b"x-user", b"ann"), (b"content-type", b"application/json")],
            "server": ("desk", 80), "client": ("desk", 1), "scheme": "http", "root_path": "",
        }  # fmt: skip
        async with books.running() as runtime:
            await runtime.ready()
            monkeypatch.setattr(kind, "close", closes)
            try:
                await desk_api()(scope, receive, send)
            except ClientDisconnect:
                assert spec_version == "2.4"

            async def over() -> bool:
                return closed == [1]

            await until(over, "the database is closed")
