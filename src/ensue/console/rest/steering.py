"""Partitions, gaps, replays, the outbox, timers: what is read, and what is decided about it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ensue.console.access import Action
from ensue.console.payloads import shown, shown_headers
from ensue.console.rest.answers import (
    EpochBegun,
    EventPublished,
    EventWithdrawn,
    GapDecided,
    GapList,
    Record,
    RecordPage,
    Replayed,
    TimerPage,
    TimersCancelled,
    TimerShown,
    answered,
)
from ensue.console.rest.asked import PAGE, PAGE_BYTES_MAX, After, Limit, Named, Number, Topic, Who
from ensue.console.rest.bodies import (
    AcceptLoss,
    CancelTimers,
    ForgetGap,
    NewEpoch,
    PublishEvent,
    Replay,
    Rewind,
    Why,
    Withdraw,
)
from ensue.console.rest.cursors import cursor_of, read_numbered
from ensue.console.rest.finding import reading
from ensue.console.rest.letters import exact_data
from ensue.console.rest.route import ActionRoute, Asking, asks
from ensue.console.services import NotFound
from ensue.deciding import Deciding
from ensue.errors import UsageError
from ensue.message import Partition
from ensue.operations import epoch, gaps, outbox, partitions, publishing, replay, timers
from ensue.operations.opening import Opened, refuse_living_workers
from ensue.operations.partitions import Steered
from ensue.operations.repeats import Repeated
from ensue.operations.timers import TimerLine

router = APIRouter(route_class=ActionRoute)

_SERVICE = "/services/{service}"
_PARTITION = _SERVICE + "/partitions/{topic}/{partition}"

Steer = Callable[[Opened, str, int, Deciding], Awaitable[Steered]]


# ------------------------------------------------------------------------------------------------------- partitions


@router.post(_PARTITION + "/pause", tags=["partitions"], **asks(Action.PARTITION_PAUSE))
async def pause_partition(service: Named, topic: Topic, partition: Number, body: Why, who: Who) -> Response:
    """Have nobody read and handle a partition until it is resumed, also after a restart."""
    return await _steered(who, service, topic, partition, body, partitions.pause)


@router.post(_PARTITION + "/resume", tags=["partitions"], **asks(Action.PARTITION_RESUME))
async def resume_partition(service: Named, topic: Topic, partition: Number, body: Why, who: Who) -> Response:
    """Have a paused partition worked on again."""
    return await _steered(who, service, topic, partition, body, partitions.resume)


@router.post(_PARTITION + "/release", tags=["partitions"], **asks(Action.PARTITION_RELEASE))
async def release_partition(service: Named, topic: Topic, partition: Number, body: Why, who: Who) -> Response:
    """Have its worker give a partition up: whoever has least takes it then."""
    return await _steered(who, service, topic, partition, body, partitions.release)


async def _steered(who: Asking, service: str, topic: str, number: int, body: Why, steer: Steer) -> Response:
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:
        _place(access, topic, number)

        async def do(repeated: Repeated) -> Steered:
            return await steer(access, topic, number, by)

        return await who.done_once(access, do)


def _place(access: Opened, topic: str, number: int) -> Partition:
    """Raises NotFound for what the service does not read."""
    if topic not in access.service.subscribed_topics or number >= access.settings.partitions:
        topics = ", ".join(sorted(access.service.subscribed_topics)) or "nothing"
        raise NotFound(
            f"{access.service.name} does not read partition {number} of {topic[:80]}: it reads {topics}, partitions "
            f"0 to {access.settings.partitions - 1}"
        )
    return Partition(access.service.name, topic, number)


# ------------------------------------------------------------------------------------------------------------- gaps


@router.get(_SERVICE + "/gaps", tags=["losses"], **asks(Action.SEE))
async def list_gaps(service: Named, who: Who) -> Response:
    """List holes in what was received. An open one is asked for again; a lost one waits for a decision."""
    async with who.desk.services.opened(service) as access:
        return answered(GapList(await gaps.gaps(access)))


@router.post(_SERVICE + "/gaps/{topic}/{partition}/accept", tags=["losses"], **asks(Action.GAP_ACCEPT))
async def accept_loss(service: Named, topic: Topic, partition: Number, body: AcceptLoss, who: Who) -> Response:
    """Go on without what log and outbox have lost. `positions` has to be how many that are: `lost_through - watermark`
    of the gap, and `through` its `lost_through`."""
    by = who.why(body.reason)
    if who.desk.services.service(service).is_view:
        raise UsageError(f"{service} is a view, of which it is kept what it goes on without: use view/accept-missing")
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> GapDecided:
            found = await _gap(access, topic, partition, body.source)
            lost = max(found.gap.lost_through - found.gap.watermark, 0)
            if lost and lost != body.positions:
                raise UsageError(
                    f"{topic}/{partition}: {lost} positions of {body.source} are lost, and {body.positions} were "
                    "confirmed: look at it again"
                )
            if lost and found.gap.lost_through != body.through:
                raise UsageError(
                    f"{topic}/{partition}: positions of {body.source} are lost through {found.gap.lost_through}, and "
                    f"through {body.through} when it was looked at: look at it again"
                )
            position = await gaps.accept(access, found.where(access), found.gap, by)
            return GapDecided(topic, partition, body.source, position)

        return await who.done_once(access, do)


@router.post(_SERVICE + "/gaps/{topic}/{partition}/forget", tags=["losses"], **asks(Action.GAP_FORGET))
async def forget_gap(service: Named, topic: Topic, partition: Number, body: ForgetGap, who: Who) -> Response:
    """Ask a source no more, which does not exist. One that does exist shows its gap again."""
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> GapDecided:
            found = await _gap(access, topic, partition, body.source)
            if found.gap.watermark != body.watermark:
                raise UsageError(
                    f"{topic}/{partition}: {body.source} is applied up to position {found.gap.watermark} now, and was "
                    f"up to {body.watermark} when somebody looked: nothing is forgotten; look at it again"
                )
            await gaps.forget(access, found.where(access), body.source, by, found.gap)
            return GapDecided(topic, partition, body.source, found.gap.watermark)

        return await who.done_once(access, do)


@router.post(_SERVICE + "/gaps/{topic}/{partition}/rewind", tags=["losses"], **asks(Action.GAP_REWIND))
async def rewind_source(service: Named, topic: Topic, partition: Number, body: Rewind, who: Who) -> Response:
    """Take back how far a source was applied, to before a record that it did not write. What it has written after
    `position` is asked for again and applied: if it did write that record, events take effect twice."""
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:
        where = _place(access, topic, partition)

        async def do(repeated: Repeated) -> GapDecided:
            await gaps.rewind(access, where, body.source, body.position, by, body.watermark)
            return GapDecided(topic, partition, body.source, body.position)

        return await who.done_once(access, do)


async def _gap(access: Opened, topic: str, number: int, source: str) -> gaps.GapAt:
    for each in await gaps.gaps(access):
        if (each.topic, each.partition, each.gap.source) == (topic, number, source):
            return each
    raise NotFound(f"{access.service.name} has no gap of {source[:80]} in {topic[:80]}/{number}: it may have closed")


# ---------------------------------------------------------------------------------------- the outbox, and again


@router.get(_SERVICE + "/outbox", tags=["outbox"], **asks(Action.SEE))
async def list_outbox(
    service: Named,
    who: Who,
    after: Annotated[int, Query(ge=0, lt=2**63, description="Begin behind this position")] = 0,
    unsent: Annotated[bool, Query(description="Those alone that are not known to be in the log")] = False,
    limit: Limit = PAGE,
) -> Response:
    """List what the service has published, in the order in which it is sent."""
    mode = who.payloads
    async with who.desk.services.opened(service) as access:
        _publishes(access)
        page = await outbox.outbox(access, after, limit, unsent=unsent, bytes_max=PAGE_BYTES_MAX)
    records = [
        Record(
            position=each.position, previous=each.previous, topic=each.topic, partition=each.partition, key=each.key,
            sent=each.sent, held=each.held, refused=each.refused, withdrawn=each.withdrawn,
            headers=shown_headers(_flat(each.headers), mode), data=shown(each.data, mode),
        )
        for each in page.records
    ]  # fmt: skip
    following = records[-1].position if page.more else None
    return answered(RecordPage(records, page.sent, page.head, following, mode))


@router.post(_SERVICE + "/outbox/withdraw", tags=["outbox"], **asks(Action.OUTBOX_WITHDRAW))
async def withdraw_event(service: Named, body: Withdraw, who: Who) -> Response:
    """Give up an event that the broker refuses, so that those behind it in its partition follow: an empty record goes
    out in its place, and nobody will ever get it."""
    by = who.why(body.reason)
    async with who.desk.services.opened(service) as access:
        _publishes(access)

        async def do(repeated: Repeated) -> EventWithdrawn:
            found = await outbox.withdraw(access, body.id, by)
            return EventWithdrawn(found.id, found.type, found.topic, found.partition, found.position)

        return await who.done_once(access, do)


def _flat(headers: dict[str, object]) -> dict[str, object]:
    """An envelope's, with its extensions beside the others."""
    extensions = headers.get("extensions")
    rest = {name: value for name, value in headers.items() if name != "extensions"}
    return rest | (extensions if isinstance(extensions, dict) else {})


