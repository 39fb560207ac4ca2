"""Sagas of a Django project: their local steps use the ORM, in the transaction in which the saga goes on."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from django.db import connections, transaction
from msgspec import Struct
from tests.django.desk.models import Comment, Ticket
from tests.django.test_killed_between_lines import _again, _desk, in_child

from ensue import Failure, Saga
from ensue.errors import UsageError
from ensue.integrations.django import DjangoService, start


class DjangoSeatTaken(Failure):
    ticket_id: int


class ReserveSeat(Struct):
    ticket_id: int


def declare(desk: DjangoService, dies_in: str = "") -> Any:
    """Reserve, confirm, and undo for odd ones. dies_in: in which step the process is killed, once it has written."""

    def note(ticket_id: int, what: str) -> None:
        Comment.objects.using(desk.using).create(ticket_id=ticket_id, text=f"{what} {ticket_id}")
        if what == dies_in:
            os.kill(os.getpid(), signal.SIGKILL)

    @desk.local
    def reserve(ticket_id: int) -> str:
        Ticket.objects.using(desk.using).create(id=ticket_id, text="reserved")
        note(ticket_id, "reserved")
        return f"seat {ticket_id}"

    @desk.local
    def release(ticket_id: int) -> None:
        Ticket.objects.using(desk.using).filter(id=ticket_id).update(text="released")
        note(ticket_id, "released")

    @desk.local
    def confirm(ticket_id: int, seat: str) -> None:
        ticket = Ticket.objects.using(desk.using).select_for_update().get(id=ticket_id)
        ticket.text = f"confirmed {seat}"
        ticket.save(using=desk.using)
        note(ticket_id, "confirmed")
        if ticket_id % 2:
            raise DjangoSeatTaken(ticket_id=ticket_id)

    @desk.local(id="ticket_id")
    def close(ticket: Ticket, ticket_id: int) -> None:
        ticket.closed = True

    @desk.saga
    async def take_seat(saga: Saga, wanted: ReserveSeat) -> str:
        seat: str = await saga.local(reserve, wanted.ticket_id, undo=release)
        await saga.local(confirm, wanted.ticket_id, seat, undo=None)
        saga.pivot()
        await saga.local(close, wanted.ticket_id)
        return seat

    return take_seat


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)  # that the ORM is in the step is shown on both elsewhere
def test_a_saga_that_is_killed_and_one_that_is_undone_have_one_effect(alias: str, tmp_path: Path) -> None:
    desk = _desk(alias, tmp_path)
    take_seat = declare(desk)
    with pytest.raises(UsageError, match=r"start\(take_seat\) outside of a transaction"):
        start(take_seat, ReserveSeat(1), id=1)
    with transaction.atomic():
        for each in (1, 2):
            start(take_seat, ReserveSeat(each), id=each)
        block = transaction.atomic()
        block.__enter__()
        start(take_seat, ReserveSeat(4), id=4)
        block.__exit__(ZeroDivisionError, None, None)  # it goes with its savepoint
    connections[alias].close()

    for dies_in in ("confirmed", "released"):
        assert not in_child(lambda _, dies_in=dies_in: asyncio.run(_ends(_again(desk), dies_in)), 10**9)
    ends = asyncio.run(_ends(_again(desk)))
    assert [(each.status, each.result, str(each.failure)) for each in ends] == [
        ("UNDONE", None, "DjangoSeatTaken(ticket_id=1)"), ("COMPLETED", "seat 2", "None"),
    ]  # fmt: skip
    found = Ticket.objects.order_by("id").values_list("id", "text", "closed")
    assert list(found) == [(1, "released", False), (2, "confirmed seat 2", True)]
    assert sorted(Comment.objects.values_list("text", flat=True)) == [
        "confirmed 2", "released 1", "reserved 1", "reserved 2",
    ]  # fmt: skip


async def _ends(desk: DjangoService, dies_in: str = "") -> list[Any]:
    take_seat = declare(desk, dies_in)
    async with desk.running():
        return [await desk.ended(take_seat, each, timeout=30) for each in (1, 2)]
