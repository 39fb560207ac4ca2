"""How often a step waits for its server: with events, however many, once more than without."""

from __future__ import annotations

import pytest
from benchmarks.publishing import MARIADB, POSTGRES, Way, round_trips
from servers import MariaDbServer, PostgresServer

SIZES = (0, 1, 2, 10, 100)


@pytest.mark.parametrize("way", POSTGRES, ids=lambda way: way.name)
async def test_a_step_on_postgresql_publishes_any_number_of_events_in_one_round_trip(
    way: Way, postgres_server: PostgresServer
) -> None:
    database = f"trips_{way.hand}"
    try:
        waits = await round_trips(way, postgres_server.url(database, way.scheme), postgres_server.port, SIZES)
    finally:
        postgres_server.drop(database)
    # BEGIN, INSERT of the order, COMMIT; and with events one INSERT of them all.
    assert waits == {0: 3, 1: 4, 2: 4, 10: 4, 100: 4}


async def test_a_step_on_mariadb_publishes_any_number_of_events_in_one_round_trip(
    mariadb_server: MariaDbServer,
) -> None:
    [way] = MARIADB
    try:
        waits = await round_trips(way, mariadb_server.url("trips", way.scheme), mariadb_server.port, SIZES)
    finally:
        mariadb_server.drop("trips")
    assert waits == {0: 3, 1: 4, 2: 4, 10: 4, 100: 4}


async def test_the_same_by_hand_takes_as_many(postgres_server: PostgresServer) -> None:
    way = POSTGRES[0]
    url = postgres_server.url("trips_hand", way.scheme)
    try:
        await round_trips(way, url, postgres_server.port, (0,))  # makes the tables
        assert await round_trips(way, url, postgres_server.port, (0, 1, 100), by_hand=True) == {0: 3, 1: 4, 100: 4}
    finally:
        postgres_server.drop("trips_hand")
