"""Outbox and log: what a service has published, sent or not, searched by position, type, key and id."""

from __future__ import annotations

import dataclasses

from starlette.responses import Response

from ensue.console.rendering import link
from ensue.console.visit import Visit
from ensue.operations.outbox import OutboxLine, OutboxPage, outbox

#: Records on one page, records looked at for it, and in one read.
_SHOWN, _LOOKED_AT_MAX, _AT_ONCE = 50, 5_000, 200
#: Of the records of one read, and of those on one page: a record may have a megabyte.
_BYTES_MAX = 8 << 20


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Empty: whatever it is. id: of the message, or of its flow."""

    type: str
    key: str
    id: str
    unsent: bool

    def has(self, record: OutboxLine) -> bool:
        headers = record.headers
        return (
            self.type in ("", headers.get("type"))
            and self.key in ("", record.key)
            and self.id in ("", headers.get("id"), headers.get("correlation_id"))
        )


async def search(visit: Visit) -> Response:
    names = visit.services.names
    service = visit.asked("service", names[0])
    after = visit.asked_number("after", 0)
    wanted = Wanted(
        visit.asked("type", ""), visit.asked("key", ""), visit.asked("id", ""), visit.asked("sent", "") == "no"
    )
    found: list[OutboxLine] = []
    page: OutboxPage | None = None
    looked_at, position, size, full = 0, after, 0, False
    async with visit.opened(service) as access:
        while access.store.capabilities.publishes:
            page = await outbox(access, position, _AT_ONCE, unsent=wanted.unsent, bytes_max=_BYTES_MAX)
            for each in page.records:
                looked_at, position = looked_at + 1, each.position
                if wanted.has(each):
                    found.append(each)
                    size += len(each.raw)
                full = len(found) == _SHOWN or size >= _BYTES_MAX or looked_at == _LOOKED_AT_MAX
                if full:
                    break
            if full or not page.more:
                break
    more = full and page is not None and position < page.head
    following = link(
        "/outbox", service=service, after=position, type=wanted.type, key=wanted.key, id=wanted.id,
        sent="no" if wanted.unsent else "",
    )  # fmt: skip
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
    )
