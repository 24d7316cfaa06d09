"""Actions of the console that ask before they act: what they will do, and why it should be done."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar
from uuid import UUID, uuid4

from django import forms
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from unfold.widgets import UnfoldAdminTextInputWidget

from gpufleet.common import bulk
from gpufleet.common.audit import audited
from gpufleet.common.bulk_pages import begin
from gpufleet.common.errors import DomainError
from gpufleet.common.senders import person_of

AGREED = "agreed"
BACK = "back_to"
ONCE = "once"
SHOWN = 20
WHERE_REASONS_STAND = "It stands in the audit log, and where a row keeps a reason, on the row."

Row = TypeVar("Row")
Done = TypeVar("Done")

Answers = dict[str, Any]
Deed = Callable[[Any, HttpRequest, QuerySet[Any], Answers], HttpResponse | None]
# What will happen to these rows, in sentences.
Meaning = Callable[[Sequence[Any]], Sequence[str]]


class ReasonForm(forms.Form):
    """Why."""

    reason = forms.CharField(max_length=400, widget=UnfoldAdminTextInputWidget, help_text=WHERE_REASONS_STAND)


class MayReasonForm(forms.Form):
    """Why, for whoever wants to say it."""

    reason = forms.CharField(
        max_length=400,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text=WHERE_REASONS_STAND,
    )


class WhyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A form on a row of the database, and why it is changed, which is no field of the row's."""

    why = forms.CharField(
        label="Reason for the change",
        max_length=500,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="It stands in the audit log.",
    )
    reason = ""

    def clean(self) -> dict[str, Any]:
        """What is left is the row's."""
        values: dict[str, Any] = super().clean() or {}
        self.reason = values.pop("why", "")
        return values


class AgreeForm(forms.Form):
    """Nothing to say."""


def one_by_one(rows: Iterable[Row], work: Callable[[Row], Done]) -> tuple[list[Done], list[DomainError]]:
    """What the work gave for the rows, and what it was refused for; one that is refused stops no other."""
    done, refusals = [], []
    for row in rows:
        try:
            done.append(work(row))
        except DomainError as refusal:
            refusals.append(refusal)
    return done, refusals


def counted(number: int, noun: str) -> str:
    """1 GPU, 2 GPUs."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def said_of(number: int, noun: str) -> str:
    """The same with its verb: 1 GPU is, 2 GPUs are."""
    return f"{counted(number, noun)} {'is' if number == 1 else 'are'}"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked before an action. ``fields`` of each row are in the audit log before and after it."""

    button: str
    meaning: Meaning
    fields: Sequence[str]
    form: type[forms.Form] = ReasonForm
    danger: bool = False


def asks(question: Question, *, description: str, permission: str) -> Callable[[Deed], Any]:
    """Make a deed an action that first shows its question, and is written into the audit log when it is done."""

    def make(deed: Deed) -> Any:
        @wraps(deed)
        def action(self: Any, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse | None:
            form = question.form(request.POST if AGREED in request.POST else None)
            if not form.is_valid():
                return _ask(self, request, rows, question, form, deed.__name__)
            answers: Answers = form.cleaned_data
            with audited(
                list(rows),
                action=deed.__name__,
                fields=question.fields,
                actor=person_of(request),
                reason=answers.get("reason", ""),
                now=timezone.now(),
            ):
                answer = deed(self, request, rows, answers)
            return answer or _back(request)

        return admin.action(description=description, permissions=[permission])(action)

    return make


def asks_in_bulk(question: Question, work: bulk.Work, *, description: str, permission: str) -> Any:
    """An action that first shows its question, and then does its work a row at a time, in steps that can be resumed."""
    bulk.register(work)

    def action(self: Any, request: HttpRequest, rows: QuerySet[Any]) -> HttpResponse:
        form = question.form(request.POST if AGREED in request.POST else None)
        token = _token(request)
        if not form.is_valid() or token is None:
            return _ask(self, request, rows, question, form, action.__name__)
        chosen = {row.pk: bulk.Row(str(row)) for row in rows}
        return begin(request, work=work.name, token=token, rows=chosen, reason=form.cleaned_data.get("reason", ""))

    action.__name__ = work.action
    return admin.action(description=description, permissions=[permission])(action)


def _token(request: HttpRequest) -> UUID | None:
    """Of the page that asked."""
    try:
        return UUID(request.POST.get(ONCE, ""))
    except ValueError:
        return None


def _ask(
    page: Any, request: HttpRequest, rows: QuerySet[Any], question: Question, form: forms.Form, action: str
) -> HttpResponse:
    chosen: list[Model] = list(rows)
    kept = {"action": action, "index": "0", AGREED: "yes", BACK: request.POST.get(BACK, "")}
    kept[ONCE] = str(_token(request) or uuid4())
    if request.POST.get("select_across") == "1":
        kept["select_across"] = "1"
    context = {
        **page.admin_site.each_context(request),
        "opts": page.opts,
        "title": question.button,
        "sentences": question.meaning(chosen),
        "shown": [(row, _page_of(row)) for row in chosen[:SHOWN]],
        "others": max(0, len(chosen) - SHOWN),
        "form": form,
        "kept": kept,
        "checkbox": ACTION_CHECKBOX_NAME,
        "ids": request.POST.getlist(ACTION_CHECKBOX_NAME),
        "question": question,
        "back": _wanted(request) or request.get_full_path(),
    }
    return TemplateResponse(request, "admin/ask.html", context)


def _back(request: HttpRequest) -> HttpResponse | None:
    wanted = _wanted(request)
    return redirect(wanted) if wanted else None


def _wanted(request: HttpRequest) -> str:
    """The page that the button was on, if it is one of ours."""
    wanted = request.POST.get(BACK, "")
    return wanted if url_has_allowed_host_and_scheme(wanted, allowed_hosts=None) else ""


def _page_of(row: Model) -> str:
    return reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
