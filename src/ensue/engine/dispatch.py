"""Hand a batch of messages to their handlers inside one open transaction.

Messages whose handlers are all entity steps in memory run together: one load of all their entities, the handlers on
plain objects, one save. Any other handler may do anything to the database: before and after it the session is flushed
and forgets what it knows, so that each message finds what it would find in a transaction of its own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from typing import Any

from ensue import logs
from ensue.codec import RECORD_BYTES_MAX, SENT_GROWTH_BYTES_MAX
from ensue.definition import ServiceDefinition
from ensue.engine.answering import refuse
from ensue.engine.at_hand import AtHand
from ensue.engine.blame import NOT_THE_MESSAGE, blamed, lost_a_race
from ensue.engine.budget import Budget
from ensue.engine.clock import rfc3339
from ensue.engine.entities import Call, EntityRun, begins
from ensue.engine.failed import StepFailed
from ensue.engine.limits import HandlerLimit
from ensue.engine.nesting import handling
from ensue.engine.recurring import Recurring
from ensue.engine.routes import Alone, Route, route_of
from ensue.engine.sagas import FOR_SAGAS, Sagas
from ensue.engine.threads import HandlerThreads
from ensue.errors import BadMessage, UsageError
from ensue.event import EventType
from ensue.failure import Failure, failure_in
from ensue.message import Message, OutboxRecord
from ensue.outgoing import Outgoing
from ensue.ports import Ids, StepTransaction, TopicTerms
from ensue.repository import Repository
from ensue.step import SessionAsked, Step

#: How messages are run: in a session of their own one by one, by their entities in memory, by the rows of sagas.
_PLAIN, _TOGETHER, _SAGAS = "plain", "together", "sagas"
#: More than any budget, and so little that a float still counts microseconds beside it.
_LONG_S = 1e6


class Dispatcher:
    """The handlers of one service, ready to run.

    documents: each entity is a document of its own, see `EntityRun`. sessions: of the store; where there is none, no
    entity step can do anything beside its entities. hallmarked: gives the ids for what a transaction publishes,
    and for nothing else. handler_limit_s: for one call of a handler; 0: any time. timers: see `Outgoing`.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        ids: Ids,
        partitions: int,
        record_bytes_max: int = RECORD_BYTES_MAX,
        *,
        hallmarked: Callable[[], Ids] | None = None,
        documents: bool = False,
        timers: bool = True,
        sessions: bool = True,
        handler_limit_s: float = 0.0,
        show_values: bool = False,
    ) -> None:
        self.limit = HandlerLimit(handler_limit_s)
        self.threads = HandlerThreads(definition.lanes, f"ensue {definition.name}")
        self.definition = definition
        self._documents = documents
        self.timers = timers
        self._sessions = sessions
        self._record_bytes_max = record_bytes_max
        self._limits: dict[str, int] = {}
        places: dict[Repository[Any] | None, int] = {}
        self.routes = {kind: route_of(handlers, places, sessions) for kind, handlers in definition.handlers.items()}
        steps = [each.handler for each in definition.locals.values()]
        self._steps = {each.event.type: route_of([each], places, sessions) for each in steps}
        self.sagas = Sagas(definition, self._run_locals, values=show_values)
        self._saga_s = 0.0  # what the local steps of one message for a saga took, the last time
        self._ids = ids
        self._hallmarked = hallmarked or (lambda: ids)
        self._partitions = partitions
        self.recurring = Recurring(definition, self._hallmarked, partitions)
        self._types: dict[type, EventType[Any]] = {}
        self._aggregates = frozenset(definition.aggregates)
        self._allowed = None if definition.publishes is None else frozenset((*definition.publishes, *definition.calls))

    def only_handler(self, kind: str) -> str:
        """The name of the handler of an event type; empty when it has several, or none."""
        handlers = self.definition.handlers.get(kind, ())
        return handlers[0].name if len(handlers) == 1 else ""

    def wants_snapshot(self, messages: Sequence[Message]) -> bool:
        """Whether a handler of these may change what it read without a lock; entity steps have their rows locked."""
        kinds = {message.envelope.type for message in messages}
        if kinds.isdisjoint(FOR_SAGAS):
            routes = [self.routes[kind] for kind in kinds]
        else:
            owns = self.sagas.owns
            routes = [self.routes[kind] for kind in {each.envelope.type for each in messages if not owns(each)}]
            if any(map(owns, messages)):
                routes += self._steps.values()  # whichever the sagas come to
        return not all(route.together and route.locked for route in routes)

    def heed(self, topic: str, terms: TopicTerms | None) -> None:
        """From now on publish nothing to the topic that the broker is known to refuse."""
        told = None if terms is None else terms.record_bytes_max
        if told is not None and told < self._record_bytes_max + SENT_GROWTH_BYTES_MAX:
            self._limits[topic] = told
        else:
            self._limits.pop(topic, None)

    @property
    def limits(self) -> Mapping[str, int]:
        """Bytes that a record of a topic may take, where the broker has said so: see `Outgoing`."""
        return self._limits

    def outgoing(self, transaction: StepTransaction) -> Outgoing:
        """What steps of this transaction publish; it goes with their savepoints."""
        outgoing = Outgoing(
            self.definition.name,
            self._hallmarked(),
            self._partitions,
            rfc3339(transaction.now),
            self._types,
            self._allowed,
            self._record_bytes_max,
            self._limits,
            self.timers,
            self.definition.is_view,
            self._aggregates,
        )
        transaction.follow(outgoing.records)
        return outgoing

    def outside_step(self, transaction: StepTransaction, correlation_id: str, traceparent: str, key: str) -> Step:
        """A step that no message began."""
        outgoing = self.outgoing(transaction)
        return Step(transaction, outgoing, None, correlation_id or self._ids.next(), traceparent, key)

    def declined(self, kind: str, failure: StepFailed) -> Failure | None:
        """What a command of this type is answered with whose handler raised a Failure; None: it is a failure like any
        other."""
        route = self.routes.get(kind)
        return failure_in(failure.error) if route is not None and route.calls[0].handler.command else None

    def refusal(self, transaction: StepTransaction, message: Message, failure: Failure) -> list[OutboxRecord]:
        """What goes out when a command is answered with a failure. Raises StepFailed when that cannot be said."""
        outgoing = self.outgoing(transaction)
        step = Step(transaction, outgoing, message, message.correlation_id, message.envelope.traceparent)
        try:
            refuse(step, failure)
        except (UsageError, BadMessage) as error:  # its values, or where the answer is wanted
            raise StepFailed(0, error, self.only_handler(message.type)) from error
        return outgoing.close()

    async def apply(
        self,
        transaction: StepTransaction,
        messages: Sequence[Message],
        outgoing: Outgoing,
        budget: Budget | None = None,
        at_hand: AtHand | None = None,
    ) -> int:
        """Run the handlers of `messages` in order; return how many were handled: all, or those before the budget was
        spent, at least one. What they publish is in `outgoing`, not yet in the outbox. at_hand: is told what runs.

        Raises StepFailed with the index of the message whose handler failed, and SessionAsked: roll back, begin anew.
        """
        with handling(self.definition.name):
            return await self._runs(
                self.routes, transaction, messages, outgoing, budget or Budget(), at_hand or AtHand()
            )

    async def _runs(
        self,
        routes: dict[str, Route],
        transaction: StepTransaction,
        messages: Sequence[Message],
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> int:
        at_hand.work(messages)
        start, end = 0, len(messages)
        ways = self._ways(routes, messages)
        try:
            while start < end:
                stop = start + 1
                while stop < end and ways[stop] is ways[start]:
                    stop += 1
                if start and ways[start] is not _PLAIN:
                    await transaction.flush(forget=True)
                if ways[start] is _SAGAS:
                    count = await self._saga_run(transaction, messages, start, stop, outgoing, budget, at_hand)
                elif ways[start] is _TOGETHER:
                    count = await self._entity_run(
                        routes, transaction, messages, start, stop, outgoing, budget, at_hand
                    )
                else:
                    count = await self._plain_run(routes, transaction, messages, start, stop, outgoing, budget, at_hand)
                at_hand.rest()
                start += count
                if budget.left_s <= 0:
                    break
        finally:
            at_hand.leave()
            logs.at_hand.set(None)
        return start

    def _ways(self, routes: dict[str, Route], messages: Sequence[Message]) -> list[str]:
        """How each is run. By the types, which are few, since most messages are many of one."""
        kinds = [each.envelope.type for each in messages]
        if routes is self.routes and not FOR_SAGAS.isdisjoint(kinds):
            owns = self.sagas.owns
            return [_SAGAS if owns(each) else _way(routes[each.envelope.type]) for each in messages]
        ways = {kind: _way(routes[kind]) for kind in set(kinds)}
        return [ways[kind] for kind in kinds]

    async def _saga_run(
        self,
        transaction: StepTransaction,
        messages: Sequence[Message],
        start: int,
        stop: int,
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> int:
        """As many as are likely to be done in time, by what the last ones took: they go on side by side, to the end."""
        if self._saga_s and budget.left_s < float("inf"):
            stop = min(stop, start + max(1, int(budget.left_s / self._saga_s)))
        steps = Budget(_LONG_S, budget.now)
        mine = [(index, messages[index]) for index in range(start, stop)]
        await self.sagas.run(transaction, mine, outgoing, steps, at_hand)
        spent_s = _LONG_S - steps.left_s
        budget.left_s -= spent_s
        self._saga_s = spent_s / len(mine)
        at_hand.work(messages)
        return stop - start

    async def _run_locals(
        self,
        transaction: StepTransaction,
        messages: Sequence[Message],
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> None:
        done = 0
        while done < len(messages):
            if done:
                await transaction.flush(forget=True)
            left = messages[done:]
            try:
                done += await self._runs(self._steps, transaction, left, outgoing, budget, at_hand)
            except StepFailed as failed:
                if failed.index is None or not done:
                    raise
                raise StepFailed(done + failed.index, failed.error, failed.handler) from failed
        await transaction.flush(forget=True)  # what comes next, of other sagas too, finds what these have left

    async def _plain_run(
        self,
        routes: dict[str, Route],
        transaction: StepTransaction,
        messages: Sequence[Message],
        start: int,
        stop: int,
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> int:
        index = start
        call: Call | None = None
        try:
            for index in range(start, stop):
                if budget.left_s <= 0 and index > start:
                    return index - start
                if index and index == start:
                    await transaction.flush(forget=True)  # what entity steps have left
                call = None
                message = messages[index]
                route = routes[message.envelope.type]
                event = route.read(message.data)
                if self.recurring.has(message.type):
                    passed_over, timer = await self.recurring.follow(transaction, message)
                    if timer is not None:
                        outgoing.records.append(timer)
                    if passed_over:
                        continue
                envelope = message.envelope
                step = Step(
                    transaction, outgoing, message, envelope.correlation_id or envelope.id, envelope.traceparent
                )
                logs.at_hand.set(message)
                if at_hand.trace is not None:
                    begins(at_hand.trace, message, route.calls)
                for call in route.calls:
                    if call.repository is not None:
                        await transaction.flush(forget=True)  # as before a run of entity steps
                        one = Alone(event, (call,))
                        run = EntityRun(transaction, outgoing, self.limit, at_hand.trace, documents=self._documents)
                        at_hand.run(index, run)
                        await run.run([message], [one], budget)
                        at_hand.rest()
                        continue
                    at_hand.call(index, call)
                    began = budget.now()
                    inside = copy_context().run  # what a handler sets there (a tenant, say) is of its message alone
                    if call.asynchronous:
                        result = inside(call.call, None, event, step)
                    else:
                        result = await self.threads.run(at_hand, inside, _in_thread, call.call, event, step)
                    if call.answer is not None:
                        await call.answer(call.handler, result, step, self.limit, inside)
                    elif result is not None:
                        rest = self.limit.rest(call.handler, result, inside)
                        if rest is not None:
                            await rest
                    budget.left_s -= budget.now() - began
                    at_hand.rest()
                if len(route.calls) > 1:
                    call = None
                await outgoing.streams.save(transaction)
                await transaction.flush(forget=True)  # before anything is believed of it: may it commit?
        except NOT_THE_MESSAGE:
            raise
        except BaseException as error:
            raise StepFailed(index, blamed(error), _name(call)) from error
        return stop - start

    async def _entity_run(
        self,
        routes: dict[str, Route],
        transaction: StepTransaction,
        messages: Sequence[Message],
        start: int,
        stop: int,
        outgoing: Outgoing,
        budget: Budget,
        at_hand: AtHand,
    ) -> int:
        run = EntityRun(transaction, outgoing, self.limit, at_hand.trace, documents=self._documents)
        at_hand.run(start, run)
        try:
            mine = messages[start:stop]
            found = [routes[each.envelope.type] for each in mine]
            count = await run.run(mine, found, budget, guarded=self._sessions and stop - start > 1)
            await transaction.flush()  # one that was alone may have had the session: may it commit?
            return count
        except NOT_THE_MESSAGE:
            raise
        except SessionAsked:
            assert run.index is not None
            kind = messages[start + run.index].envelope.type
            routes[kind] = dataclasses.replace(routes[kind], together=False)
            raise
        except BaseException as error:
            index = None if run.index is None else start + run.index
            handler = self._at_fault(messages, start, stop, index, run.call)
            made = run.made if lost_a_race(error) else 0
            raise StepFailed(index, blamed(error), handler, made=made) from error
        finally:
            outgoing.guarded = False

    def _at_fault(
        self, messages: Sequence[Message], start: int, stop: int, index: int | None, call: Call | None
    ) -> str:
        if index is not None:
            return _name(call)
        return self.only_handler(messages[start].envelope.type) if stop - start == 1 else ""


def _way(route: Route) -> str:
    return _TOGETHER if route.together else _PLAIN


def _name(call: Call | None) -> str:
    return "" if call is None else call.handler.name


def _in_thread(call: Callable[[Any, Any, Step], Any], event: Any, step: Step) -> Any:
    """Call a plain handler, and give other names to what means something else where its result is awaited.

    A future takes no StopIteration, a GeneratorExit closes whoever awaits it, and Ctrl-C is not raised in a thread.
    """
    try:
        return call(None, event, step)
    except StopIteration as error:
        raise RuntimeError("the handler raised StopIteration: next() on something that had ended?") from error
    except (GeneratorExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
