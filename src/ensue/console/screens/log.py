"""Log: what one partition of it has, from an offset on; messages, and what is none."""

from __future__ import annotations

from starlette.responses import Response

from ensue.console.rendering import flow_id, link
from ensue.console.visit import Visit
from ensue.operations.log import log_page, log_topics

#: Records on one page, and bytes of their data: a record may have a megabyte.
_SHOWN, _BYTES_MAX = 50, 8 << 20


async def log(visit: Visit) -> Response:
    names = visit.services.names
    service, topic = visit.asked("service", names[0]), visit.asked("topic", "")
    number, begin = visit.asked_number("number", 0), visit.asked_number("offset", 0)
    async with visit.opened(service, broker=True) as access:
        topics = await log_topics(access)
        page = await log_page(access, topic, number, begin, _SHOWN, _BYTES_MAX) if topic else None
    place = {"service": service, "topic": topic, "number": number}
    return visit.page(
        "log",
        names=names,
        service=service,
        topics=topics,
        topic=topic,
        number=number,
        begin=begin,
        page=page,
        records=[
            (
                each,
                visit.headers(each.headers),
                flow_id(each.headers) if each.headers else "",
                visit.error(each.garbage),
                visit.payload(each.data),
            )
            for each in (() if page is None else page.records)
        ],
        next_page=link("/log", **place, offset=page.next) if page is not None and page.next else "",
        last_page=link("/log", **place, offset=max(page.last - _SHOWN + 1, 1)) if page is not None else "",
    )
