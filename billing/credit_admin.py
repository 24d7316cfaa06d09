"""Credit and debit notes, and the service-level rules that raise them, in the operator's console."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from unfold.forms import ActionForm
from unfold.widgets import UnfoldAdminTextInputWidget

from billing import services
from billing.models import FAULT_STATES, CreditedRange, CreditNote, ServiceLevel
from billing.serializers import money
from gpufleet.common.admin import ReadOnlyAdmin, ServiceAdmin, actor_of, report, shown_during
from gpufleet.common.errors import DomainError


class DecisionForm(ActionForm):  # type: ignore[misc]  # unfold is untyped
    """The action, and why."""

    reason = forms.CharField(
        max_length=500,
        required=False,
        widget=UnfoldAdminTextInputWidget(attrs={"placeholder": "Reason (needed to decline)", "aria-label": "Reason"}),
    )


@admin.register(CreditNote)
class CreditNoteAdmin(ServiceAdmin):
    """Corrections of finalised invoices: proposed here, then issued or declined; nobody edits one."""

    list_display = ["__str__", "invoice", "status", "shown_amount", "origin", "reason", "created_at"]
    list_filter = ["status", "kind", "origin"]
    list_select_related = ["invoice"]
    action_form = DecisionForm
    actions = ["issue", "decline", "settle"]

    @admin.display(description="Amount", ordering="amount")
    def shown_amount(self, note: CreditNote) -> str:
        """With the currency's decimals."""
        return f"{money(note.amount, note.invoice.currency)} {note.invoice.currency}"

    def get_fields(self, request: HttpRequest, obj: CreditNote | None = None) -> list[str]:
        """What a person says of a new note; everything about one that is looked at."""
        if obj is None:
            return ["invoice", "amount", "reason"]
        return [field.name for field in CreditNote._meta.fields if field.name != "id"]

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

    @admin.action(description="Issue", permissions=["decide"])
    def issue(self, request: HttpRequest, notes: QuerySet[CreditNote]) -> None:
        """Make it count: give the money back, or ask for it."""
        self._each(request, notes, services.issue_credit_note, "issued", reason=_reason(request))

    @admin.action(description="Decline, for the reason given", permissions=["decide"])
    def decline(self, request: HttpRequest, notes: QuerySet[CreditNote]) -> None:
        """Decide against it."""
        self._each(request, notes, services.decline_credit_note, "declined", reason=_reason(request))

    @admin.action(description="Mark debit notes as paid", permissions=["decide"])
    def settle(self, request: HttpRequest, notes: QuerySet[CreditNote]) -> None:
        """The money has come."""
        self._each(request, notes, services.settle_debit_note, "paid")

    def _each(
        self,
        request: HttpRequest,
        notes: QuerySet[CreditNote],
        service: Callable[..., CreditNote],
        word: str,
        **values: str,
    ) -> None:
        refusals: list[DomainError] = []
        ids = [note.pk for note in notes.order_by("pk")]
        for pk in ids:
            try:
                service(credit_note_id=pk, actor=actor_of(request), now=timezone.now(), **values)
            except DomainError as refusal:
                refusals.append(refusal)
        report(request, f"{len(ids) - len(refusals)} notes are {word}.", refusals)


def _reason(request: HttpRequest) -> str:
    return request.POST.get("reason", "").strip()[:500]


@admin.register(CreditedRange)
class CreditedRangeAdmin(ReadOnlyAdmin):
    """Which billed seconds which note gives back."""

    list_display = ["billed_range", "note", shown_during, "released_at"]
    list_select_related = ["billed_range", "note"]
    show_full_result_count = False


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

    @admin.action(description="Turn on", permissions=["switch"])
    def enable(self, request: HttpRequest, rules: QuerySet[ServiceLevel]) -> None:
        """Faults raise notes again."""
        self._switch(request, rules, enabled=True)

    @admin.action(description="Turn off", permissions=["switch"])
    def disable(self, request: HttpRequest, rules: QuerySet[ServiceLevel]) -> None:
        """Faults raise no notes; those that were raised stay."""
        self._switch(request, rules, enabled=False)

    def _switch(self, request: HttpRequest, rules: QuerySet[ServiceLevel], *, enabled: bool) -> None:
        for rule in rules:
            services.switch_service_level(service_level_id=rule.pk, enabled=enabled, actor=actor_of(request))
        report(request, f"{len(rules)} rules are {'on' if enabled else 'off'}.", [])
