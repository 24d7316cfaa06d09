"""What the admin pages of all apps share."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from gpufleet.common import audit
from gpufleet.common.asking import AgreeForm, Answers, Question, asks, counted, silently
from gpufleet.common.errors import DomainError
from gpufleet.common.models import AuditEntry, IdempotentResponse
from gpufleet.common.panels import panels_of
from gpufleet.common.senders import person_of as actor_of

__all__ = [
    "AgreeForm",
    "Answers",
    "ConsoleAdmin",
    "Question",
    "ReadOnlyAdmin",
    "ServiceAdmin",
    "action_on",
    "actor_of",
    "asked_once",
    "asks",
    "counted",
    "report",
    "shown_during",
    "silently",
]


Action = Callable[[Any, HttpRequest, Any], HttpResponse | None]
_actions_of: dict[type[Model], list[tuple[str, Action]]] = {}


def action_on(model: type[Model], *, description: str, permission: str) -> Callable[[Action], Action]:
    """Add an action to the list of a lower app's model, whose own admin knows nothing of it. For whoever lacks the
    permission there is no such action."""

    def register(action: Action) -> Action:
        _actions_of.setdefault(model, []).append((permission, admin.action(description=description)(action)))
        return action

    return register


class ConsoleAdmin(ModelAdmin):  # type: ignore[misc]  # unfold is untyped
    """What all of our models' pages have: the actions of apps above, and on a row's own page its panels and buttons."""

    change_form_outer_before_template = "admin/row_page.html"

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """The model's own, and those that apps above have added."""
        actions: dict[str, Any] = super().get_actions(request)
        for permission, action in _actions_of.get(self.model, []):
            name = action.__name__
            if request.user.has_perm(permission):
                actions[name] = (action, name, getattr(action, "short_description", name))
        return actions

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list. An action that this person may not run is refused; Django would show the list as if nothing was."""
        wanted = {name for name in request.POST.getlist("action") if name}
        if not wanted <= set(self.get_actions(request)):
            raise PermissionDenied
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def applies(self, action: str, row: Any) -> bool:
        """Whether a button for this action makes sense on the page of this row."""
        return True

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Any = None, **kwargs: Any
    ) -> HttpResponse:
        """With the row's panels, and a button for each action that this person may run on it."""
        if obj is not None:
            context["panels"] = panels_of(request, obj)
            context["buttons"] = [
                (name, label) for _, name, label in self.get_actions(request).values() if self.applies(name, obj)
            ]
            meta = self.model._meta
            context["list_url"] = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
        response: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kwargs)
        return response


class ReadOnlyAdmin(ConsoleAdmin):
    """Rows that only services write: ledger, events, outboxes. People look; actions go through services."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds one by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one by hand."""
        return False


class ServiceAdmin(ConsoleAdmin):
    """Forms whose changes go through services; what a service refuses is a message, and nothing has changed."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the form again when the service says no."""
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except DomainError as refusal:
            messages.error(request, refusal.detail)
            return HttpResponseRedirect(request.get_full_path())
        return response

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """After the service has done what the form says: put it into the audit log too."""
        changed = list(form.cleaned_data) if add else form.changed_data
        audit.record_edit(
            form.instance,
            action="add" if add else "edit",
            before={} if add else {name: form.initial.get(name) for name in changed},
            after={name: form.cleaned_data.get(name) for name in changed},
            actor=actor_of(request),
            now=timezone.now(),
        )
        return super().construct_change_message(request, form, formsets, add)


@admin.display(description="During (UTC)", ordering="during")
def shown_during(row: Any) -> str:
    """The time of a ledger's row, for reading: from when until when, to the second."""
    begin, end = row.during.lower, row.during.upper
    until = "now" if end is None else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"{begin:%Y-%m-%d %H:%M:%S} – {until}"


def asked_once(show: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
    """For a field of a row's page that takes queries: unfold asks for its contents several times."""

    @wraps(show)
    def shown(self: Any, row: Any) -> str:
        known: dict[str, str] = row.__dict__.setdefault("_shown", {})
        if show.__name__ not in known:
            known[show.__name__] = show(self, row)
        return known[show.__name__]

    return shown


def report(request: HttpRequest, done: str, refusals: Iterable[DomainError]) -> None:
    """Say what an action did, and why the rest was refused."""
    messages.success(request, done)
    for refusal in refusals:
        messages.error(request, refusal.detail)


@admin.register(IdempotentResponse)
class IdempotentResponseAdmin(ReadOnlyAdmin):
    """The answers that a repeated request would get."""

    list_display = ["actor", "key", "status", "created_at"]
    list_filter = ["status"]
    search_fields = ["actor", "key"]
    ordering = ["-pk"]


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """What people did in the console: who, why, before and after."""

    list_display = ["at", "actor", "action", "model", "shown_name", "reason", "shown_change"]
    list_filter = ["action", "model", "at"]
    search_fields = ["actor", "name", "reason", "=object_id"]
    show_full_result_count = False

    @admin.display(description="What", ordering="name")
    def shown_name(self, entry: AuditEntry) -> str:
        """The row in words, and a link to it."""
        app, model = entry.model.split(".")
        return format_html(
            '<a href="{}">{}</a>', reverse(f"admin:{app}_{model}_change", args=[entry.object_id]), entry.name
        )

    @admin.display(description="Change")
    def shown_change(self, entry: AuditEntry) -> str:
        """The fields that differ."""
        if entry.after is None:
            return "the outcome was not seen"
        changed = [name for name in entry.after if entry.before.get(name) != entry.after[name]]
        parts = [f"{name}: {entry.before.get(name, '')} → {entry.after[name]}" for name in changed]
        return "; ".join(parts) or "nothing changed"
