"""A command has one effect and one answer, or no effect and one answer, wherever a process is killed."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select
from tests.faults.commands_child import ACCOUNT, ASKED, REFUSED_EVERY, run

from ensue.adapters import make_store
from ensue.codec import decode_envelope
from ensue.message import REPLY
from ensue.reply import read_reply
from ensue.tables import REPLIES

#: At which pass of each point the answering service dies, from the command's reading to its answer's commit; and the
#: asking one, from the answer's reading until it is kept.
DEATHS = {
    "consumer.read": ("teller:1", "teller:3", "asker:2"),
    "consumer.begun": ("teller:1", "teller:4", "asker:1"),
    "consumer.handled": ("teller:1", "teller:3", "asker:2"),
    "consumer.outbox_written": ("teller:1", "teller:2"),
    "consumer.checkpoint_written": ("teller:1", "teller:3", "asker:2"),
    "consumer.committed": ("teller:1", "teller:4", "asker:2"),
    "command.declined": ("teller:1", "teller:3"),
    "letter.aside": ("teller:1", "teller:2"),
    "letter.handled": ("teller:1", "teller:2"),
    "letter.committed": ("teller:1", "teller:2"),
    "relay.appended": ("teller:1", "teller:3", "asker:2"),
    "step.outbox_written": ("asker:7",),
}
TOTAL = 30


async def _broken(url: str, directory: Path) -> list[str]:
    teller, asker = make_store(url, "teller"), make_store(f"sqlite:///{directory}/asker.db", "asker")
    await teller.open()
    await asker.open()
    try:
        async with asker.reading() as session:
            asked = {command: number for number, command in await session.execute(select(ASKED))}
        async with teller.reading() as session:
            done = Counter(
                int(each) for text in await session.scalars(select(ACCOUNT.c.done)) for each in text.split(",") if each
            )
        sent = [(decode_envelope(each.envelope), each) for each in await teller.outbox_after(0, 1000)]
        kept = [read_reply(row[1]) for row in await asker.rows().get(REPLIES, list(asked))]
    finally:
        await asker.close()
        await teller.close()
    refused = {number for number in asked.values() if number % REFUSED_EVERY == 0}
    broken = []
    if done != Counter(set(asked.values()) - refused):
        broken.append(f"took effect: {done}")
    if Counter(each.causation_id for each, _ in sent if each.type == REPLY) != Counter(list(asked)):
        broken.append("the answers that were given are not one for each command")
    if {asked[each.command]: each.failure for each in kept} != {
        number: "Refused" if number in refused else "" for number in asked.values()
    }:
        broken.append(f"the answers that were kept: {kept}")
    return broken


@pytest.mark.slow
@pytest.mark.parametrize("where", [f"{point}-{death}" for point, deaths in DEATHS.items() for death in deaths])
def test_killed_at_any_point_each_command_has_one_effect_and_one_answer(where: str, tmp_path: Path) -> None:
    point, _, death = where.partition("-")
    service, _, times = death.partition(":")
    url = f"sqlite:///{tmp_path}/teller.db"
    assert run(url, tmp_path, TOTAL, f"{service}:{point}:{times}") == -signal.SIGKILL, f"{where} was not passed"
    assert run(url, tmp_path, TOTAL) == 0
    assert asyncio.run(_broken(url, tmp_path)) == []
