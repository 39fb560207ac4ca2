"""A process that is killed between any two lines leaves a row and its event, or neither; a handler has one effect."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from django.db import connections, transaction
from tests.django.desk.contracts import DjangoTicketClosed as Closed
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Comment, Ticket
from tests.sessions.desk import published

import ensue.integrations.django as package
from ensue import EngineConfig
from ensue.integrations.django import DjangoService
from ensue.integrations.django.publishing import publish

OURS = (os.path.dirname(package.__file__), __file__)
#: Not each line of what takes a new connection to a server, for want of time.
EVERY = {"sqlite": 1, "postgresql": 9}


class Dies:
    """A trace function by which this process is killed at a line of ours; it counts the lines till then."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        if event == "line":
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def in_child(work: Any, at: int) -> bool:
    """Run `work` in a fork that is killed at its line `at`; return whether it came to its end before that."""
    child = os.fork()
    if not child:
        status = 1
        try:
            work(Dies(at))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, how = os.waitpid(child, 0)
    if os.WIFSIGNALED(how):
        assert os.WTERMSIG(how) == signal.SIGKILL
        return False
    assert how == 0, "it failed before it was killed"
    return True


def place(desk: DjangoService, number: int, dies: Dies) -> None:
    sys.settrace(dies)
    _place(desk, number)
    sys.settrace(None)


def _place(desk: DjangoService, number: int) -> None:
    with transaction.atomic(using=desk.using):
        ticket = Ticket.objects.using(desk.using).create(id=number)
        with transaction.atomic(using=desk.using):
            publish(desk, [Opened(ticket_id=number)], None, None, None)
        ticket.text = "told"
        ticket.save(using=desk.using)


def test_a_row_and_its_event_are_there_or_neither(desk: DjangoService) -> None:
    connection: Any = connections[desk.using]
    connection.close()
    step, number, ended = EVERY[connection.vendor], 0, False
    whole: list[int] = []
    while not ended:
        number += 1
        ended = in_child(lambda dies, at=number: place(desk, at, dies), 1 + (number - 1) * step)
        if ended:
            whole.append(number)
    rows = dict(Ticket.objects.using(desk.using).values_list("id", "text"))
    events = [Opened.__ensue_event_type__.read(each.data).ticket_id for each in published(desk)]  # type: ignore[attr-defined]
    assert number * step > 30  # so many lines there are to die at
    assert sorted(rows) == sorted(events)
    assert set(rows.values()) == {"told"}
    assert set(whole) <= set(rows)


def declare(desk: DjangoService, dies: Dies, victim: int) -> None:
    def opened(event: Opened) -> None:
        sys.settrace(dies if event.ticket_id == victim else None)
        ticket, _ = Ticket.objects.using(desk.using).get_or_create(id=event.ticket_id)
        ticket.count += 1
        ticket.save(using=desk.using)
        with transaction.atomic(using=desk.using):
            Comment.objects.using(desk.using).create(ticket=ticket, text=f"of {event.ticket_id}")
            publish(desk, [Closed(ticket_id=event.ticket_id)], None, None, None)

    desk.on(opened)

    @desk.on
    def closed(event: Closed) -> None:
        sys.settrace(None)
        Ticket.objects.using(desk.using).filter(id=event.ticket_id).update(closed=True)


def run(desk: DjangoService, dies: Dies, victim: int, count: int) -> None:
    """Until so many messages have taken effect. victim: at which ticket it dies."""
    declare(desk, dies, victim)

    async def until_done() -> None:
        async with desk.running() as runtime, asyncio.timeout(15):
            while True:
                known = await runtime.context.books.checkpoints()
                if sum(each.counters.applied for each in known.values()) >= count:
                    return
                await asyncio.sleep(0.02)

    asyncio.run(until_done())


# What differs between databases is where the lines lead, and that is tested by itself.
@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_a_handler_whose_process_dies_takes_effect_once(alias: str, tmp_path: Path) -> None:
    desk = _desk(alias, tmp_path)
    lines = (1, 9, 30, 55, 80, 105)
    for number, at in enumerate(lines, 1):
        publish_at_once(desk, number)
        assert not in_child(lambda dies, victim=number: run(_again(desk), dies, victim, 2 * victim), at)
    assert in_child(lambda dies: run(_again(desk), dies, 0, 2 * len(lines)), 10**9)
    found = Ticket.objects.order_by("id").values_list("id", "count", "closed")
    assert list(found) == [(number, 1, True) for number in range(1, len(lines) + 1)]
    assert Comment.objects.count() == len(lines)
    assert len(published(desk)) == 2 * len(lines)


def _desk(alias: str, directory: Path) -> DjangoService:
    from ensue.integrations.django.operations import make_tables

    desk = DjangoService(
        "django-desk", using=alias, broker=f"sqlite:///{directory}/broker.db", partitions=1,
        engine=EngineConfig(lease_ttl_s=0.5),
    )  # fmt: skip
    with connections[alias].schema_editor() as editor:
        make_tables(editor, desk)
        editor.create_model(Ticket)
        editor.create_model(Comment)
    connections[alias].close()
    return desk


def _again(desk: DjangoService) -> DjangoService:
    """As another process declares it."""
    return DjangoService(
        desk.name, using=desk.using, broker=desk.settings().broker, partitions=1, engine=desk.settings().engine
    )


def publish_at_once(desk: DjangoService, number: int) -> None:
    with transaction.atomic(using=desk.using):
        publish(desk, [Opened(ticket_id=number)], None, None, None)
    connections[desk.using].close()
