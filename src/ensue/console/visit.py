"""One request to the console, of somebody who was let in: what the screens are given to work with."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ensue.addresses import masked
from ensue.console import forms
from ensue.console.access import Action, Actor, Authorize, Role, deciding, why_not
from ensue.console.cookies import found_cookie
from ensue.console.forms import Form
from ensue.console.pace import Pace
from ensue.console.payloads import Payloads, mode_for, shown, shown_error, shown_headers
from ensue.console.rendering import Rendering, as_json, link
from ensue.console.runs import Run, Runs, RunState, Work
from ensue.console.services import Services
from ensue.contracts.files import Committed
from ensue.deciding import Deciding, Face
from ensue.errors import UsageError
from ensue.operations.groups import Group
from ensue.operations.letters import Letter, LetterLine
from ensue.operations.opening import Opened
from ensue.operations.readable import read_json

T = TypeVar("T")
Failed = TypeVar("Failed", Letter, LetterLine, Group)

#: The screens in the head of each page.
SCREENS = (
    ("/", "Overview"),
    ("/failures", "Failures"),
    ("/flow", "Flow"),
    ("/sagas", "Sagas"),
    ("/views", "Views"),
    ("/losses", "Losses"),
    ("/outbox", "Outbox"),
    ("/topology", "Topology"),
    ("/decisions", "Decisions"),
)
_FIELDS_MAX = 40
_NUMBER = re.compile("[0-9]{1,18}")


@dataclasses.dataclass(frozen=True)
class Console:
    """What all requests have in common."""

    services: Services
    authorize: Authorize
    payloads: Mapping[Role, Payloads]
    trusted_origins: Collection[str]
    answer_s: float
    """How long a page may take."""
    publishing: bool = False
    trace_url: str = ""
    committed: Mapping[str, Committed] | None = None
    pace: Pace = dataclasses.field(default_factory=Pace)
    runs: Runs = dataclasses.field(default_factory=Runs)
    rendering: Rendering = dataclasses.field(default_factory=Rendering)


@dataclasses.dataclass(frozen=True)
class Payload:
    """Users' data as a page shows it. note: why it is not all of it; empty: it is."""

    text: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Fields:
    """What a form brought. Each of these raises UsageError for what the console's own pages would not send."""

    form: Form
    _values: Mapping[str, str]

    def text(self, name: str, otherwise: str | None = None) -> str:
        return _needed(name, self._values.get(name, otherwise))

    def number(self, name: str) -> int:
        return _number(name, self.text(name))

    def one_of(self, name: str, choices: Mapping[str, T]) -> T:
        found = choices.get(self.text(name))
        if found is None:
            raise UsageError(f"{name}={self.text(name):.80}: expected one of {', '.join(choices)}")
        return found


