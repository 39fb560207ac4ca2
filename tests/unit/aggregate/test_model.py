"""However what comes is split into batches and rolled back, the stream, the state and the outbox are the same."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.aggregate.accounts import (
    Account,
    AccountOpened,
    Deposited,
    PaymentAsked,
    WithdrawalRefused,
    Withdrawn,
    pay,
)

from ensue import Service, Step
from ensue.aggregate.aggregate import evolve
from ensue.aggregate.history import history
from ensue.aggregate.kind import kind_of
from ensue.codec import decode_envelope
from ensue.engine.clock import UniqueIds
from ensue.engine.dispatch import Dispatcher
from ensue.engine.failed import StepFailed
from ensue.engine.timers import put
from ensue.event import declared_as, event_type
from ensue.message import Envelope, Message
from ensue.stores.memory import MemoryStore

ACCOUNTS = ("a", "b", "c")


class Every(Account, stream="account-every", snapshot_every=1): ...


class EveryThird(Account, stream="account-third", snapshot_every=3): ...


class Never(Account, stream="account-never", snapshot_every=0): ...


@dataclasses.dataclass
class Model:
    """Too simple to be wrong: payments one after the other."""

    events: dict[str, list[Any]] = dataclasses.field(default_factory=lambda: {each: [] for each in ACCOUNTS})
    published: list[Any] = dataclasses.field(default_factory=list)

    def pay(self, asked: PaymentAsked) -> None:
        name, events = asked.account_id, self.events[asked.account_id]
        new: list[Any] = [] if events else [AccountOpened(account_id=name, owner="somebody")]
        signs = {Deposited: 1, Withdrawn: -1}
        balance = sum(signs.get(type(each), 0) * getattr(each, "amount", 0) for each in events)
        if asked.amount > 0:
            new.append(Deposited(account_id=name, amount=asked.amount))
        elif -asked.amount <= balance:
            new.append(Withdrawn(account_id=name, amount=-asked.amount))
        else:
            new.append(WithdrawalRefused(account_id=name, amount=-asked.amount, reason=f"{balance} left"))
        events += new
        self.published += new


def service_of(cls: type[Account], *, plain: bool) -> Service:
    accounts = Service("accounts", aggregates=[cls])
    if plain:

        @accounts.on
        async def pay_plainly(event: PaymentAsked, step: Step) -> None:
            account = await step.load(cls, event.account_id)
            fresh = account is None
            account = account or cls(event.account_id)
            if fresh and event.amount:
                step.record(account, AccountOpened(account_id=event.account_id, owner="somebody"))
            if not event.amount:
                raise ValueError("nothing is asked")
            step.record(account, account.pay(event.amount))

    else:

        def pay_entity(account: Any, event: PaymentAsked, step: Step) -> None:
            if account is None and event.amount:
                account = cls(event.account_id)
                step.record(account, AccountOpened(account_id=event.account_id, owner="somebody"))
            pay(account, event, step)

        pay_entity.__annotations__ |= {"account": cls | None, "event": PaymentAsked, "step": Step, "return": None}
        accounts.on(pay_entity)
    return accounts


def message(number: int, event: Any) -> Message:
    spec: Any = event_type(type(event))
    envelope = Envelope(f"m{number}", spec.type, "2026-11-27T00:00:00Z")
    return Message(spec.topic, 0, number, spec.key_of(event), "s/1", number, number - 1, envelope, spec.write(event))


class _Undone(Exception):
    pass


async def run(
    cls: type[Account], plain: bool, batches: Sequence[tuple[Sequence[PaymentAsked], str]]
) -> tuple[dict[str, list[Any]], dict[str, Any], list[Any]]:
    """Each batch is one transaction; `how` says what becomes of it at first."""
    store = MemoryStore("accounts")
    await store.open()
    service = service_of(cls, plain=plain)
    dispatcher = Dispatcher(service, UniqueIds("n"), 1)
    number = 0
    for events, how in batches:
        messages = [message(number + at, event) for at, event in enumerate(events, 1)]
        number += len(messages)
        attempts = {"ok": 1, "undone": 2, "poison": 2}[how]
        for attempt in range(1, attempts + 1):
            poison = [message(10**6, PaymentAsked(account_id=events[-1].account_id, amount=0))]
            last = attempt == attempts
            try:
                async with store.transaction() as transaction:
                    outgoing = dispatcher.outgoing(transaction)
                    todo = messages if last or how == "undone" else messages + poison
                    done = await dispatcher.apply(transaction, todo, outgoing)
                    assert done == len(todo)
                    await transaction.flush()
                    await put(transaction, outgoing.close())
                    if not last:
                        raise _Undone
            except (_Undone, StepFailed):
                assert not last
    streams = {each: [one.event for one in await history(store.rows(), kind_of(cls), each)] for each in ACCOUNTS}
    async with store.transaction() as transaction:
        states = await service.repositories[cls].load(transaction, ACCOUNTS)
    records = await store.outbox_after(0, 10_000)
    published = [declared_as(decode_envelope(each.envelope).type).read(each.data) for each in records]
    await store.close()
    return streams, states, published


payments = st.builds(PaymentAsked, account_id=st.sampled_from(ACCOUNTS), amount=st.integers(-9, 9).filter(bool))
some_batches = st.lists(
    st.tuples(st.lists(payments, min_size=1, max_size=6), st.sampled_from(["ok", "ok", "undone", "poison"])), max_size=8
)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([Every, EveryThird, Never]), st.booleans(), some_batches)
def test_any_split_into_batches_and_any_rollback_gives_the_same(
    cls: type[Account], plain: bool, batches: list[tuple[list[PaymentAsked], str]]
) -> None:
    model = Model()
    for events, _ in batches:
        for event in events:
            model.pay(event)
    streams, states, published = asyncio.run(run(cls, plain, batches))
    assert streams == model.events
    assert published == model.published
    for name, events in model.events.items():
        folded = cls(name)
        for event in events:
            evolve(folded, event)
        found = states.get(name)
        assert (found, getattr(found, "version", 0)) == (folded if events else None, len(events))
