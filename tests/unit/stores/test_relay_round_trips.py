"""A relay reads its last record again, by which it knows its store: that costs no round trip."""

from __future__ import annotations

from servers import MariaDbServer, PostgresServer
from servers.proxy import TcpProxy

from ensue.adapters import make_store
from ensue.conformance.store_suite import record
from ensue.ports import Store


async def trips(url: str, port: int) -> tuple[int, int, int, int]:
    """Round trips of a look: nothing new, after the last record and from it on; the same with a new one."""
    async with TcpProxy(port) as proxy:
        store: Store = make_store(url.replace(f":{port}/", f":{proxy.port}/"), "relayed")
        await store.open()
        try:
            position = 0
            found: list[int] = []
            for fresh in (0, 1):
                for own in (0, 1):
                    counts: list[int] = []
                    for turn in range(-3, 10):  # the first ones prepare statements
                        if fresh or not position:
                            async with store.transaction() as transaction:
                                await transaction.outbox_add([record()])
                        before = [*proxy.round_trips]
                        records = await store.outbox_after(position - own if position else 0, 100)
                        seen = [*proxy.round_trips]
                        before += [0] * (len(seen) - len(before))
                        if turn >= 0:
                            assert len(records) == fresh + own
                            counts.append(max(late - early for late, early in zip(seen, before, strict=True)))
                        position = records[-1].position if records else position
                    found.append(min(counts))  # telling other processes of a commit may fall into one
        finally:
            await store.close()
    return found[0], found[1], found[2], found[3]


async def test_on_postgresql(postgres_server: PostgresServer) -> None:
    try:
        idle, idle_own, fresh, fresh_own = await trips(postgres_server.url("relayed"), postgres_server.port)
    finally:
        postgres_server.drop("relayed")
    assert (idle_own, fresh_own) == (idle, fresh)


async def test_on_mariadb(mariadb_server: MariaDbServer) -> None:
    try:
        idle, idle_own, fresh, fresh_own = await trips(mariadb_server.url("relayed"), mariadb_server.port)
    finally:
        mariadb_server.drop("relayed")
    assert (idle_own, fresh_own) == (idle, fresh)