@router.post(_SERVICE + "/events", status_code=201, tags=["outbox"], **asks(Action.PUBLISH))
async def publish_event(service: Named, body: PublishEvent, who: Who, request: Request) -> Response:
    """Publish one event of the service, or send a command, in a step of its own. It cannot be taken back. Send an
    Idempotency-Key: without one, a request that is sent twice publishes twice."""
    by, data = who.why(body.reason), await exact_data(request)
    with reading():
        spec = publishing.spec_of(who.desk.services.service(service), body.type)
        event = publishing.read_event(spec, data)
    async with who.desk.services.opened(service) as access:
        _publishes(access)

        async def do(repeated: Repeated) -> EventPublished:
            with repeated.at_most_once():
                done = await publishing.publish(access, event, by)
            return EventPublished(
                done.id, spec.type, done.topic, done.partition, done.key, done.position, done.correlation_id
            )

        return await who.done_once(access, do, 201)


@router.get(_SERVICE + "/epoch", tags=["outbox"], **asks(Action.SEE))
async def show_epoch(service: Named, who: Who) -> Response:
    """Compare a service's outbox with the log: whether its database was put back from an older copy and needs a new
    epoch, and with what that would begin. 409 where the log cannot tell: that wants a person at a shell."""
    async with who.desk.services.opened(service, broker=True) as access:
        _publishes(access)
        return answered((await epoch.standing(access))[1])