@dataclasses.dataclass(frozen=True)
class Visit:
    console: Console
    request: Request
    actor: Actor
    here: str
    """The screen in the head that the page belongs to."""
    cookie: str
    """That forms go by."""

    @property
    def services(self) -> Services:
        return self.console.services

    @property
    def runs(self) -> Runs:
        return self.console.runs

    @property
    def payloads(self) -> Payloads:
        return mode_for(self.actor, self.console.payloads)

    @property
    def shows_all(self) -> bool:
        return self.payloads is Payloads.FULL

    @property
    def root(self) -> str:
        return root_of(self.request)

    def opened(self, service: str, *, broker: bool = False) -> AbstractAsyncContextManager[Opened]:
        return self.services.opened(service, broker=broker)

    # --- what the address asks for

    def asked(self, name: str, otherwise: str | None = None) -> str:
        return _needed(name, self.request.query_params.get(name, otherwise))

    def asked_number(self, name: str, otherwise: int | None = None) -> int:
        text = self.request.query_params.get(name, "")
        return otherwise if otherwise is not None and not text else _number(name, text)

    # --- what is shown

    def page(
        self,
        template: str,
        *,
        changes: Sequence[str] = (),
        watched_run: str = "",
        http_status: int = 200,
        **values: Any,
    ) -> HTMLResponse:
        """changes: of these services have the page looked at anew. watched_run: of this run."""
        watched = "&".join(link("", service=each)[1:] for each in changes)
        now = time.time()
        common = {
            "root": self.root,
            "actor": self.actor,
            "actor_role": highest(self.actor),
            "screens": SCREENS,
            "here": self.here,
            "changes": link("", run=watched_run)[1:] if watched_run else watched,
            "form_token": forms.issue(self.cookie, now),
            "now": now,
            "outcome": self._outcome(),
        }
        return HTMLResponse(self.console.rendering.page(template, common | values), http_status)

    def _outcome(self) -> Mapping[str, str] | None:
        run = self.runs.get(self.request.query_params.get("done", ""))
        if run is None:
            return None
        return {"kind": "bad" if run.state is RunState.FAILED else "good", "text": run.said}

    def payload(self, data: bytes) -> Payload:
        return Payload(*_shown(read_json(data), self.payloads))

    def error(self, text: str) -> str:
        """Of an error, or of why a saga is parked, what may be shown."""
        return shown_error(text, self.payloads)

    def without_messages(self, each: Failed) -> Failed:
        """A letter, or a group, with as much of its error as may be shown."""
        return msgspec.structs.replace(each, error=self.error(each.error))

    def headers(self, headers: Mapping[str, Any]) -> Mapping[str, Any]:
        return shown_headers(headers, self.payloads)

    def may(self, actions: Mapping[str, Action]) -> Mapping[str, bool]:
        """Which of these the actor may do."""
        return {name: self.actor.may(action) for name, action in actions.items()}

    async def why_not(self, action: Action = Action.SEE) -> str:
        """Ask the host again; why the actor may not do this any more, empty: they may."""
        return await why_not(self.console.authorize, self.request, self.actor, action)

    # --- what is decided

    async def form(self) -> Fields:
        """The form that was sent. Raises UsageError for one that no page of the console in this browser has shown."""
        body = await self.request.body()
        try:
            pairs = parse_qsl(
                body.decode(), keep_blank_values=True, max_num_fields=_FIELDS_MAX, strict_parsing=bool(body)
            )
        except (UnicodeDecodeError, ValueError) as error:
            raise UsageError(f"the request's body is no form: {error}") from error
        values = dict(pairs)
        cookie = found_cookie(forms.COOKIE, self.request)
        return Fields(forms.check(values.get("form", ""), cookie, time.time()), values)

    def deciding(self, action: Action, reason: str) -> Deciding:
        """Raises NotAllowed, and UsageError without a reason."""
        return deciding(self.actor, action, Face.CONSOLE, reason)

    async def decided(
        self, fields: Fields, title: str, by: Deciding, subject: tuple[str, str], back: str, work: Work
    ) -> Response:
        """Do it, once for each form, and go back to the page, which says what has come of it. What takes longer than a
        page may goes on, on a page that shows how far it is."""
        run = self.runs.in_background(self._run(fields, title, by, subject, back), work)
        if not await run.is_over_within(self.console.answer_s):
            return self.see(link("/run", id=run.id))
        return self.see(f"{back}&{link('', done=run.id)[1:]}")

    def begun(
        self, fields: Fields, title: str, by: Deciding, subject: tuple[str, str], back: str, work: Work
    ) -> Response:
        """Begin it, once for each form, and go to the page that shows how far it is."""
        run = self.runs.in_background(self._run(fields, title, by, subject, back), work)
        return self.see(link("/run", id=run.id))

    def _run(self, fields: Fields, title: str, by: Deciding, subject: tuple[str, str], back: str) -> Run:
        # A form belongs to whoever was shown it: its cookie is part of the name.
        return Run(forms.run_id(fields.form, self.cookie, title), title, by.actor, by.reason, subject, back)

    def see(self, path: str) -> Response:
        return RedirectResponse(f"{self.root}{path}", 303)


def root_of(request: Request) -> str:
    """The prefix under which the console is."""
    return str(request.scope.get("root_path", "")).rstrip("/")


def highest(actor: Actor) -> str:
    return next((each.value for each in reversed(Role) if each in actor.roles), "no role")


def said(error: Exception) -> str:
    return masked(str(error))


def _shown(data: Any, mode: Payloads) -> tuple[str, str]:
    if mode is Payloads.NONE:
        return "", "Payloads are not shown here."
    notes = {Payloads.MASKED: "Values are masked here.", Payloads.LIMITED: "Long values are cut here."}
    found = shown(data, mode)
    return found if isinstance(found, str) else as_json(found), notes.get(mode, "")


def _needed(name: str, value: str | None) -> str:
    if value is None:
        raise UsageError(f"{name} is missing: follow the links of the console's pages")
    return value


def _number(name: str, text: str) -> int:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"{name}={text[:40]!r}, expected a number such as 12")
    return int(text)


def read(raw: msgspec.Raw) -> Any:
    return read_json(bytes(raw))
