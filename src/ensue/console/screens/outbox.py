"""Outbox: what a service has published, sent or not, searched by position, type, key and ids; to withdraw an event that
the broker refuses; and to publish a test event, in development."""

from __future__ import annotations

import dataclasses

from starlette.responses import Response

from ensue.console.access import Action, NotAllowed
from ensue.console.rendering import as_json, flow_id, link
from ensue.console.runs import Run
from ensue.console.visit import Visit
from ensue.contracts.described import of_message
from ensue.errors import UsageError
from ensue.operations import outbox as operations
from ensue.operations import publishing
from ensue.operations.letters import anybody_works
from ensue.operations.outbox import OutboxLine, OutboxPage, outbox
from ensue.operations.repeats import done_once, fingerprint_of, key_of
from ensue.roundtrip import fields_of

#: Records on one page, records looked at for it, and in one read.
_SHOWN, _LOOKED_AT_MAX, _AT_ONCE = 50, 5_000, 200
#: Of the records of one read, and of those on one page: a record may have a megabyte.
_BYTES_MAX = 8 << 20
_ACTIONS = {"publish": Action.PUBLISH}
_OF_REFUSED = {"withdraw": Action.OUTBOX_WITHDRAW}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Empty: whatever it is. id: of the message. correlation: of its flow. sent: yes or no."""

    type: str
    key: str
    id: str
    correlation: str
    sent: str

    def has(self, record: OutboxLine) -> bool:
        headers = record.headers
        return (
            self.type in ("", headers.get("type"))
            and self.key in ("", record.key)
            and self.id in ("", headers.get("id"))
            and self.correlation in ("", flow_id(headers))
        )


async def search(visit: Visit) -> Response:
    names = visit.services.names
    service = visit.asked("service", names[0])
    after = visit.asked_number("after", 0)
    wanted = Wanted(*(visit.asked(name, "") for name in ("type", "key", "id", "correlation", "sent")))
    if wanted.sent not in ("", "yes", "no"):
        raise UsageError(f"sent={wanted.sent:.40}: expected yes, no, or nothing")
    found: list[OutboxLine] = []
    page: OutboxPage | None = None
    looked_at, position, size, full, ended = 0, after, 0, False, False
    async with visit.opened(service) as access:
        while access.store.capabilities.publishes:
            page = await outbox(access, position, _AT_ONCE, unsent=wanted.sent == "no", bytes_max=_BYTES_MAX)
            for each in page.records:
                if wanted.sent == "yes" and not each.sent:
                    ended = True  # nothing behind it is known to be in the log
                    break
                looked_at, position = looked_at + 1, each.position
                if wanted.has(each):
                    found.append(each)
                    size += len(each.raw)
                full = len(found) == _SHOWN or size >= _BYTES_MAX or looked_at == _LOOKED_AT_MAX
                if full:
                    break
            if full or ended or not page.more:
                break
    more = full and page is not None and position < page.head
    following = link("/outbox", service=service, after=position, **dataclasses.asdict(wanted))
    return visit.page(
        "outbox",
        changes=[service],
        names=names,
        service=service,
        after=after,
        wanted=wanted,
        page=page,
        looked_at=looked_at,
        records=[(each, visit.headers(each.headers), visit.payload(each.raw)) for each in found],
        next_page=following if more else "",
        publishes=visit.console.publishing and visit.actor.may(Action.PUBLISH),
    )


async def refused(visit: Visit) -> Response:
    """One event that the broker refuses."""
    name, message = visit.asked("service"), visit.asked("id")
    async with visit.opened(name) as access:
        held, why = None, ""
        try:
            held = await operations.refused(access, message)
        except UsageError as error:
            why = str(error)
    may = visit.may(_OF_REFUSED)
    return visit.page("refused", changes=[name], service=name, id=message, held=held, why=why, may=may)


async def withdraw(visit: Visit) -> Response:
    """The form of that page."""
    fields = await visit.form()
    name, message = fields.text("service"), fields.text("id")
    by = visit.deciding(fields.one_of("do", _OF_REFUSED), fields.text("reason"))

    async def work(run: Run) -> None:
        async with visit.opened(name) as access:
            found = await operations.withdraw(access, message, by)
            place = f"{found.topic}/{found.partition}"
            said = f"{found.type} with id {found.id} is withdrawn: what waits behind it in {place} follows"
            run.tell(said + ("" if await anybody_works(access) else " when a worker runs"))

    back = link("/outbox", service=name)
    return await visit.decided(fields, f"withdraw {message} of {name}", by, (name, message), back, work)


async def publish_form(visit: Visit) -> Response:
    """Where a test event is written: the service's types, and the fields of one of them."""
    _check_publishing(visit)
    service, asked = visit.services.service(visit.asked("service")), visit.asked("type", "")
    types = sorted(each.type for each in publishing.published_types(service))
    spec = publishing.spec_of(service, asked or types[0]) if asked or types else None
    return visit.page(
        "publish",
        service=service.name,
        types=types,
        type="" if spec is None else spec.type,
        schema=None if spec is None else of_message(spec).schema,
        data="" if spec is None else as_json(dict.fromkeys(fields_of(spec.cls))),
        may=visit.may(_ACTIONS),
    )


async def publish(visit: Visit) -> Response:
    """The form of that page."""
    _check_publishing(visit)
    fields = await visit.form()
    name, kind, data = fields.text("service"), fields.text("type"), fields.text("data").encode("utf-8", "surrogatepass")
    by = visit.deciding(fields.one_of("do", _ACTIONS), fields.text("reason"))
    key = key_of(by.actor, "POST", "console /publish", fields.form.id)

    async def work(run: Run) -> None:
        spec = publishing.spec_of(visit.services.service(name), kind)
        event = publishing.read_event(spec, data)
        async with visit.opened(name) as access:
            if not access.store.capabilities.publishes:
                raise UsageError(f"{name} publishes nothing: its database has no outbox")
            # Kept with the service: nothing else keeps another process of the console from publishing it once more.
            async with done_once(access, key, fingerprint_of(name.encode(), kind.encode(), data)) as repeated:
                if repeated.answer is not None:
                    run.tell(f"this form was sent before, and did this: {repeated.answer.body.decode()}")
                    return
                with repeated.at_most_once():
                    done = await publishing.publish(access, event, by)
                place = f"position {done.position} of {done.topic}/{done.partition}"
                said = f"published {spec.type}: {place}, id {done.id}, correlation id {done.correlation_id}"
                await repeated.keep(200, {}, said.encode())
                run.tell(said + ("" if await anybody_works(access) else "; it is sent when a worker runs"))

    back = link("/publish", service=name, type=kind)
    return await visit.decided(fields, f"publish {kind} by {name}", by, (name, kind), back, work)


def _check_publishing(visit: Visit) -> None:
    if not visit.console.publishing:
        raise NotAllowed(
            "nothing is published from here: that is for development, on one's own machine, or where the application "
            "says so, ensue.console.app(..., publishing=True); `ensue publish` does it at a terminal"
        )
