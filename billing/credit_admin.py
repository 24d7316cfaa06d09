"""Credit and debit notes, and the service-level rules that raise them, in the operator's console."""

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from billing import services
from billing.models import FAULT_STATES, CreditedRange, CreditNote, CreditNoteStatus, Invoice, NoteKind, ServiceLevel
from billing.serializers import grouped_money
from gpufleet.common import bulk
from gpufleet.common.admin import (
    AgreeForm,
    Answers,
    MayReasonForm,
    Question,
    ReadOnlyAdmin,
    ServiceAdmin,
    actor_of,
    asks,
    asks_in_bulk,
    counted,
    report,
    shown_during,
)


def _deciding(service: Callable[..., CreditNote], *, with_reason: bool) -> Callable[[bulk.Doing], CreditNote]:
    def decide(step: bulk.Doing) -> CreditNote:
        why = {"reason": step.reason} if with_reason else {}
        return service(credit_note_id=step.object_id, actor=step.actor, now=step.now, **why)

    return decide


def _seen(note: CreditNote) -> dict[str, Any]:
    return {"status": note.status, "number": note.number, "decision_reason": note.decision_reason}


def _decides(
    name: str, words: str, outcome: str, do: Callable[[bulk.Doing], CreditNote], meaning: str, **asked: Any
) -> Any:
    """An action that decides notes, each in a step of its own."""
    work = bulk.Work(
        name=f"billing.{name}",
        words=words,
        outcome=outcome,
        model=CreditNote,
        permission="billing.change_creditnote",
        do=do,
        seen=_seen,
    )

    def say(notes: Sequence[CreditNote]) -> list[str]:
        sums: dict[str, Decimal] = {}
        for note in notes:
            sums[note.invoice.currency] = sums.get(note.invoice.currency, Decimal(0)) + note.amount
        shown = " and ".join(f"{grouped_money(amount, one)} {one}" for one, amount in sorted(sums.items()))
        return [f"{counted(len(notes), 'note')} of {shown}. {meaning}"]

    question = Question(words, say, [], **asked)
    return asks_in_bulk(question, work, description=words, permission="decide")


def _in_full(invoice: Invoice) -> str:
    total = f"{grouped_money(invoice.total, invoice.currency)} {invoice.currency}"
    return f"{invoice}, {invoice.tenant.name}, {total}"


@admin.register(CreditNote)
class CreditNoteAdmin(ServiceAdmin):
    """Corrections of finalised invoices: proposed here, then issued or declined; nobody edits one."""

    list_display = ["__str__", "shown_tenant", "status", "shown_amount", "origin", "reason", "created_at"]
    list_filter = ["status", "kind", "origin"]
    list_select_related = ["invoice__tenant"]
    search_fields = ["invoice__tenant__name", "reason"]
    readonly_fields = ["shown_amount"]
    actions = ["issue", "decline", "settle"]

    @admin.display(description="Amount", ordering="amount")
    def shown_amount(self, note: CreditNote) -> str:
        """With the currency's decimals."""
        return f"{grouped_money(note.amount, note.invoice.currency)} {note.invoice.currency}"

    @admin.display(description="Tenant", ordering="invoice__tenant__name")
    def shown_tenant(self, note: CreditNote) -> str:
        """Whose invoice it corrects."""
        return note.invoice.tenant.name

    def applies(self, action: str, row: CreditNote) -> bool:
        """Deciding, of drafts; settling, of debit notes that are owed."""
        if action == "settle":
            return (row.kind, row.status, row.settled_at) == (NoteKind.DEBIT, CreditNoteStatus.ISSUED, None)
        return row.status == CreditNoteStatus.DRAFT

    def get_fields(self, request: HttpRequest, obj: CreditNote | None = None) -> list[str]:
        """What a person says of a new note; everything about one that is looked at."""
        if obj is None:
            return ["invoice", "amount", "reason"]
        names = [field.name for field in CreditNote._meta.fields if field.name != "id"]
        return ["shown_amount" if name == "amount" else name for name in names]

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Only invoices that take a note are offered, and each says whose it is and what it comes to."""
        if db_field.name == "invoice":
            kwargs["queryset"] = Invoice.objects.filter(status__in=services.CREDITABLE).select_related("tenant")
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "invoice":
            field.label_from_instance = _in_full
        return field

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one; actions decide it."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: it is declined instead."""
        return False

    def has_decide_permission(self, request: HttpRequest) -> bool:
        """Whoever may change credit notes may decide them."""
        return request.user.has_perm("billing.change_creditnote")

    def save_model(self, request: HttpRequest, obj: CreditNote, form: "ModelForm[CreditNote]", change: bool) -> None:
        """Through the service."""
        values = dict(form.cleaned_data)
        invoice = values.pop("invoice")
        note = services.draft_credit_note(
            invoice_id=invoice.pk, **values, created_by=actor_of(request), now=timezone.now()
        )
        obj.pk = note.pk

    issue = _decides(
        "issue",
        "Issue",
        "now issued",
        _deciding(services.issue_credit_note, with_reason=True),
        "What is credited is owed no more; what is debited is owed. An issued note is for good.",
        form=MayReasonForm,
    )
    decline = _decides(
        "decline",
        "Decline",
        "now declined",
        _deciding(services.decline_credit_note, with_reason=True),
        "They count for nothing, and the reason stands on them.",
    )
    settle = _decides(
        "settle",
        "Mark debit notes as paid",
        "now paid",
        _deciding(services.settle_debit_note, with_reason=False),
        "The money has come.",
        form=AgreeForm,
    )


