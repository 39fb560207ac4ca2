"""Reads the promises off a ring's files, past Ensue's own code: plain SQL on outboxes, log and tables."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any


def query(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(path, timeout=10)) as connection:
        return connection.execute(statement).fetchall()


def broken_promises(directory: Path, *, log_was_deleted: bool = False) -> list[str]:
    """Return what is wrong with G1 to G4, empty when everything holds. Call it when all is quiet.

    log_was_deleted: then it need not hold all that was published, since nobody needs it any more.
    """
    broken: list[str] = []
    placed = query(directory / "alpha.db", "SELECT number, account, message_id FROM placed ORDER BY number")
    applied = query(directory / "beta.db", "SELECT account, applied FROM account")
    settled = query(directory / "alpha.db", "SELECT account, number FROM settled ORDER BY id")
    seen = query(directory / "gamma.db", "SELECT topic, account, number, message_id FROM seen ORDER BY id")
    aside = {name: set_aside(directory, name) for name in ("alpha", "beta", "gamma")}

    # G1: what was published is what was committed, in the outbox and in the log.
    alpha_outbox = outbox(directory, "alpha")
    if [(each["number"], each["account"], id_) for _, _, id_, each in alpha_outbox] != placed:
        broken.append("G1: alpha's outbox is not what alpha's steps have committed")
    beta_outbox = outbox(directory, "beta")
    by_account = numbers_by_account((each["account"], each["number"]) for _, _, _, each in beta_outbox)
    from_rows = {account: [int(each) for each in text.split(",")] for account, text in applied}
    if by_account != from_rows:
        broken.append(f"G1: beta published {by_account}, its entities say {from_rows}")
    for name in ("alpha", "beta", "gamma"):
        broken += _log_holds_outbox(directory, name, log_was_deleted)

    # G2, G3: each takes effect once in each subscription, or is set aside.
    numbers = [number for number, _, _ in placed]
    broken += _once("beta", "alpha", numbers, [each for every in from_rows.values() for each in every], aside["beta"])
    done = [each["number"] for _, _, _, each in beta_outbox]
    broken += _once("alpha", "beta", done, [number for _, number in settled], aside["alpha"])
    for topic, wanted in (("alpha", numbers), ("beta", done)):
        got = [number for each, _, number, _ in seen if each == topic]
        broken += _once("gamma", topic, wanted, got, aside["gamma"])

    reminded = [number for (number,) in query(directory / "alpha.db", "SELECT number FROM reminded")]
    seen_done = [number for topic, _, number, _ in seen if topic == "beta"]
    broken += _once("alpha", "gamma", seen_done, reminded, aside["alpha"])
    if waiting := query(directory / "gamma.db", "SELECT count(*) FROM ensue_timer")[0][0]:
        broken.append(f"G2: {waiting} of gamma's timers are still there")

    # G4: per key in commit order.
    order = numbers_by_account((account, number) for number, account, _ in placed)
    found = {
        "beta of alpha": (order, from_rows),
        "gamma of alpha": (order, numbers_by_account((a, n) for topic, a, n, _ in seen if topic == "alpha")),
        "gamma of beta": (by_account, numbers_by_account((a, n) for topic, a, n, _ in seen if topic == "beta")),
        "alpha of beta": (by_account, numbers_by_account(settled)),
    }
    for who, (wanted_order, got_order) in found.items():
        for account, got in got_order.items():
            if got != [number for number in wanted_order.get(account, []) if number in set(got)]:
                broken.append(f"G4: {who}, {account}: applied {got}, committed {wanted_order.get(account)}")
    return broken


def counts(directory: Path) -> dict[str, int]:
    """How far the ring is, for waiting: numbers placed, applied, seen and settled, and messages set aside."""
    applied = query(directory / "beta.db", "SELECT applied FROM account")
    return {
        "placed": query(directory / "alpha.db", "SELECT count(*) FROM placed")[0][0],
        "applied": sum(len(text.split(",")) for (text,) in applied),
        "seen of alpha": query(directory / "gamma.db", "SELECT count(*) FROM seen WHERE topic = 'alpha'")[0][0],
        "seen of beta": query(directory / "gamma.db", "SELECT count(*) FROM seen WHERE topic = 'beta'")[0][0],
        "settled": query(directory / "alpha.db", "SELECT count(*) FROM settled")[0][0],
        "reminded": query(directory / "alpha.db", "SELECT count(*) FROM reminded")[0][0],
    }


def outbox(directory: Path, service: str) -> list[tuple[int, int, str, Any]]:
    """(position, partition, message id, data) of everything published, in order."""
    rows = query(
        directory / f"{service}.db", "SELECT position, partition, envelope, data FROM ensue_outbox ORDER BY position"
    )
    return [
        (position, partition, json.loads(envelope)["id"], json.loads(data))
        for position, partition, envelope, data in rows
    ]


def set_aside(directory: Path, service: str) -> list[tuple[str, int]]:
    """(topic, number) of each dead letter that has not taken effect."""
    rows = query(
        directory / f"{service}.db",
        "SELECT place, data FROM ensue_dead_letter WHERE state <> 'discarded' ORDER BY parked_at, place, number",
    )
    return [(place.rpartition("/")[0], json.loads(data)["number"]) for place, data in rows]


def numbers_by_account(pairs: Iterable[tuple[str, int]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = defaultdict(list)
    for account, number in pairs:
        found[account].append(number)
    return dict(found)


def _log_holds_outbox(directory: Path, service: str, a_part: bool) -> list[str]:
    """Without repetitions and ticks the log must be the outbox, in each partition (G1 seen from the other side)."""
    rows = query(
        directory / "broker.db",
        f"SELECT partition, position, previous, envelope FROM records WHERE topic = '{service}' ORDER BY offset",
    )
    chain: dict[int, dict[int, str]] = defaultdict(dict)
    for partition, position, previous, envelope in rows:
        header = json.loads(envelope)
        if position != previous and not header["type"].startswith("ensue."):
            known = chain[partition].setdefault(position, header["id"])
            if known != header["id"]:
                return [f"G1: {service}/{partition} position {position} is {known} and {header['id']}"]
    wanted: dict[int, dict[int, str]] = defaultdict(dict)
    for position, partition, message_id, _ in outbox(directory, service):
        if not a_part or position in chain[partition]:
            wanted[partition][position] = message_id
    chain = {partition: each for partition, each in chain.items() if each}
    if chain != wanted:
        missing = {at: sorted(wanted[at].keys() - chain[at].keys()) for at in wanted}
        extra = {at: sorted(chain[at].keys() - wanted[at].keys()) for at in chain}
        return [f"G1: the log of {service} misses {missing} and has {extra} of which the outbox knows nothing"]
    return []


def _once(
    who: str, topic: str, published: list[int], took_effect: list[int], aside: list[tuple[str, int]]
) -> list[str]:
    found = Counter(took_effect)
    waiting = Counter(number for each, number in aside if each == topic)
    broken = []
    if twice := sorted(number for number, times in (found + waiting).items() if times > 1):
        broken.append(f"G3: in {who} more than once, from {topic}: {twice}")
    if lost := sorted(set(published) - found.keys() - waiting.keys()):
        broken.append(f"G2: never in {who}, from {topic}: {lost}")
    if invented := sorted((found.keys() | waiting.keys()) - set(published)):
        broken.append(f"G1: in {who}, but {topic} never published it: {invented}")
    return broken
