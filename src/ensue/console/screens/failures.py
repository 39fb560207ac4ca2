"""Failures: groups of letters by their cause, one group, lists of letters, one letter; and what is decided on them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

import msgspec
from starlette.responses import Response

from ensue.console.access import Action
from ensue.console.rendering import as_json, link
from ensue.console.runs import Run, RunState
from ensue.console.visit import Visit
from ensue.deciding import Deciding
from ensue.errors import UsageError
from ensue.message import DeadLetter, DeadLetterState
from ensue.operations import editing, group_decisions, letter_decisions, letters
from ensue.operations.group_decisions import End, Progress, WhyNot
from ensue.operations.groups import FAILED, Grouping, cause_of
from ensue.operations.letter_decisions import Outcome
from ensue.operations.letters import HOLDING, LetterLine
from ensue.operations.opening import Opened
from ensue.operations.repeats import done_once, fingerprint_of, key_of

#: Letters on one page.
_PAGE = 100
#: Data that is longer is not edited in a browser.
_EDITED_BYTES_MAX = 256_000
_OF_GROUPS = {"retry": Action.LETTER_RETRY, "discard": Action.LETTER_DISCARD}
_OF_LISTS = {"purge": Action.LETTER_PURGE}
#: What nothing waits for any more.
_PURGED = (DeadLetterState.DISCARDED, DeadLetterState.REFUSED)
_OF_LETTERS = {**_OF_GROUPS, "edit": Action.LETTER_EDIT}


async def failures(visit: Visit) -> Response:
    """What has failed in all services, the largest group first."""
    answers = await visit.services.each(group_decisions.groups)
    groups = [(each.service, visit.without_messages(group)) for each in answers for group in each.found or ()]
    groups.sort(key=lambda each: (each[1].dead + each[1].retrying, each[1].last_at), reverse=True)
    troubles = [each for each in answers if each.error]
    return visit.page("failures", changes=visit.services.names, troubles=troubles, groups=groups)


async def group(visit: Visit) -> Response:
    """One group: what its letters have in common, and the first of them behind where the page begins."""
    service, name = visit.asked("service"), visit.asked("name")
    after = visit.asked("after", "")
    grouping, lines = Grouping(), _Pages(after)
    async with visit.opened(service) as access, aclosing(access.books.letters_by_time(FAILED)) as found:
        async for each in found:
            if grouping.add(each).name == name:
                lines.take(each)
    of = next((visit.without_messages(each) for each in grouping.groups if each.name == name), None)
    return visit.page(
        "group",
        changes=[service],
        title=f"Group {name} of {service}" if of is None else f"{of.error_type} in {of.handler or service}",
        service=service,
        group=of,
        letters=[visit.without_messages(each) for each in lines.page],
        next_page=lines.next_page("/group", service=service, name=name),
        runs=visit.runs.about((service, name))[:5],
        may=visit.may(_OF_GROUPS),
    )


class _Pages:
    """The letters of one page, out of a list that goes by. after: the id behind which it begins; empty: the first."""

    def __init__(self, after: str) -> None:
        self._waiting = after
        self.page: list[LetterLine] = []
        self.more = False

    def take(self, letter: DeadLetter) -> None:
        if self._waiting:
            self._waiting = "" if letter.id == self._waiting else self._waiting
        elif len(self.page) < _PAGE:
            self.page.append(letters.line_of(letter))
        else:
            self.more = True

    def next_page(self, path: str, **parameters: str) -> str:
        return link(path, **parameters, after=self.page[-1].id) if self.more else ""


async def all_letters(visit: Visit) -> Response:
    """Letters of a service, in the order of setting aside."""
    service, state, after = visit.asked("service"), visit.asked("state", ""), visit.asked("after", "")
    known = [each.value for each in DeadLetterState]
    if state and state not in known:
        raise UsageError(f"state={state}: expected one of {', '.join(known)}, or nothing")
    states: Sequence[DeadLetterState] = (DeadLetterState(state),) if state else HOLDING
    lines = _Pages(after)
    async with visit.opened(service) as access:
        total = await letters.letter_count(access, states)
        purgeable = await letters.letter_count(access, _PURGED)
        async with aclosing(access.books.letters_by_time(states)) as found:
            async for each in found:
                lines.take(each)
                if lines.more:
                    break
    return visit.page(
        "letters",
        changes=[service],
        service=service,
        state=state,
        states=known,
        total=total,
        letters=[visit.without_messages(each) for each in lines.page],
        next_page=lines.next_page("/letters", service=service, state=state),
        purgeable=purgeable if set(states) <= set(_PURGED) else 0,
        may=visit.may(_OF_LISTS),
    )


async def purge(visit: Visit) -> Response:
    """The form of the list of letters that were discarded or refused: delete the old ones of both."""
    fields = await visit.form()
    service, count, days = fields.text("service"), fields.number("count"), fields.number("days")
    by = visit.deciding(fields.one_of("do", _OF_LISTS), fields.text("reason"))

    async def work(run: Run) -> None:
        async with visit.opened(service) as access:
            there = await letters.letter_count(access, _PURGED)
            if there != count:
                raise UsageError(
                    f"{service} has {there} discarded and refused letters now, and {count} was typed: nothing was "
                    "deleted; look at them again"
                )
            deleted = await letter_decisions.purge(access, days * 86400.0, by)
            run.tell(f"{deleted} of {there} discarded and refused letters deleted, for good")

    back = link("/letters", service=service, state=fields.text("state", ""))
    return await visit.decided(fields, f"purge letters of {service}", by, (service, "purge"), back, work)


async def letter(visit: Visit) -> Response:
    """One letter, with all that is known of it."""
    service, letter_id = visit.asked("service"), visit.asked("id")
    async with visit.opened(service) as access:
        found = await letters.letter(access, letter_id)
    failed = found.state in FAILED
    return visit.page(
        "letter",
        changes=[service],
        service=service,
        letter=visit.without_messages(found),
        group=cause_of(found.error_type, found.error).name if failed else "",
        payload=visit.payload(found.raw),
        headers=visit.headers(found.headers),
        open=found.state in (*FAILED, DeadLetterState.WAITING),
        editable=_editable(visit, found.raw) if failed else None,
        seen=editing.seen_of(found.raw) if visit.shows_all else "",
        may=visit.may(_OF_LETTERS),
    )


def _editable(visit: Visit, raw: bytes) -> str | None:
    """The data as somebody can change it; None: they cannot, since it is no JSON, too long, or not shown whole here."""
    if not visit.shows_all or len(raw) > _EDITED_BYTES_MAX:
        return None
    try:
        return as_json(msgspec.Raw(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
        return None


async def decide_on_letter(visit: Visit) -> Response:
    """A form of the page of one letter."""
    fields = await visit.form()
    service, letter_id, do = fields.text("service"), fields.text("id"), fields.text("do")
    by = visit.deciding(fields.one_of("do", _OF_LETTERS), fields.text("reason"))
    if do == "edit" and not visit.shows_all:
        raise UsageError("payloads are not shown whole here, so nothing can be edited: use ensue dead-letters edit")
    data, seen = (fields.text("data"), fields.text("seen")) if do == "edit" else ("", "")

    async def work(run: Run) -> None:
        async with visit.opened(service) as access:
            if do == "edit":
                line = await editing.edit(access, letter_id, data.encode("utf-8", "surrogatepass"), by, seen)
            elif do == "retry":
                [known] = await letter_decisions.chosen(access, [letter_id])
                if known.garbage:
                    raise UsageError(f"dead letter {letter_id} is no message: no handler can take it, so discard it")
                line = await letter_decisions.retry(access, letter_id, by)
            else:
                line = await letter_decisions.discard(access, letter_id, by)
            run.tell(f"{line.id}, key {line.key}: {line.state.value}{await _idle(access)}")

    back = link("/letter", service=service, id=letter_id)
    return await visit.decided(fields, f"{do} {letter_id}", by, (service, letter_id), back, work)


async def _idle(access: Opened) -> str:
    return "" if await letters.anybody_works(access) else "; no worker lives, so it takes effect when one runs"


async def decide_on_group(visit: Visit) -> Response:
    """A form of the page of a group: goes on by itself, on a page of its own."""
    fields = await visit.form()
    service, name, do = fields.text("service"), fields.text("name"), fields.text("do")
    by = visit.deciding(fields.one_of("do", _OF_GROUPS), fields.text("reason"))
    count, seen = (fields.number("count"), fields.text("seen")) if do == "discard" else (0, "")
    # Kept with the service, so that another process of the console knows the form too.
    key = key_of(by.actor, "POST", f"console /group {do}", fields.form.id)

    async def work(run: Run) -> None:
        fingerprint = fingerprint_of(*map(str.encode, (service, name, do, str(count), seen)))
        async with visit.opened(service) as access, done_once(access, key, fingerprint) as repeated:
            if repeated.answer is not None:
                run.tell(f"this form was sent before, and did this: {repeated.answer.body.decode()}")
                return
            if do == "retry":
                may_go_on = partial(visit.why_not, Action.LETTER_RETRY)
                async for each in group_decisions.retry_group(access, name, by, why_not=may_go_on):
                    repeated.started = True
                    _tell(run, each)
                if not repeated.started:
                    run.tell("no letter of it is dead: the service still tries those that are retrying")
            else:
                # What has died since the person looked is not given up with it.
                ids = await group_decisions.group_ids(access, name)
                group_decisions.check_confirmed(name, ids, count, seen)
                repeated.started = True
                await _discarded(run, access, name, by, ids, partial(visit.why_not, Action.LETTER_DISCARD))
            await repeated.keep(200, {}, run.said.encode())

    back = link("/group", service=service, name=name)
    return visit.begun(fields, f"{do} group {name} of {service}", by, (service, name), back, work)


def _tell(run: Run, each: Progress) -> None:
    """Say how far a retry is. Of all its letters: those of the waves before, of this wave, and what is left."""
    of_wave = each.settled + each.pending + len(each.failed)
    if run.wave != each.wave:
        run.wave, run.before_wave = each.wave, run.done
    run.tell(_said(each), run.before_wave + each.settled, run.before_wave + of_wave + each.left)
    if each.end not in (None, End.THROUGH):
        run.state = RunState.FAILED
        why = f"{', '.join(each.failed[:10])} failed again" if each.failed else "nothing happened to it for a minute"
        why = each.why or why
        run.tell(f"{_said(each)}. Tried no further, since {why}; {each.left} were not released", run.done)


def _said(each: Progress) -> str:
    counts = {
        "released": each.released, "behind them": each.behind, "took effect": each.settled, "pending": each.pending,
        "failed again": len(each.failed), "passed over": each.passed, "not released": each.left,
    }  # fmt: skip
    said = ", ".join(f"{count} {name}" for name, count in counts.items() if count or name == "took effect")
    return f"wave {each.wave} of {each.waves}: {said}"


async def _discarded(run: Run, access: Opened, name: str, by: Deciding, ids: frozenset[str], why_not: WhyNot) -> None:
    decided = passed = 0
    async with aclosing(group_decisions.discard_group(access, name, by, ids, why_not=why_not)) as found:
        async for each in found:
            decided += each.outcome is Outcome.DECIDED
            passed += each.outcome is not Outcome.DECIDED
            run.tell(f"{decided} discarded" + (f", {passed} passed over" if passed else ""), decided + passed, len(ids))


async def progress(visit: Visit) -> Response:
    """How far something is that goes on by itself."""
    run = visit.runs.get(visit.asked("id"))
    if run is None:
        raise UsageError("the console does not know this any more: it keeps the last ones while it runs; see Decisions")
    return visit.page("run", run=run, watched_run=run.id)
