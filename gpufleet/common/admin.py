"""What the admin pages of all apps share."""

import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.admin.utils import flatten_fieldsets
from django.core.exceptions import BadRequest, PermissionDenied
from django.db.models import Count, Model, Q, QuerySet
from django.db.models.constants import LOOKUP_SEP
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.admin import ModelAdmin

from gpufleet.common import audit, bulk
from gpufleet.common.asking import (
    AgreeForm,
    Answers,
    MayReasonForm,
    Question,
    WhyForm,
    asks,
    asks_in_bulk,
    counted,
    said_of,
)
from gpufleet.common.bulk_pages import begin, progress_of, row_page
from gpufleet.common.errors import DomainError
from gpufleet.common.models import AuditEntry, BulkRun, IdempotentResponse, StepStatus
from gpufleet.common.panels import panels_of
from gpufleet.common.senders import person_of as actor_of
from gpufleet.common.snapshots import snapshot

__all__ = [
    "AgreeForm",
    "Answers",
    "ConsoleAdmin",
    "MayReasonForm",
    "Question",
    "ReadOnlyAdmin",
    "ServiceAdmin",
    "action_on",
    "actor_of",
    "asked_once",
    "asks",
    "asks_in_bulk",
    "begin",
    "counted",
    "report",
    "said_of",
    "shown_during",
    "shown_price",
]


