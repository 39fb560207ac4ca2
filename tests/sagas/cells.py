"""What goes wrong at which step of the shop's saga: a table. Each cell is played, or says why it means nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from tests.sagas.shop import NotYet, Place, Refused
from tests.sagas.stage import Death, Stage
from tests.unit.engine.workbench import letters, settled, until, until_letters

from ensue import Discarded, SagaCancelled
from ensue.message import REPLY, DeadLetterState
from ensue.ports import Entry
from ensue.reply import Reply, write_reply
from ensue.saga.instance import Status

STEPS: Final = ("create", "reserve", "authorise", "capture", "open")

#: How it ends: saga, order, payment, whether credit is reserved, and what the provider holds.
End = tuple[str, str, str, bool, str]
COMPLETED: Final[End] = ("COMPLETED", "OPEN", "HELD", True, "captured")
NOTHING: Final[End] = ("UNDONE", "", "", False, "")


def undone(payment: str) -> End:
    """payment: what its row says; nothing of it stands."""
    return ("UNDONE", "REJECTED", payment, False, "")


Play = Callable[[Stage], Awaitable[End]]


@dataclass(frozen=True)
class Cell:
    step: str
    fault: str
    play: Play
    where: str = ""

    @property
    def id(self) -> str:
        return "-".join(each for each in (self.step, self.fault, self.where) if each).replace(" ", "_")


async def begun(stage: Stage, *names: str, new: Place | None = None) -> None:
    """These run, and the saga comes as far as it can with them."""
    await stage.start(*names)
    await stage.begin(new or Place("o-1"))
    await settled(stage.world)


# ------------------------------------------------------------------------------------------------------------ deaths

#: Of each step: in which service somebody dies, and what has been met by then. Empty: whatever comes first.
DYING: Final[dict[str, dict[str, tuple[str, str]]]] = {
    "create": {"it is done": ("sales", "create")},
    "reserve": {"it is done": ("credit", "reserve"), "its reply is taken in": ("sales", "knows of reserve")},
    "authorise": {
        "it begins": ("till", ""),
        "it is noted": ("till", "note"),
        "it is answered": ("till", "mark HELD"),
        "its reply is taken in": ("sales", "knows of authorise"),
    },
    "open": {"it is done": ("sales", "open")},
}
UNDOING: Final = {"create": ("sales", "reject"), "reserve": ("credit", "release"), "authorise": ("till", "void")}
OUTSIDE: Final = {"authorise": ("till", "hold"), "capture": ("sales", "capture")}
BEFORE: Final = ("consumer.checkpoint_written",)
AFTER: Final = ("consumer.committed",)


def dies(service: str, met: str, point: str, *, changes_mind: bool = False) -> Play:
    async def play(stage: Stage) -> End:
        stage.deaths[service] = Death(point, lambda: not met or stage.trouble.met(met) > 0)
        await stage.start()
        await stage.begin(Place("o-1", changes_mind=changes_mind))
        await stage.dies(service)
        await stage.start(service)
        return undone("VOID") if changes_mind else COMPLETED

    return play


def deaths() -> list[Cell]:
    found = []
    for fault, points, outside in (
        ("crash before commit", BEFORE, ("outside.begun", "outside.called", "outside.written")),
        ("crash after commit", AFTER, ("outside.committed",)),
    ):
        for step, places in DYING.items():
            for where, (service, met) in places.items():
                found += [Cell(step, fault, dies(service, met, point), where) for point in points]
        for step, (service, met) in UNDOING.items():
            found += [
                Cell(step, fault, dies(service, met, point, changes_mind=True), "it is undone") for point in points
            ]
        for step, (service, met) in OUTSIDE.items():
            for point in outside:
                met_by_then = "" if point == "outside.begun" else met
                found.append(Cell(step, fault, dies(service, met_by_then, point), point.partition(".")[2]))
    return found


# ------------------------------------------------------------------------------------------ replies, twice and late


async def answers_again(stage: Stage, service: str, command: str) -> None:
    """A participant has a second answer for a command, and says that it was refused."""
    async with stage.shop.services[service].step() as step:
        reply = Reply(command, failure="cash.Refused", fields={})
        step.emit("sales.replies", REPLY, "place:o-1", len("place:o-1"), write_reply(reply))
    await settled(stage.world)


async def starts_twice(stage: Stage) -> End:
    stage.lines["sales"].repeats = lambda entry: b'"kind":"start"' in entry.data
    await begun(stage, "sales")
    await stage.begin(Place("o-1", total=77))
    await settled(stage.world)
    assert (stage.lines["sales"].repeated, stage.dropped) == (2, 1), "a record that comes twice is not even taken in"
    await stage.start("credit", "till")
    return COMPLETED


def replies_twice(service: str, blocked: str) -> Play:
    """blocked: at what it is when the second answer comes."""

    async def play(stage: Stage) -> End:
        commands: list[str] = []
        stage.lines[service].repeats = lambda entry: b'"type":"ensue.reply"' in entry.envelope
        if blocked == "authorise":
            await begun(stage, "sales")
            commands += (await stage.saga()).sent
            await stage.start("credit")
        else:
            stage.trouble.errors["capture"] = (1, ConnectionError)
            await begun(stage, "sales", "credit")
            commands += (await stage.saga()).sent
            await stage.start("till")
        await settled(stage.world)
        assert stage.lines[service].repeated == 1
        [command] = commands
        assert command not in (await stage.saga()).sent
        await answers_again(stage, service, command)
        assert stage.dropped == 1
        if "till" not in stage.world.runtimes:
            await stage.start("till")
        return COMPLETED

    return play


async def captured_twice(stage: Stage) -> End:
    stage.lines["sales"].repeats = lambda entry: b'"kind":"came"' in entry.data
    await begun(stage)
    assert stage.lines["sales"].repeated == 1
    return COMPLETED


def replies_late(service: str, done: str, payment: str) -> Play:
    """It is done, and who did it dies before it says so, and comes back when nobody waits any more."""

    async def play(stage: Stage) -> End:
        stage.deaths[service] = Death("relay.read", lambda: stage.trouble.met(done) > 0)
        await stage.start()
        await stage.begin(Place("o-1"))
        await stage.dies(service)
        await stage.wait(300)
        await stage.start(service)
        end = await stage.at_rest()
        assert (end.status, stage.dropped) == (Status.UNDONE, 1), "the late reply came, and came for nothing"
        return undone(payment)

    return play


async def captures_without_a_word(stage: Stage) -> End:
    stage.trouble.errors["captured"] = (1, ConnectionError)  # it was done, and the line broke
    await begun(stage)
    assert stage.book.state("o-1") == "captured"
    assert (await stage.saga()).status is Status.RUNNING, "nobody knows"
    return COMPLETED


# --------------------------------------------------------------------------------------------- lost, down, and limits


def is_lost(service: str, which: Callable[[Entry], bool], met: str) -> Play:
    """met: what is done when the log has got it after all."""

    async def play(stage: Stage) -> End:
        stage.lines[service].loses = which
        await stage.start()
        await stage.begin(Place("o-1"))
        await until(lambda: stage.trouble.met(met) > 0, stage.world, "what was lost is sent again")
        assert stage.lines[service].lost == 1
        return COMPLETED

    return play


def of_kind(kind: str) -> Callable[[Entry], bool]:
    return lambda entry: f'"kind":"{kind}"'.encode() in entry.data


def of_type(name: str) -> Callable[[Entry], bool]:
    return lambda entry: f'"type":"{name}"'.encode() in entry.envelope


async def attempt_is_lost(stage: Stage) -> End:
    await stage.start()
    lost: list[object] = []
    stage.world.runtimes["sales"].context.dispatcher.sagas.begin = lost.extend
    await stage.begin(Place("o-1"))
    await until(lambda: bool(lost), stage.world, "the capture is asked for")
    await settled(stage.world)
    assert stage.trouble.met("capture") == 0
    await stage.stop("sales")
    await stage.start("sales")
    return COMPLETED


def is_down(*others: str, payment: str) -> Play:
    """One is not there for longer than the limit of the call."""

    async def play(stage: Stage) -> End:
        await begun(stage, *others)
        await stage.wait(301)
        assert (await stage.saga()).goes_by == Status.UNDOING
        await stage.start(*{"credit", "till"} - {*others})
        return undone(payment)

    return play


async def provider_is_down(stage: Stage) -> End:
    stage.trouble.errors["capture"] = (3, ConnectionError)
    await begun(stage)
    parked = await stage.at_rest()
    assert (parked.status, stage.trouble.met("capture")) == (Status.PARKED, 3)
    assert "outside capture failed at attempt 3" in parked.reason
    await stage.people("retry")
    return COMPLETED


# ------------------------------------------------------------------------------------------------ refusals and undoing


def is_refused(met: str, end: End) -> Play:
    async def play(stage: Stage) -> End:
        stage.trouble.errors[met] = (99, lambda: Refused(by=met))
        await begun(stage)
        saga = await stage.at_rest()
        if saga.ending is None:  # a reason has no values
            assert saga.reason.endswith(": cash.Refused"), saga.reason
        else:
            assert str(saga.ending.failure()) == f"Refused(by='{met}')"
        return end

    return play


def undo_fails(step: str, times: int) -> Play:
    """The step after it is refused, or the customer has changed their mind, and the undo does not succeed at first."""
    undo, later, payment = {
        "create": ("reject", "reserve", ""),
        "reserve": ("release", "hold", "REFUSED"),
        "authorise": ("void", "", "VOID"),
    }[step]

    async def play(stage: Stage) -> End:
        stage.trouble.errors[undo] = (times, NotYet)
        if later:
            stage.trouble.errors[later] = (99, lambda: Refused(by=later))
        await begun(stage, new=Place("o-1", changes_mind=not later))
        saga = await stage.at_rest()
        if times < 10:
            assert stage.trouble.met(undo) == times + 1
            return undone(payment)
        assert (saga.status, stage.trouble.met(undo)) == (Status.PARKED, 10)
        assert "failed at attempt 10: cash.NotYet" in saga.reason
        del stage.trouble.errors[undo]
        await stage.people("retry")
        return undone(payment)

    return play


# ------------------------------------------------------------------------------------------------------------- people


async def cancelled_at_create(stage: Stage) -> End:
    stage.trouble.errors["create"] = (99, RuntimeError)
    await begun(stage)
    assert (await stage.at_rest()).status is Status.PARKED
    await stage.people("cancel")
    return NOTHING


def cancelled_while(*others: str, payment: str) -> Play:
    """It waits for somebody who is not there."""

    async def play(stage: Stage) -> End:
        await begun(stage, *others)
        await stage.people("cancel")
        assert (await stage.saga()).status is Status.UNDOING
        await stage.start(*{"credit", "till"} - {*others})
        return undone(payment)

    return play


async def cancelled_at_capture(stage: Stage) -> End:
    stage.trouble.errors["capture"] = (2, ConnectionError)
    await begun(stage)
    await stage.people("cancel")
    assert (stage.dropped, (await stage.saga()).status) == (1, Status.RUNNING), "it is past its pivot"
    return COMPLETED


async def cancelled_at_open(stage: Stage) -> End:
    stage.trouble.errors["open"] = (99, RuntimeError)
    await begun(stage)
    assert (await stage.at_rest()).status is Status.PARKED
    await stage.people("cancel")
    assert (stage.dropped, (await stage.saga()).status) == (1, Status.PARKED), "it is past its pivot"
    stage.trouble.errors.clear()
    await stage.people("retry")
    return COMPLETED


async def letter_discarded(stage: Stage) -> End:
    stage.trouble.errors["reserve"] = (99, RuntimeError)
    credit = stage.shop.credit
    await stage.start()
    await stage.begin(Place("o-1"))
    await until_letters(stage.world, credit, 1, DeadLetterState.DEAD)
    [letter] = await letters(stage.world, credit, DeadLetterState.DEAD)
    await stage.world.discard(credit, letter)
    saga = await stage.at_rest()
    assert saga.ending is not None
    assert isinstance(saga.ending.failure(), Discarded)
    return undone("")


async def participant_cancelled(stage: Stage) -> End:
    """A participant that is a saga leaves no letter: it is parked, and a person cancels it."""
    stage.trouble.errors["hold"] = (99, RuntimeError)
    await begun(stage)
    await stage.wait(10)
    books = stage.world.runtimes["till"].context.books
    [parked] = await books.sagas([Status.PARKED], 9)
    assert "outside hold failed at attempt 3" in parked.reason
    async with stage.shop.till.step() as step:
        step.cancel_saga(stage.shop.authorise, parked.key.partition(":")[2])
    saga = await stage.at_rest()
    assert saga.ending is not None
    assert isinstance(saga.ending.failure(), SagaCancelled)
    return undone("REFUSED")


# --------------------------------------------------------------------------------------------------------- the table

AFTER_CAPTURE: Final[End] = ("PARKED", "NEW", "HELD", True, "captured")
BEFORE_CAPTURE: Final[End] = ("PARKED", "NEW", "HELD", True, "held")

CELLS: Final[tuple[Cell, ...]] = (
    *deaths(),
    Cell("create", "duplicate reply", starts_twice, "of what starts it"),
    Cell("reserve", "duplicate reply", replies_twice("credit", "authorise")),
    Cell("authorise", "duplicate reply", replies_twice("till", "capture")),
    Cell("capture", "duplicate reply", captured_twice),
    Cell("reserve", "late reply", replies_late("credit", "reserve", "")),
    Cell("authorise", "late reply", replies_late("till", "mark HELD", "VOID")),
    Cell("capture", "late reply", captures_without_a_word),
    Cell("create", "lost command", is_lost("sales", of_kind("start"), "create"), "what starts it"),
    Cell("reserve", "lost command", is_lost("sales", of_type("credit.commands.Reserve.v1"), "reserve")),
    Cell("authorise", "lost command", is_lost("sales", of_type("till.commands.Authorise.v1"), "hold")),
    Cell("capture", "lost command", attempt_is_lost),
    Cell("open", "lost command", is_lost("sales", of_kind("came"), "open"), "what it follows from"),
    Cell("reserve", "participant down", is_down("sales", payment="")),
    Cell("authorise", "participant down", is_down("sales", "credit", payment="VOID")),
    Cell("capture", "participant down", provider_is_down),
    Cell("create", "business failure", is_refused("create", NOTHING)),
    Cell("reserve", "business failure", is_refused("reserve", undone(""))),
    Cell("authorise", "business failure", is_refused("hold", undone("REFUSED"))),
    Cell("capture", "business failure", is_refused("capture", BEFORE_CAPTURE)),
    Cell("open", "business failure", is_refused("open", AFTER_CAPTURE)),
    *[Cell(step, "undo fails twice", undo_fails(step, 2)) for step in UNDOING],
    *[Cell(step, "undo fails for good", undo_fails(step, 10)) for step in UNDOING],
    Cell("create", "operator cancels", cancelled_at_create),
    Cell("reserve", "operator cancels", cancelled_while("sales", payment="")),
    Cell("authorise", "operator cancels", cancelled_while("sales", "credit", payment="VOID")),
    Cell("capture", "operator cancels", cancelled_at_capture),
    Cell("open", "operator cancels", cancelled_at_open),
    Cell("reserve", "operator discards", letter_discarded),
    Cell("authorise", "operator discards", participant_cancelled, "its participant"),
)

_LOCAL: Final = "a local step is a part of the saga's own transaction: nothing travels, and nobody is asked"
_PIVOT: Final = "it is past the pivot and is not undone"
MEANINGLESS: Final[dict[tuple[str, str], str]] = {
    ("open", "duplicate reply"): _LOCAL,
    **{(step, fault): _LOCAL for step in ("create", "open") for fault in ("late reply", "participant down")},
    **{(step, "operator discards"): f"{_LOCAL}; a bug in it parks the saga" for step in ("create", "open")},
    ("capture", "operator discards"): "an outside function has no letter: past its attempts the saga is parked",
    **{(step, f"undo fails {times}"): _PIVOT for step in ("capture", "open") for times in ("twice", "for good")},
}
