"""A saga in a test of its own: what it asks for is answered by the test. No database, loop or broker."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from typing import Any

import msgspec

from ensue.command import CommandType
from ensue.errors import UsageError
from ensue.event import EventType, declared_as, event_type
from ensue.failure import Failure
from ensue.saga.code import SagaCode, declared_code
from ensue.saga.effects import CancelTimer, Effect, RunLocal, RunOutside, Send, SetTimer
from ensue.saga.incoming import Answered, Broke, Cancel, Elapsed, Incoming, Retry, Told
from ensue.saga.instance import ENDED, Instance, Status, instance_of, row_of
from ensue.saga.journal import Refusal
from ensue.saga.local import LocalStep
from ensue.saga.machine import begun, go_on
from ensue.saga.named import Named
from ensue.saga.outside import OutsideFunction
from ensue.saga.parking import park
from ensue.saga.taking import take
from ensue.saga.wake import read_wake

#: What a test answers.
Asked = RunLocal | Send | RunOutside
#: When a saga of a test begins, by its own time.
_BEGINNING = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def saga(function: Callable[..., Any], request: object, *, id: object = "test") -> SagaRun:
    """Begin a saga: `run = saga(place_order, PlaceOrder(...))`. It runs to its first wait.

    Then say what it should ask for, in order, and what comes of it: `run.expect_local(create_order)`,
    `run.expect_call(ReserveCredit, total=30).fails(CreditLimitExceeded(available=10))`, `run.expect_end("UNDONE")`.
    """
    return SagaRun(declared_code(function), request, id)


class Expected:
    """What a saga has asked for. arguments: of a local step, or an outside function, by name; command: of a call. Each
    is answered once."""

    def __init__(self, run: SagaRun, effect: Asked, what: str) -> None:
        self._run = run
        self._effect = effect
        self._what = what
        self.command: Any = declared_as(effect.type).read(effect.data) if isinstance(effect, Send) else None
        self.arguments: dict[str, Any] = {}
        self._named: Named | None = None
        if not isinstance(effect, Send):
            self._named, data = run.named(effect)
            found = self._named.arguments.read(data)
            self.arguments = {name: getattr(found, name) for name in self._named.names}

    def replies(self, reply: Any = None) -> None:
        """It was done, and this is the reply, or what the function returns."""
        effect = self._effect
        if self._named is not None:
            data = self._named.write_value(reply)
        else:
            assert isinstance(effect, Send)
            spec = declared_as(effect.type)
            assert isinstance(spec, CommandType)
            if type(reply) is not (type(None) if spec.reply is None else spec.reply.cls):
                raise UsageError(
                    f"{spec.type} is answered with {reply!r:.100}, which is not the reply that it declares"
                )
            data = b"null" if spec.reply is None else spec.reply.write(reply)
        self._answer(Answered(effect.number, data))

    gives = replies

    def is_done(self) -> None:
        """It was done, and nobody asks what it returned."""
        self._answer(Answered(self._effect.number))

    def fails(self, failure: Failure) -> None:
        """It was not done, for this reason."""
        self._answer(Answered(self._effect.number, failure=Refusal.of(failure)))

    def breaks(self, error: str = "a bug") -> None:
        """It raises an error. A local step does so at each attempt, so that the saga is parked. An outside function
        does so at this one: it is called again when it is time, see `SagaRun.advance`."""
        if isinstance(self._effect, RunOutside):
            self._answer(Broke(self._effect.number, self._effect.attempt, error))
        else:
            self._run.breaks(self._effect, error)

    def _answer(self, answer: Answered | Broke) -> None:
        if self._effect not in self._run.asked:
            raise AssertionError(f"{self._what} was answered already")
        self._run.answer(self._effect, answer)

    @property
    def is_answered(self) -> bool:
        return self._effect not in self._run.asked


class SagaRun:
    """See `saga`. asked: what the saga has asked for and nobody has answered. dropped: how much came of no use.

    Between any two things that happen its row is written and read again, as after a crash.
    """

    def __init__(self, code: SagaCode, request: object, saga_id: object) -> None:
        self._code = code
        key, data = code.starts(request, saga_id)
        wake = read_wake(data)
        self._now = _BEGINNING.timestamp()
        self.asked: list[Asked] = []
        self.timers: dict[int, float] = {}
        self.dropped = 0
        self._last: Expected | None = None
        self._in_transaction = False
        self._cause: Incoming | None = None
        self._saga, effects = begun(key, wake.version, bytes(wake.data), "test", self._now, wake.deadline_s)
        self._carry_out(effects)
        self._before = self._as_stored()
        self._go_on()

    # --------------------------------------------------------------------------------------------- what it asks for

    def expect_local(self, function: Callable[..., Any], **arguments: Any) -> Expected:
        """The saga runs this local step, with these arguments among others. Unless told otherwise it returns None."""
        return self._expect_named(function, LocalStep, arguments, undo=False)

    def expect_outside(self, function: Callable[..., Any], **arguments: Any) -> Expected:
        """The saga calls this outside function, with these arguments among others: `.gives(...)`, `.fails(...)`, or
        `.breaks()` at this attempt. It is open until the test answers it; an attempt that is not answered within its
        limit is taken for one whose process has died."""
        return self._expect_named(function, OutsideFunction, arguments, undo=False)

    def expect_call(self, command: type, **fields: Any) -> Expected:
        """The saga calls this command, with these fields among others. It is open until the test answers it."""
        return self._expect_command(command, fields, undo=False)

    def expect_undo(self, undo: Callable[..., Any] | type, **fields: Any) -> Expected:
        """The saga undoes something by this local step, outside function or command. Unless told otherwise that
        succeeds."""
        if isinstance(undo, type):
            return self._expect_command(undo, fields, undo=True)
        kind = OutsideFunction if isinstance(self._code.named.get(undo), OutsideFunction) else LocalStep
        return self._expect_named(undo, kind, fields, undo=True)

    def expect_end(self, status: str, result: Any = None) -> None:
        """It has ended like this: "COMPLETED" with this result, or "UNDONE"."""
        self._settle()
        if self.status != status or self.asked:
            raise AssertionError(f"expected that the saga is {status}; it is {self}")
        found = self._code.read_result(bytes(self._saga.result)) if self._saga.returned else None
        if found != result:
            raise AssertionError(f"expected the result {result!r}, found {found!r}")

    def expect_parked(self, reason: str = "") -> None:
        """It waits for a person, for a reason in which this text is."""
        self._settle()
        if self.status != "PARKED" or reason not in self.reason:
            raise AssertionError(f"expected that the saga is parked, for {reason or 'any reason'}; it is {self}")

    # ------------------------------------------------------------------------------------------------- what happens

    def tell(self, event: object) -> None:
        """As `step.tell`."""
        self._settle()
        spec = event_type(type(event))
        self._take(Told(spec.type, spec.write(event)))

    def advance(self, time: datetime.timedelta) -> None:
        """Let so much time pass: what is due on the way happens, in order."""
        self._settle()
        until = self._now + time.total_seconds()
        while self.timers and min(self.timers.values()) <= until:
            number = min(self.timers, key=lambda each: (self.timers[each], each))
            self._now = self.timers.pop(number)
            self._take(Elapsed(number))
            self._settle()
        self._now = until

    def cancel(self) -> None:
        """Somebody wants it undone."""
        self._settle()
        self._take(Cancel())

    def retry(self) -> None:
        """An operator has it go on after it was parked."""
        self._settle()
        self._take(Retry())

    # ------------------------------------------------------------------------------------------------------ its state

    @property
    def status(self) -> str:
        return str(self._saga.status)

    @property
    def reason(self) -> str:
        """Why it is parked, or what failed last."""
        return self._saga.reason

    @property
    def waits_for(self) -> str:
        return self._saga.waits_for

    @property
    def failure(self) -> Failure | None:
        """For which it is undone."""
        return None if self._saga.ending is None else self._saga.ending.failure()

    def __repr__(self) -> str:
        said = ", ".join(self._shown(each) for each in self.asked)
        reason = f", {self.reason}" if self.reason else ""
        return f"{self.status}{reason}" + (f"; it asks for {said}" if said else "; it asks for nothing")

    # -------------------------------------------------------------------------------------------------- for Expected

    def named(self, effect: RunLocal | RunOutside) -> tuple[Named, bytes]:
        """The function that the saga wants, and its arguments."""
        asked = self._saga.outside[effect.number] if isinstance(effect, RunOutside) else effect
        return next(each for each in self._code.named.values() if each.name == asked.name), bytes(asked.data)

    def answer(self, effect: Asked, answer: Answered | Broke) -> None:
        self.asked.remove(effect)
        self._take(answer)

    def breaks(self, effect: Asked, error: str) -> None:
        if not isinstance(effect, RunLocal):
            raise UsageError("only a local step breaks: a command's handler that does is tried again by its service")
        # As the engine does it: of all that followed from what came last nothing is kept, but that it came.
        self._saga = self._before
        if self._cause is not None:
            take(self._saga, self._cause, self._now, values=True)
        known = {*self._saga.sent.values(), *(each.number for each in self._saga.undos)}
        self.asked = [
            each
            for each in self.asked
            if (isinstance(each, Send) and each.number in known)
            or (isinstance(each, RunOutside) and each.number in self._saga.outside)
        ]
        self.timers = {number: due for number, due in self.timers.items() if number in self._saga.timers}
        park(self._saga, error)

    # -------------------------------------------------------------------------------------------------------- inside

    def _take(self, incoming: Incoming) -> None:
        if not self._in_transaction:
            self._before, self._cause = self._as_stored(), incoming
        useful, effects = take(self._saga, incoming, self._now, values=True)
        self.dropped += not useful
        self._carry_out(effects)
        self._go_on()

    def _go_on(self) -> None:
        if not any(isinstance(each, RunLocal) for each in self.asked):
            self._in_transaction = False
            self._carry_out(go_on(self._code, self._saga, self._now, values=True))
        self._saga = self._as_stored()
        if self._saga.status in (Status.UNDOING, *ENDED):
            running = {each.number for each in self._saga.undos} | self._saga.outside.keys()
            self.asked = [each for each in self.asked if each.number in running]

    def _carry_out(self, effects: list[Effect]) -> None:
        for each in effects:
            match each:
                case SetTimer(number, due_at):
                    self.timers[number] = due_at
                    self._saga.timers[number] = f"timer-{number}"
                case CancelTimer(name):
                    self.timers.pop(int(name.removeprefix("timer-")), None)
                case Send(number):
                    self._saga.sent[f"command-{number}"] = number
                    self.asked.append(each)
                case RunOutside():
                    # An attempt before it that is not answered was lost with its process.
                    self.asked = [other for other in self.asked if other.number != each.number]
                    self.asked.append(each)
                case RunLocal():
                    self._in_transaction = True  # until it is done, and what follows from it
                    self.asked.append(each)

    def _as_stored(self) -> Instance:
        return instance_of(row_of(self._saga, 0))

    def _settle(self) -> None:
        """What the test has left open and has nothing to say is done."""
        last, self._last = self._last, None
        if last is not None and not last.is_answered:
            last.is_done()

    def _expect_named(
        self, function: Callable[..., Any], kind: type[Named], arguments: dict[str, Any], *, undo: bool
    ) -> Expected:
        self._settle()
        step = self._code.named.get(function)
        local = kind is LocalStep
        if not isinstance(step, kind):
            noun = "local step" if local else "outside function"
            raise UsageError(f"{function!r:.100} is no {noun} of service {self._code.service}")
        what = f"{'undo' if undo else 'local' if local else 'outside'} {step.name}"
        found = self._found(what, lambda each: not isinstance(each, Send) and self.named(each)[0] is step, undo)
        expected = Expected(self, found, what)
        self._last = expected if undo or (local and step.value is None) else None
        _check(what, arguments, expected.arguments)
        return expected

    def _expect_command(self, command: type, fields: dict[str, Any], *, undo: bool) -> Expected:
        self._settle()
        spec: EventType[Any] = event_type(command)
        what = f"{'undo' if undo else 'call'} {spec.name}"
        found = self._found(what, lambda each: isinstance(each, Send) and each.type == spec.type, undo)
        expected = Expected(self, found, what)
        assert isinstance(spec, CommandType)
        self._last = expected if undo and spec.reply is None else None
        _check(what, fields, {name: getattr(expected.command, name, None) for name in fields})
        return expected

    def _found(self, what: str, fits: Callable[[Asked], bool], undo: bool) -> Asked:
        undos = {each.number for each in self._saga.undos}
        for each in self.asked:
            if fits(each) and (each.number in undos) is undo:
                return each
        raise AssertionError(f"expected {what}; the saga is {self}")

    def _shown(self, effect: Asked) -> str:
        if any(each.number == effect.number for each in self._saga.undos):
            kind = "undo"
        else:
            kind = {RunLocal: "local", RunOutside: "outside", Send: "call"}[type(effect)]
        if isinstance(effect, Send):
            name, data = declared_as(effect.type).name, effect.data
        else:
            named, data = self.named(effect)
            name = named.name
        return f"{kind} {name}({msgspec.json.decode(data)})"


def _check(what: str, expected: dict[str, Any], found: dict[str, Any]) -> None:
    for name, value in expected.items():
        if name not in found or found[name] != value:
            raise AssertionError(f"expected {what} with {name}={value!r}, found {found.get(name)!r}")