# As the audit log writes an instant: what is read of it, and the rest.
INSTANT = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)?\+00:00")

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
    # Fields that stand on no page.
    secrets: Sequence[str] = ()

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """The model's own, and those that apps above have added."""
        actions: dict[str, Any] = super().get_actions(request)
        for permission, action in _actions_of.get(self.model, []):
            name = action.__name__
            if request.user.has_perm(permission):
                actions[name] = (action, name, getattr(action, "short_description", name))
        return actions

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list. An action that this person may not run is refused; Django would show the list as if nothing was.
        So is one on what is no id; Django would break over it."""
        wanted = {name for name in request.POST.getlist("action") if name}
        if not wanted <= set(self.get_actions(request)):
            raise PermissionDenied
        if not all(one.isdecimal() for one in request.POST.getlist(ACTION_CHECKBOX_NAME)):
            raise BadRequest
        response: HttpResponse = super().changelist_view(request, extra_context)
        return response

    def lookup_allowed(self, lookup: str, value: Any, request: HttpRequest) -> bool:
        """Whether a list may be asked for this; not for a secret, which could be guessed a letter at a time."""
        if lookup.split(LOOKUP_SEP, maxsplit=1)[0] in self.secrets:
            return False
        allowed: bool = super().lookup_allowed(lookup, value, request)
        return allowed

    def described(self, rows: Sequence[Any]) -> Sequence[Any]:
        """The rows of a page of the list, with what its columns say beyond them; in a fixed number of queries."""
        return rows

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """The list, and of the rows that it shows what they do now."""
        listed = super().get_changelist_instance(request)
        listed.result_list = self.described(listed.result_list)
        return listed

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """A row's page says the same instant from top to bottom, though the scheduler moves on meanwhile."""
        if request.method != "GET":
            changed: HttpResponse = super().changeform_view(request, *args, **kwargs)
            return changed
        with snapshot():
            shown: HttpResponse = super().changeform_view(request, *args, **kwargs)
            return shown.render() if isinstance(shown, TemplateResponse) else shown

    def history_view(
        self, request: HttpRequest, object_id: str, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """What people did to the row is in the audit log; Django's own history knows nothing of actions."""
        if not request.user.has_perm("common.view_auditentry"):
            response: HttpResponse = super().history_view(request, object_id, extra_context)
            return response
        query = urlencode({"model": self.model._meta.label_lower, "object_id": object_id})
        return redirect(f"{reverse('admin:common_auditentry_changelist')}?{query}")

    def applies(self, action: str, row: Any) -> bool:
        """Whether a button for this action makes sense on the page of this row."""
        return True

    def get_inline_formsets(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Those that have rows: nobody adds one there, and bare headers say nothing."""
        return [one for one in super().get_inline_formsets(*args, **kwargs) if one.formset.forms]

    def render_change_form(
        self, request: HttpRequest, context: dict[str, Any], *args: Any, obj: Any = None, **kwargs: Any
    ) -> HttpResponse:
        """With the row's panels, and a button for each action that this person may run on it."""
        if obj is not None:
            # What a form that was refused has made of the row is on the form alone.
            stored = self.get_object(request, str(obj.pk)) if request.method == "POST" else obj
            context["panels"] = panels_of(request, stored or obj)
            context["buttons"] = [
                (name, label) for _, name, label in self.get_actions(request).values() if self.applies(name, obj)
            ]
            meta = self.model._meta
            context["list_url"] = reverse(f"admin:{meta.app_label}_{meta.model_name}_changelist")
        response: HttpResponse = super().render_change_form(request, context, *args, obj=obj, **kwargs)
        return response


class ReadOnlyAdmin(ConsoleAdmin):
    """Rows that only services write: ledger, events, outboxes. People look; actions go through services."""

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The model's, but the time of a ledger's row for reading."""
        names = super().get_fields(request, obj)
        return list(dict.fromkeys(shown_during if name == "during" else name for name in names))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """With that time, where there is one."""
        known = super().get_readonly_fields(request, obj)
        has_time = any(field.name == "during" for field in self.model._meta.fields)
        return [*known, shown_during] if has_time else known

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds one by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one by hand."""
        return False


class RefusedForm:
    """A form that says what the service refused it for."""

    refusal = ""

    def full_clean(self: Any) -> None:
        """After what the form itself finds."""
        super().full_clean()  # type: ignore[misc]  # of the form that this stands before
        if self.refusal:
            self.add_error(None, self.refusal)


class ServiceAdmin(ConsoleAdmin):
    """Forms whose changes go through services; what a service refuses is a message, and nothing has changed."""

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the form again, as it was filled in, when the service says no."""
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except DomainError as refusal:
            request.refusal = refusal.detail  # type: ignore[attr-defined]  # for get_form
            response = super().changeform_view(request, *args, **kwargs)
        return response

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """On a row that is there already, with a reason; and with what the service said, if it said no."""
        bases = (WhyForm, self.form) if self._asks_why(request, obj) else (self.form,)
        said = {"refusal": getattr(request, "refusal", "")}
        return super().get_form(request, obj, change, form=type("Form", (RefusedForm, *bases), said), **kwargs)

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """With the reason at the end, where it is not among the form's own fields already."""
        known = super().get_fieldsets(request, obj)
        missing = self._asks_why(request, obj) and "why" not in flatten_fieldsets(known)
        return [*known, (None, {"fields": ["why"]})] if missing else known

    def _asks_why(self, request: HttpRequest, obj: Any) -> bool:
        return obj is not None and self.has_change_permission(request, obj)

    def construct_change_message(self, request: HttpRequest, form: Any, formsets: Any, add: bool = False) -> Any:
        """After the service has done what the form says: put it into the audit log too."""
        changed = list(form.cleaned_data) if add else [name for name in form.changed_data if name in form.cleaned_data]
        audit.record_edit(
            form.instance,
            action="add" if add else "edit",
            before={} if add else {name: form.initial.get(name) for name in changed},
            after={name: form.cleaned_data.get(name) for name in changed},
            actor=actor_of(request),
            now=timezone.now(),
            reason=getattr(form, "reason", ""),
        )
        return super().construct_change_message(request, form, formsets, add)


@admin.display(description="During (UTC)", ordering="during")
def shown_during(row: Any) -> str:
    """The time of a ledger's row, for reading: from when until when, to the second."""
    begin, end = row.during.lower, row.during.upper
    until = "now" if end is None else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"{begin:%Y-%m-%d %H:%M:%S} – {until}"


@admin.display(description="Price of a GPU-hour", ordering="price_per_gpu_hour")
def shown_price(row: Any) -> str:
    """A rate, with its currency and without zeros that say nothing."""
    price = row.price_per_gpu_hour
    currency = getattr(row, "currency", None) or getattr(getattr(row, "invoice", None), "currency", "")
    return "-" if price is None else f"{price.normalize():f} {currency}"


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
    """Say what an action did, if it did anything, and why the rest was refused."""
    if done:
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


def _written(value: Any) -> str:
    """A value of the audit log for reading: instants to the second, a dash for nothing."""
    return INSTANT.sub(r"\1 UTC", str(value)) if value not in (None, "") else "–"


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
        parts = [f"{name}: {_written(entry.before.get(name))} → {_written(entry.after[name])}" for name in changed]
        return "; ".join(parts) or "nothing changed"


@admin.register(BulkRun)
class BulkRunAdmin(ReadOnlyAdmin):
    """Work on many rows: how far it has come, and what is left of it."""

    list_display = ["started_at", "shown_work", "shown_progress", "actor", "reason", "finished_at"]
    list_display_links = ["started_at", "shown_work"]
    list_filter = ["work", ("finished_at", admin.EmptyFieldListFilter), "started_at"]
    search_fields = ["actor", "reason"]
    fields = ["started_at", "actor", "reason", "finished_at"]

    def has_view_permission(self, request: HttpRequest, obj: BulkRun | None = None) -> bool:
        """Of one run, also whoever may carry it on."""
        mine = obj is not None and request.user.has_perm(bulk.work_of(obj).permission)
        return mine or bool(super().has_view_permission(request, obj))

    def get_queryset(self, request: HttpRequest) -> QuerySet[BulkRun]:
        """With how far each has come."""
        rows: QuerySet[BulkRun] = super().get_queryset(request)
        status = {f"n_{name}": Count("steps", filter=Q(steps__status=name)) for name in StepStatus.values}
        return rows.annotate(n_total=Count("steps"), **status)

    @admin.display(description="What", ordering="work")
    def shown_work(self, run: BulkRun) -> str:
        """In words."""
        return bulk.work_of(run).words

    @admin.display(description="Done")
    def shown_progress(self, run: Any) -> str:
        """Of how many, and what became of the others."""
        others = [(run.n_refused, "refused"), (run.n_stopped, "stopped"), (run.n_waiting, "left")]
        said = [f"{run.n_done} of {run.n_total}", *(f"{number} {word}" for number, word in others if number)]
        return ", ".join(said)

    def get_urls(self) -> list[Any]:
        """The next steps, and no more steps, before the rest, whose last pattern takes everything."""
        return [
            path("<int:pk>/go/", self._go, name="common_bulkrun_go"),
            path("<int:pk>/stop/", self._stop, name="common_bulkrun_stop"),
            *super().get_urls(),
        ]

    def _go(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Some more steps, and the part of the page that says how far it has come."""
        run, elsewhere = self._run_for(request, pk)
        if elsewhere is not None:
            return elsewhere
        bulk.carry_on(run, actor=actor_of(request), now=timezone.now())
        if "HX-Request" not in request.headers:
            return redirect(row_page("common.bulkrun", pk))
        shown = {"p": progress_of(request, run, going=True)}
        return TemplateResponse(request, "admin/bulk.html", shown, headers={"Cache-Control": "no-store"})

    def _stop(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Leave the rest undone."""
        run, elsewhere = self._run_for(request, pk)
        if elsewhere is not None:
            return elsewhere
        bulk.stop_run(run, actor=actor_of(request), now=timezone.now())
        return redirect(row_page("common.bulkrun", pk))

    def _run_for(self, request: HttpRequest, pk: int) -> tuple[BulkRun, HttpResponse | None]:
        """The run that this person may carry on, or the way to the login of whose session has ended."""
        if not self.admin_site.has_permission(request):
            login = f"{reverse('admin:login')}?{urlencode({'next': row_page('common.bulkrun', pk)})}"
            part = "HX-Request" in request.headers
            return BulkRun(), HttpResponse(status=204, headers={"HX-Redirect": login}) if part else redirect(login)
        run = get_object_or_404(BulkRun, pk=pk)
        if request.method != "POST" or not request.user.has_perm(bulk.work_of(run).permission):
            raise PermissionDenied
        return run, None
