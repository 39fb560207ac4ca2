"""What is looked at over HTTP: pages, hostile data, data that is hidden, and services whose database is down."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from tests.unit.console.desk import books, books_of, client, desk_api, shop, who
from tests.views.ledger import until

import ensue.console
from ensue import Service
from ensue.console import Payloads
from ensue.message import DeadLetter, DeadLetterState, Envelope, Partition
from ensue.operations.flow.gather import gather

BOOKS, SHOP = "/services/desk_books", "/services/desk_shop"
#: What a stranger may send as anything.
HOSTILE = "<script>alert(1)</script>\0\u202e'\";DROP\r\n\x1b[2J\u2028"


async def get(asking: httpx.AsyncClient, path: str, expect: int = 200, **query: Any) -> Any:
    answer = await asking.get(path, params=query)
    assert answer.status_code == expect, answer.text
    if expect < 400:
        assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def all_pages(asking: httpx.AsyncClient, path: str, what: str, limit: int, **query: Any) -> list[Any]:
    """Follow `next` to the end."""
    found: list[Any] = []
    following: dict[str, Any] = {}
    while True:
        page = await get(asking, path, limit=limit, **query, **following)
        assert len(page[what]) <= limit
        found += page[what]
        if page["next"] is None:
            return found
        following = {"after": page["next"]}


def set_aside(number: int, *, key: str = "key", data: bytes = b'{"customer": "key"}', at: float = 0.0) -> DeadLetter:
    envelope = msgspec.json.encode(Envelope(f"id-{number}", "desk.DeskSold.v1", extensions={"note": "x"}))
    return DeadLetter(
        Partition(books.name, "desk", 0), offset=number, source="desk_shop/1", position=number + 100, previous=0,
        key=key, envelope=envelope, data=data, state=DeadLetterState.DEAD, attempts=1, error_type="KeyError",
        error="handler enter: 'x'\n  File \"/app/x.py\", line 1, in enter\n    x[0]\n" + "more\n" * 20, parked_at=at,
    )  # fmt: skip


async def put(*letters: DeadLetter) -> None:
    async with books_of(books) as (store, found), store.transaction() as transaction:
        checkpoint = await found.checkpoint(letters[0].partition)
        await found.add_letters(transaction, checkpoint, list(letters))
        await found.save_checkpoint(transaction, letters[0].partition, checkpoint)


@pytest.mark.usefixtures("desk")
async def test_every_list_goes_on_behind_the_last_one_of_its_page() -> None:
    # Of one moment, the tenth comes behind the ninth, though not by its name; and two states are one list.
    await put(*(set_aside(number, at=5.0) for number in range(12)))
    async with client() as asking:
        answer = await asking.post(f"{BOOKS}/sagas/ship/two/cancel", json={"reason": "so that there are two states"})
        assert answer.status_code == 200

        async def undone() -> bool:
            return len((await get(asking, f"{BOOKS}/sagas", status="UNDONE"))["sagas"]) == 1

        async with books.running():
            await until(undone, "the saga that is undone")
        lists: tuple[tuple[str, str, dict[str, Any]], ...] = (
            (f"{BOOKS}/letters", "letters", {}),
            (f"{BOOKS}/letters", "letters", {"state": ["dead", "waiting"]}),
            (f"{BOOKS}/sagas", "sagas", {"status": ["UNDONE", "PARKED"]}),
            (f"{SHOP}/timers", "timers", {}),
            (f"{SHOP}/outbox", "records", {}),
        )
        for path, what, query in lists:
            whole = (await get(asking, path, limit=1000, **query))[what]
            assert len(whole) >= 3
            for limit in (1, 2, len(whole)):
                assert await all_pages(asking, path, what, limit, **query) == whole
        numbers = [each["number"] for each in await all_pages(asking, f"{BOOKS}/letters", "letters", 5)]
        assert numbers[:12] == sorted(numbers[:12])


@pytest.mark.usefixtures("desk")
async def test_decisions_are_paged_and_the_last_ones_are_found() -> None:
    async with client() as asking:
        for action in ("pause", "resume", "pause", "resume", "pause"):
            answer = await asking.post(f"{BOOKS}/partitions/desk/0/{action}", json={"reason": action})
            assert answer.status_code == 200
        whole = await all_pages(asking, f"{BOOKS}/decisions", "decisions", 2)
        assert [each["reason"] for each in whole] == ["pause", "resume", "pause", "resume", "pause"]
        last = await get(asking, f"{BOOKS}/decisions", last=True, limit=2)
        assert (last["decisions"], last["total"]) == (whole[-2:], None)
        earlier = await get(asking, f"{BOOKS}/decisions", before=last["previous"], limit=2)
        assert earlier["decisions"] == whole[1:3]
        first = await get(asking, f"{BOOKS}/decisions", before=earlier["previous"], limit=2)
        assert (first["decisions"], first["previous"]) == (whole[:1], None)
        for query in ({"last": True}, {}):
            exact = await get(asking, f"{BOOKS}/decisions", limit=5, **query)
            assert (exact["decisions"], exact["total"]) == (whole, 5)
            assert (exact["previous"], exact["next"]) == (None, None)
        refused = await get(asking, f"{BOOKS}/decisions", 422, after=last["previous"], last=True)
        assert "neither last nor before" in refused["detail"]


@pytest.mark.usefixtures("desk")
async def test_a_page_goes_on_where_what_it_begins_behind_is_gone() -> None:
    async with client() as asking:
        page = await get(asking, f"{BOOKS}/letters", limit=2)
        for each in page["letters"]:
            await asking.post(f"{BOOKS}/letters/discard", json={"reason": "gone", "ids": [each["id"]]})
        following = await get(asking, f"{BOOKS}/letters", after=page["next"])
        assert len(following["letters"]) == 3
        page = await get(asking, f"{SHOP}/timers", limit=1)
        await asking.post(f"{SHOP}/timers/cancel", json={"reason": "gone", "ids": [page["timers"][0]["id"]]})
        assert len((await get(asking, f"{SHOP}/timers", after=page["next"]))["timers"]) == 2


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    "cursor", ["", "x", "1.5", "nan~desk/0:1", "1~desk:1", "1~desk/0:x", "1~a\0/0:1", f"1~a/0:{2**64}"]
)
async def test_what_is_no_cursor_is_refused(cursor: str) -> None:
    async with client() as asking:
        found = await get(asking, f"{BOOKS}/letters", 422, after=cursor)
        assert "is no cursor" in found["detail"]
    async with client() as asking:
        for path in (f"{SHOP}/timers", f"{BOOKS}/sagas"):
            assert "is no cursor" in (await get(asking, path, 422, after=cursor))["detail"]


@pytest.mark.usefixtures("desk")
async def test_ten_thousand_letters_are_listed_within_a_second() -> None:
    await put(*(set_aside(number, at=float(number)) for number in range(10_000)))
    async with client() as asking:
        await get(asking, f"{BOOKS}/letters", limit=1)
        # Processor time: a machine that runs tests has other things to do meanwhile.
        began = time.process_time()
        answer = await asking.get(f"{BOOKS}/letters", params={"limit": 10_000})
        assert time.process_time() - began < 1.0
        found = answer.json()
        assert len(found["letters"]) == 10_000
        assert found["next"] is not None
        group = max(await get_groups(asking), key=lambda each: each["dead"])
        assert group["dead"] == 10_000
        assert (await get(asking, f"{BOOKS}/letters", group=group["name"], limit=2))["letters"] == found["letters"][:2]


async def get_groups(asking: httpx.AsyncClient) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = (await get(asking, f"{BOOKS}/groups"))["groups"]
    return groups


@pytest.mark.usefixtures("desk")
async def test_hostile_data_comes_back_as_it_is() -> None:
    data = {"customer": HOSTILE, "note": "y" * 1_000_000}
    half = set_aside(92, key="half \ud800")
    strange = set_aside(93, key="bytes", data=b"\xff\x00not json")
    await put(set_aside(91, key=HOSTILE.replace("\0", ""), data=json.dumps(data).encode()), half, strange)
    async with client() as asking:
        listed = {each["offset"]: each for each in (await get(asking, f"{BOOKS}/letters"))["letters"]}
        shown = {
            number: await get(asking, f"{BOOKS}/letters/desk/0/{listed[number]['number']}") for number in (91, 92, 93)
        }  # fmt: skip
        assert listed[91]["key"] == HOSTILE.replace("\0", "")
        assert shown[91]["data"] == data
        assert shown[92]["key"] == "half \ud800"
        assert shown[93]["data"] == repr(b"\xff\x00not json")
        answer = await asking.post(f"{BOOKS}/letters/desk/0/{listed[91]['number']}/discard", json={"reason": HOSTILE})
        assert answer.status_code == 200
        [decision] = (await get(asking, f"{BOOKS}/decisions"))["decisions"]
        assert decision["reason"].startswith("<script>alert(1)</script>\\x00\\u202e")
        answer = await asking.get(f"{BOOKS}/letters")
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    async with client(desk_api(payloads=Payloads.LIMITED)) as asking:
        limited = await get(asking, f"{BOOKS}/letters/desk/0/{listed[91]['number']}")
        assert len(limited["data"]["note"]) < 200


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    "body", [b'{"reason": "x", "data": NaN}', b'{"reason": "x", "data": "\\ud800"}', b"[" * 50_000]
)
async def test_json_that_could_not_be_kept_is_refused(body: bytes) -> None:
    async with client() as asking:
        headers = {"content-type": "application/json"}
        answer = await asking.post(f"{BOOKS}/letters/desk/0/1/edit", content=body, headers=headers)
        assert answer.status_code in (400, 422)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.usefixtures("desk")
async def test_users_data_is_hidden_everywhere_unless_the_host_shows_it() -> None:
    paths = [f"{BOOKS}/letters/desk/0/1", f"{SHOP}/outbox", f"{SHOP}/timers", f"{BOOKS}/sagas/ship/one"]
    async with client() as asking:
        found = await get(asking, paths[0])
        flow = found["headers"].get("correlationid") or found["headers"]["id"]
    quoting = [paths[0], f"{BOOKS}/letters", f"{BOOKS}/groups", f"/flows/{flow}"]
    quoted = "negative amount -1"  # the value; its line of code is shown
    for mode in (Payloads.NONE, Payloads.MASKED):
        async with client(desk_api(payloads=mode)) as asking:
            for path in paths:
                found = await get(asking, path)
                assert found["payloads"] == mode.value
                assert "secret" not in json.dumps(found)
                assert "acme" not in json.dumps(found)
            for path in quoting:
                assert quoted not in (await asking.get(path)).text, path
            assert "handler enter: ***" in (await get(asking, paths[0]))["error"]
            for each in (*(await get(asking, f"{BOOKS}/sagas"))["sagas"], await get(asking, paths[3])):
                assert "***" in each["reason"].partition("\n")[0]
                assert "no box" not in each["reason"].partition("\n")[0]
    async with client(desk_api(payloads=Payloads.LIMITED)) as asking:
        for path in (*quoting[:1], quoting[3]):
            assert quoted in (await asking.get(path)).text, path
        assert "no box" in (await get(asking, paths[3]))["reason"].partition("\n")[0]
    async with client(desk_api(payloads=Payloads.FULL)) as asking:
        shown = await get(asking, paths[0])
        assert (shown["data"]["note"], shown["headers"]["tenant"]) == ("secret", "acme")
    by_role = desk_api(payloads={"reader": "masked", "operator": "limited", "admin": "full"})
    for role, name in (("reader", "masked"), ("operator", "limited"), ("admin", "full")):
        async with client(by_role, roles=role) as asking:
            assert (await get(asking, "/me"))["payloads"] == name
            shown = await get(asking, paths[0])
            assert (shown["payloads"], shown["raw"] is None) == (name, name != "full")
            assert ("secret" in json.dumps(shown)) == (name != "masked")
    default = ensue.console.api(books, authorize=who)
    async with client(default) as asking:
        assert (await get(asking, "/me"))["payloads"] == "masked"


async def test_a_service_whose_database_is_down_hides_nothing_of_the_others(desk: Path) -> None:
    (desk / "desk_shop.db").write_bytes(b"this is no database" * 100)
    lost = Service("desk_lost", database=f"sqlite:///{desk}/nowhere.db")
    away = Service("desk_away", database="postgresql://ann:hidden@127.0.0.1:1/away")
    async with client(ensue.console.api(shop, books, lost, away, authorize=who)) as asking:
        found = {each["service"]: each for each in (await get(asking, "/services"))["services"]}
        assert list(found) == ["desk_shop", "desk_books", "desk_lost", "desk_away"]
        assert found["desk_books"]["error"] == ""
        assert found["desk_books"]["dead_letters"] == {"dead": 4, "waiting": 1}
        assert found["desk_books"]["sagas"] == {"PARKED": 3}
        assert found["desk_books"]["gaps"] == {"lost": 1, "open": 1}
        for name in ("desk_shop", "desk_lost", "desk_away"):
            assert found[name]["error"]
            answer = await asking.get(f"/services/{name}/letters")
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
            assert "hidden" not in answer.text + json.dumps(found)
        assert "has no database at" in found["desk_lost"]["error"]
        assert (await get(asking, f"{BOOKS}/letters"))["total"] == 5
        flow = await get(asking, "/flows/unknown")
        assert set(flow["unanswered"]) >= {"desk_shop", "desk_lost", "desk_away"}


@pytest.mark.usefixtures("desk")
async def test_a_flow_is_followed_across_services() -> None:
    async with client() as asking:
        record = (await get(asking, f"{SHOP}/outbox"))["records"][0]
        flow = await get(asking, f"/flows/{record['headers']['correlationid']}")
        [event] = [each for each in flow["events"] if each["id"] == record["headers"]["id"]]
        states = {each["service"]: each["state"] for each in event["reactions"]}
        assert states["desk_books"] == "set aside"
        nothing = await get(asking, "/flows/unknown")
        assert nothing["events"] == []
        # Where something could not be looked at, nothing is not the same as not found.
        assert list(nothing["unanswered"]) == ["desk_seen@1", "desk_seen@2"]
    async with client(ensue.console.api(shop, books, authorize=who)) as asking:
        assert "no event of flow" in (await get(asking, "/flows/unknown", 404))["detail"]
    async with client() as asking:
        topology = await get(asking, "/topology")
        [sold] = [each for each in topology["events"] if each["type"] == "desk.DeskSold.v1"]
        assert (sold["publishers"], sold["subscribers"]["desk_books"]) == (["desk_shop"], ["enter"])
        assert [each["name"] for each in topology["sagas"]] == ["ship"]
        view = await get(asking, "/services/desk_seen@1/view")
        assert (view["active"], [each["version"] for each in view["versions"]]) == (1, [1])


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize("host", [FastAPI(), Starlette(routes=[Mount("/deep", app=Starlette())])])
async def test_it_works_under_a_prefix_of_another_application(host: Starlette) -> None:
    host.mount("/ops/ensue", desk_api())
    async with client(host) as asking:
        assert (await get(asking, f"/ops/ensue{BOOKS}/letters"))["total"] == 5
        answer = await asking.post(f"/ops/ensue{BOOKS}/partitions/desk/0/pause", json={"reason": "x"})
        assert answer.status_code == 200
        document = await get(asking, "/ops/ensue/openapi.json")
        assert (document["openapi"], document["servers"]) == ("3.1.0", [{"url": "/ops/ensue"}])
        answer = await asking.get("/ops/ensue/services/nobody")
        assert (answer.status_code, answer.json()["instance"]) == (404, "/ops/ensue/services/nobody")


@pytest.mark.usefixtures("desk")
async def test_a_page_ends_early_where_data_are_large_and_no_read_brings_more_than_memory_bears(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits: list[int] = []
    kind = type(shop.make_store())
    read = kind.outbox_after

    async def reads(store: Any, after: int, limit: int) -> Any:
        limits.append(limit)
        return await read(store, after, limit)

    monkeypatch.setattr(kind, "outbox_after", reads)
    async with client() as asking:
        whole = {path: await get(asking, path, limit=10_000) for path in (f"{SHOP}/outbox", f"{SHOP}/timers")}
        assert limits[0] <= 64  # before it is known how large they are
        monkeypatch.setattr("ensue.console.rest.steering.PAGE_BYTES_MAX", 1)
        for path, what in ((f"{SHOP}/outbox", "records"), (f"{SHOP}/timers", "timers")):
            page = await get(asking, path, limit=10_000)
            assert (len(page[what]), page["next"] is None) == (1, False)
            assert await all_pages(asking, path, what, 10_000) == whole[path][what]


@pytest.mark.usefixtures("desk")
async def test_large_letters_are_read_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    large = json.dumps({"customer": "key", "note": "y" * 600_000}).encode()
    await put(*(set_aside(number, data=large, at=float(number)) for number in range(40)))
    async with client() as asking, books_of(books) as (store, found):
        kind = type(store.rows())
        find, brought = kind.find, list[int]()

        async def finds(reader: Any, *arguments: Any, **options: Any) -> Any:
            rows = await find(reader, *arguments, **options)
            brought.append(sum(len(value) for row in rows for value in row if isinstance(value, bytes)))
            return rows

        monkeypatch.setattr(kind, "find", finds)
        assert max(await get_groups(asking), key=lambda each: each["dead"])["dead"] == 40
        assert max(brought) < 20_000_000 < sum(brought)
        ids = [each.id for each in await found.letters()]
        assert len(await found.letter_states(ids)) == len(ids) == 45


@pytest.mark.usefixtures("desk")
async def test_a_flow_is_cut_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever may look must not take the machine by it."""
    async with client() as asking:
        [letter] = (await get(asking, f"{BOOKS}/letters", limit=1))["letters"]
        path = f"/services/desk_books/letters/{letter['topic']}/{letter['partition']}/{letter['number']}"
        headers = (await get(asking, path))["headers"]
        flow = headers.get("correlationid") or headers["id"]
        whole = await get(asking, f"/flows/{flow}")
        assert not [each for each in whole["not_looked_at"] if "cut" in each]
        with monkeypatch.context() as patch:
            patch.setattr("ensue.console.services.FLOW_EVENTS_MAX", 2)
            few = await get(asking, f"/flows/{flow}")
        assert len(few["events"]) < len(whole["events"])
        assert "and 2 are shown" in few["not_looked_at"][-1]
        assert (await gather([shop, books], flow, 10_000)).cut == set()
        with monkeypatch.context() as patch:
            patch.setattr("ensue.console.services.FLOW_EVENTS_MAX", 8)
            some = await get(asking, f"/flows/{flow}")
        with monkeypatch.context() as patch:
            patch.setattr("ensue.console.services.FLOW_RECORDS_MAX", 3)
            cut = await get(asking, f"/flows/{flow}")
        # Each place has its share, so that a long one does not hide the others; and what is not known is not said.
        assert any("dead letters of desk_books behind the first" in each for each in cut["not_looked_at"])
        said = [reaction["state"] for event in cut["events"] for reaction in event["reactions"]]
        assert "done" not in said
        # Of either cut nobody says that something is not in the log, which is there behind the cut.
        last = await get(asking, f"/flows/{flow}", records=2)
        assert "topic desk: 3 older records in 1 partitions" in last["not_looked_at"]
        for each in (some, last):
            sent = [event["reason"] for event in each["events"] if event["place"] == "sent"]
            assert sent
            assert set(sent) == {"not all of desk/0 was looked at"}
        await get(asking, f"/flows/{flow}", 422, records=1_000_000)