@router.post(_SERVICE + "/epoch", tags=["outbox"], **asks(Action.NEW_EPOCH))
async def begin_epoch(service: Named, body: NewEpoch, who: Who) -> Response:
    """Let a database that was put back from an older copy publish again, under a new source. What the log holds of it
    stays. Refused while a worker of the service lives, where none is needed, and where `source` and
    `published_through` are not as they were seen. It cannot be taken back."""
    by = who.why(body.reason)
    async with who.desk.services.opened(service, broker=True) as access:
        _publishes(access)

        async def do(repeated: Repeated) -> EpochBegun:
            await refuse_living_workers(access, force=False)
            found, at = await epoch.standing(access)
            epoch.check_wanted(access.service.name, at, body.source, body.published_through)
            with repeated.at_most_once():
                return EpochBegun(found.source, await epoch.begin_epoch(access, found, by))

        return await who.done_once(access, do)


def _publishes(access: Opened) -> None:
    if not access.store.capabilities.publishes:
        raise NotFound(f"{access.service.name} publishes nothing: its database has no outbox")


@router.post(_SERVICE + "/replay", tags=["outbox"], **asks(Action.REPLAY))
async def replay_type(service: Named, body: Replay, who: Who) -> Response:
    """Have one event type handled again by all its handlers: all of it that the log still has. What these did with it
    is done a second time."""
    by, definition = who.why(body.reason), who.desk.services.service(service)
    with reading():
        topic = replay.topic_of(definition, body.type)
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> Replayed:
            places = [each for each in await access.books.checkpoints() if each.topic == topic]
            if not places:
                raise UsageError(f"{definition.name} has read nothing of topic {topic} yet")
            for each in places:
                with repeated.at_most_once():
                    await replay.replay(access, each, body.type, by)
            return Replayed(body.type, [each.place for each in places])

        return await who.done_once(access, do)


# ----------------------------------------------------------------------------------------------------------- timers


@router.get(_SERVICE + "/timers", tags=["timers"], **asks(Action.SEE))
async def list_timers(service: Named, who: Who, after: After = None, limit: Limit = PAGE) -> Response:
    """List events that are published later, in the order in which they are due."""
    begin = None if after is None else read_numbered(after)
    async with who.desk.services.opened(service) as access:
        found, total, last = await timers.timer_page(access, begin, limit, PAGE_BYTES_MAX)
    following = None if last is None else cursor_of(last[0], last[2], str(last[1]))
    return answered(TimerPage([_timer(each, who) for each in found], total, following, who.payloads))


def _timer(line: TimerLine, who: Asking) -> TimerShown:
    mode = who.payloads
    return TimerShown(
        line.id, line.due_at, line.topic, line.partition, line.key, line.recurring,
        shown_headers(_flat(line.headers), mode), shown(line.data, mode),
    )  # fmt: skip


@router.post(_SERVICE + "/timers/cancel", tags=["timers"], **asks(Action.TIMER_CANCEL))
async def cancel_timers(service: Named, body: CancelTimers, who: Who) -> Response:
    """Take events back that are not published yet: all of these, or none."""
    by, ids = who.why(body.reason), list(dict.fromkeys(body.ids))
    async with who.desk.services.opened(service) as access:

        async def do(repeated: Repeated) -> TimersCancelled:
            return TimersCancelled([each.id for each in await timers.cancel(access, ids, by)])

        return await who.done_once(access, do)