@admin.register(CreditedRange)
class CreditedRangeAdmin(ReadOnlyAdmin):
    """Which billed seconds which note gives back."""

    list_display = ["billed_range", "note", shown_during, "released_at"]
    list_select_related = ["billed_range", "note"]
    show_full_result_count = False


def _turning_on(rules: Sequence[ServiceLevel]) -> list[str]:
    """Notes are drafts."""
    return [f"Faults under {counted(len(rules), 'rule')} raise draft credit notes from the next round on."]


def _turning_off(rules: Sequence[ServiceLevel]) -> list[str]:
    """What was raised stays."""
    return [f"Faults under {counted(len(rules), 'rule')} raise no more credit notes; those that were raised stay."]


TURN_ON = Question("Turn on", _turning_on, ["enabled"], form=MayReasonForm)
TURN_OFF = Question("Turn off", _turning_off, ["enabled"], form=MayReasonForm)


class ServiceLevelForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """The terms of a new rule."""

    states = forms.MultipleChoiceField(choices=FAULT_STATES, widget=forms.CheckboxSelectMultiple)

    class Meta:
        model = ServiceLevel
        fields = [
            "name",
            "tenant",
            "plan_tier",
            "states",
            "reason_starts_with",
            "longer_than_seconds",
            "credit_percent",
            "basis",
            "effective_from",
            "enabled",
        ]


@admin.register(ServiceLevel)
class ServiceLevelAdmin(ServiceAdmin):
    """Rules are added here and turned on and off; their terms are never edited, since notes speak of them."""

    form = ServiceLevelForm
    list_display = ["name", "tenant", "plan_tier", "longer_than_seconds", "credit_percent", "basis", "enabled"]
    list_filter = ["enabled", "basis", "plan_tier"]
    list_select_related = ["tenant"]
    search_fields = ["name", "tenant__name"]
    actions = ["enable", "disable"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one; another is added instead."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: it is turned off instead."""
        return False

    def has_switch_permission(self, request: HttpRequest) -> bool:
        """Whoever may change rules may turn them on and off."""
        return request.user.has_perm("billing.change_servicelevel")

    def save_model(self, request: HttpRequest, obj: ServiceLevel, form: ServiceLevelForm, change: bool) -> None:
        """Through the service, as the API does."""
        values = dict(form.cleaned_data)
        tenant = values.pop("tenant")
        rule = services.add_service_level(
            **values, tenant_id=tenant and tenant.pk, created_by=actor_of(request), now=timezone.now()
        )
        obj.pk = rule.pk

    @asks(TURN_ON, description="Turn on", permission="switch")
    def enable(self, request: HttpRequest, rules: QuerySet[ServiceLevel], answers: Answers) -> None:
        """Faults raise notes again."""
        self._switch(request, rules, enabled=True)

    @asks(TURN_OFF, description="Turn off", permission="switch")
    def disable(self, request: HttpRequest, rules: QuerySet[ServiceLevel], answers: Answers) -> None:
        """Faults raise no notes; those that were raised stay."""
        self._switch(request, rules, enabled=False)

    def _switch(self, request: HttpRequest, rules: QuerySet[ServiceLevel], *, enabled: bool) -> None:
        for rule in rules:
            services.switch_service_level(service_level_id=rule.pk, enabled=enabled, actor=actor_of(request))
        report(request, f"{counted(len(rules), 'rule')} turned {'on' if enabled else 'off'}.", [])
