"""Dead letters and decisions in Django's admin. What is decided there is decided by `ensue.operations`."""

from __future__ import annotations

import asyncio
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.admin.helpers import ActionForm
from django.utils.translation import ngettext

from ensue.deciding import REASON_CHARS_MAX, Deciding, Face
from ensue.errors import EnsueError
from ensue.integrations.django.models import DeadLetter, Decision
from ensue.integrations.django.project import service
from ensue.message import DeadLetterState
from ensue.operations import letter_decisions
from ensue.operations.opening import opened


class ReasonForm(ActionForm):
    reason = forms.CharField(required=False, max_length=REASON_CHARS_MAX, label="Reason")


class _Shown(admin.ModelAdmin):
    """Of the service's database. Nothing is added, changed or deleted by the admin itself."""

    actions_on_top = True

    def get_queryset(self, request: Any) -> Any:
        return super().get_queryset(request).using(service().using)

    def has_add_permission(self, request: Any) -> bool:
        return False

    def has_delete_permission(self, request: Any, obj: Any = None) -> bool:
        return False


@admin.register(DeadLetter)
class DeadLetterAdmin(_Shown):
    action_form = ReasonForm
    list_display = ("id", "state", "place", "key", "event", "attempts", "set_aside", "error_type")
    list_filter = ("state", "error_type")
    search_fields = ("id", "place", "error")
    fields = readonly_fields = (
        "id", "state", "place", "log_offset", "position", "key", "event", "text", "attempts", "set_aside",
        "error_type", "error",
    )  # fmt: skip
    actions = ("retry", "discard")

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        """Of one letter there is nothing to save; what is decided on several asks for this right by itself."""
        return False

    def has_decide_permission(self, request: Any) -> bool:
        return bool(request.user.has_perm("ensue.change_deadletter"))

    @admin.action(description="Try again", permissions=["decide"])
    def retry(self, request: Any, queryset: Any) -> None:
        self._decide(request, queryset, DeadLetterState.RELEASED)

    @admin.action(description="Give up for good", permissions=["decide"])
    def discard(self, request: Any, queryset: Any) -> None:
        self._decide(request, queryset, DeadLetterState.DISCARDED)

    def _decide(self, request: Any, queryset: Any, state: DeadLetterState) -> None:
        reason = str(request.POST.get("reason", "")).strip()
        if not reason:
            self.message_user(request, "Nothing was done: say why, in the field Reason", messages.ERROR)
            return
        try:
            by = Deciding(actor=request.user.get_username(), origin=Face.ADMIN, reason=reason)
            done, refused = asyncio.run(decide([str(each.pk) for each in queryset], state, by))
        except EnsueError as error:
            self.message_user(request, str(error), messages.ERROR)
            return
        if done:
            text = ngettext("%(n)d dead letter: %(state)s", "%(n)d dead letters: %(state)s", done)
            self.message_user(request, text % {"n": done, "state": state.value}, messages.SUCCESS)
        for each in refused:
            self.message_user(request, each, messages.WARNING)


async def decide(ids: list[str], state: DeadLetterState, by: Deciding) -> tuple[int, list[str]]:
    """Decide on each letter in a transaction of its own. Returns how many, and why others were not."""
    refused: list[str] = []
    async with opened(service()) as access:
        one = letter_decisions.retry if state is DeadLetterState.RELEASED else letter_decisions.discard
        for each in ids:
            try:
                await one(access, each, by)
            except EnsueError as error:
                refused.append(str(error))
    return len(ids) - len(refused), refused


@admin.register(Decision)
class DecisionAdmin(_Shown):
    list_display = ("when", "actor", "origin", "action", "target", "reason")
    list_filter = ("origin", "action")
    search_fields = ("actor", "target", "reason")
    fields = readonly_fields = (
        "when", "actor", "origin", "action", "target", "reason", "state_before", "state_after",
    )  # fmt: skip

    def has_change_permission(self, request: Any, obj: Any = None) -> bool:
        return False
