"""Nobody reads their own past: real processes, real servers, many clients at once.

Three processes: the writer, the reader that works, and one of the reader's that only answers. Each client writes, and
reads from one of the two readers with the token that it got.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

import httpx
import pytest
from tests.tokens.wall import WAIT_S, process

#: By the stores. The test server of the MongoDB protocol does one command at a time: some ten a second when it is busy.
CLIENTS = {"mariadb-mongodb": 50}
MANY = 1_000
LIMIT_S = 100.0

#: The writer's and the reader's.
STORES = ("sqlite-sqlite", "postgres-redis", "mariadb-mariadb", "mariadb-mongodb")


@pytest.fixture
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    writer, _, reader = request.param.partition("-")
    found = {"ENSUE_HOME": str(tmp_path), "ENSUE_PARTITIONS": "4"}
    for service, store in (("BOARDS", writer), ("WALL", reader)):
        name = f"tokens_{service.lower()}_{secrets.token_hex(4)}"
        if store == "postgres":
            server = request.getfixturevalue("postgres_server")
            server.psql("postgres", f"CREATE DATABASE {name}")
            found[f"ENSUE_{service}_DATABASE"] = server.url(name)
        elif store == "mariadb":
            server = request.getfixturevalue("mariadb_server")
            server.sql(f"CREATE DATABASE {name}")
            found[f"ENSUE_{service}_DATABASE"] = server.url(name)
        elif store == "mongodb":
            found[f"ENSUE_{service}_DATABASE"] = request.getfixturevalue("mongodb_server").url(name)
        elif store == "redis":
            found[f"ENSUE_{service}_DATABASE"] = request.getfixturevalue("redis_server").url(41)
    return found


@pytest.fixture(autouse=True)
async def empty(request: pytest.FixtureRequest) -> None:
    if "redis" in request.node.name:
        import redis.asyncio as driver

        async with driver.Redis.from_url(request.getfixturevalue("redis_server").url(41)) as client:
            await client.flushdb()


def asking() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=LIMIT_S, verify=False)


async def insists(ask: Callable[[], Awaitable[httpx.Response]]) -> httpx.Response:
    """Ask again where there were too many at once, as the answer says."""
    while (answer := await ask()).status_code == 503:  # noqa: ASYNC110  # the server says when
        await asyncio.sleep(float(answer.headers["Retry-After"]))
    return answer


async def pinned(client: httpx.AsyncClient, boards: str, board: str, number: int) -> dict[str, str]:
    written = await insists(lambda: client.put(f"{boards}/boards/{board}", params={"number": number}))
    assert written.status_code == 200, written.text
    return {"Ensue-Token": written.headers["Ensue-Token"]}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("settings", STORES, indirect=True)
async def test_a_thousand_clients_never_read_their_own_past(
    settings: dict[str, str], request: pytest.FixtureRequest
) -> None:
    count = CLIENTS.get(request.node.callspec.params["settings"], MANY)
    with ExitStack() as stack:
        boards, wall, window = (
            stack.enter_context(process(name, settings))[0] for name in ("boards", "wall", "window")
        )
        past: list[tuple[str, str]] = []
        async with AsyncExitStack() as clients:

            async def writes_and_reads(client: httpx.AsyncClient, board: str, reader: str) -> None:
                token = await pinned(client, boards, board, 1)
                answer = await insists(lambda: client.get(f"{reader}/boards/{board}", headers=token))
                if answer.text != "1":
                    past.append((board, answer.text))

            readers = itertools.cycle((wall, window))
            async with asyncio.TaskGroup() as group:
                for each in range(count):
                    if each % 50 == 0:  # httpx looks through all requests and connections of a client, for each
                        client = await clients.enter_async_context(asking())
                    group.create_task(writes_and_reads(client, str(each), next(readers)))
        assert not past, past[:3]


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("settings", STORES, indirect=True)
async def test_while_the_reader_stands_still_the_answer_is_an_honest_504_and_a_letter_s_is_a_409(
    settings: dict[str, str],
) -> None:
    with ExitStack() as stack:
        boards, _ = stack.enter_context(process("boards", settings))
        wall, working = stack.enter_context(process("wall", settings))
        window, _ = stack.enter_context(process("window", settings, wait_s=0.3))
        async with asking() as client:
            first = await pinned(client, boards, "a", 1)
            assert (await client.get(f"{wall}/boards/a", headers=first)).text == "1"  # which waits for WAIT_S
            working.send_signal(signal.SIGSTOP)
            token = await pinned(client, boards, "a", 2)
            late = await client.get(f"{window}/boards/a", headers=token)
            assert (late.status_code, late.json()["type"]) == (504, "urn:ensue:problem:not-caught-up")
            [behind] = late.json()["behind"]
            assert (behind["topic"], behind["lag"]) == ("wall-pins", behind["wanted"] - behind["reached"])
            assert behind["lag"] > 0
            assert (await client.get(f"{window}/boards/a", headers=first)).text == "1"  # that much it has seen
            working.send_signal(signal.SIGCONT)
            assert (await client.get(f"{wall}/boards/a", headers=token)).text == "2"
            refused = await pinned(client, boards, "a", -1)
            held = await client.get(f"{wall}/boards/a", headers=refused)
            assert (held.status_code, held.json()["type"]) == (409, "urn:ensue:problem:held-back"), held.text
            assert held.json()["letter"].startswith("wall-pins/")
            again = await client.get(f"{window}/boards/a", headers=refused)
            assert again.json() == held.json()
    assert WAIT_S < LIMIT_S
