"""Rates, invoices and the outbox in the operator's console."""

from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.http import urlencode
from unfold.admin import TabularInline
from unfold.decorators import display

from billing import credit_admin, services  # noqa: F401  # Django looks for admin.py alone, so it brings the other.
from billing.models import (
    BilledRange,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    OutboxMessage,
    Rate,
    StripeCustomer,
    StripeDifference,
    StripeEvent,
)
from billing.papers_admin import PapersAdmin
from billing.serializers import money
from gpufleet.common.admin import ReadOnlyAdmin, ServiceAdmin, action_on, actor_of, report, shown_during
from gpufleet.common.errors import DomainError
from tenants.models import Tenant


@admin.register(Rate)
class RateAdmin(ServiceAdmin):
    """Rates are added here, never edited and never deleted."""

    fields = [
        "gpu_model",
        "price_per_gpu_hour",
        "currency",
        "plan_tier",
        "tenant",
        "minimum_seconds",
        "increment_seconds",
        "valid_from",
        "reason",
    ]
    list_display = ["gpu_model", "price_per_gpu_hour", "currency", "plan_tier", "tenant", "valid_from", "recorded_by"]
    list_filter = ["gpu_model", "plan_tier", "currency"]
    list_select_related = ["tenant"]
    search_fields = ["gpu_model", "tenant__name"]

    def get_fields(self, request: HttpRequest, obj: Rate | None = None) -> list[str]:
        """What a person says of a new rate; who recorded it and when, of one that is looked at."""
        return self.fields if obj is None else [*self.fields, "recorded_at", "recorded_by"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: another rate is added instead."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: allocations are locked to it."""
        return False

    def save_model(self, request: HttpRequest, obj: Rate, form: "ModelForm[Rate]", change: bool) -> None:
        """Through the service, as the API does."""
        values = dict(form.cleaned_data)
        tenant = values.pop("tenant")
        rate = services.add_rate(
            **values, tenant_id=tenant and tenant.pk, recorded_by=actor_of(request), now=timezone.now()
        )
        obj.pk = rate.pk


def last_month(now: datetime) -> tuple[datetime, datetime]:
    """The whole month before this one, in UTC, half-open."""
    end = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (end - timedelta(days=1)).replace(day=1), end


class LineInline(TabularInline):  # type: ignore[misc]  # unfold is untyped
    """The invoice's lines. A draft is voided and made again, so nobody edits one."""

    model = InvoiceLine
    fields = ["gpu_model", "price_per_gpu_hour", "period", "held_seconds", "billed_seconds", "amount"]
    readonly_fields = fields
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the ledger makes the lines."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the ledger makes the lines."""
        return False


class DraftForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """Whose unbilled time to bill, and of which days."""

    tenants = forms.ModelMultipleChoiceField(Tenant.objects.all(), widget=forms.CheckboxSelectMultiple)
    window = forms.ChoiceField(
        choices=[("days", "The last days"), ("month", "Last month (UTC)")], widget=forms.RadioSelect, initial="days"
    )
    days = forms.IntegerField(min_value=1, max_value=90, initial=30, help_text="How many, for the last days.")

    class Meta:
        model = Invoice
        fields: list[str] = []

    def bounds(self, now: datetime) -> tuple[datetime, datetime]:
        """The window ``[from, to)`` that was asked for."""
        if self.cleaned_data["window"] == "month":
            return last_month(now)
        return now - timedelta(days=self.cleaned_data["days"]), now


@admin.register(Invoice)
class InvoiceAdmin(PapersAdmin):
    """What tenants owe. Adding makes drafts of what is unbilled; actions move them; nobody edits one."""

    list_display = ["__str__", "tenant", "shown_status", "shown_total", "created_at", "due_at"]
    list_filter = ["status", "currency", "tenant"]
    list_select_related = ["tenant"]
    search_fields = ["number", "tenant__name"]
    actions = ["finalise", "send", "mark_paid", "mark_uncollectible", "void"]
    inlines = [LineInline]

    @display(  # type: ignore[untyped-decorator]  # unfold is untyped
        description="Status",
        ordering="status",
        label={"draft": "info", "open": "warning", "paid": "success", "uncollectible": "danger"},
    )
    def shown_status(self, invoice: Invoice) -> str:
        """The status as a coloured word."""
        return invoice.status

    @display(description="Total", ordering="total")  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_total(self, invoice: Invoice) -> str:
        """With the currency's decimals."""
        return f"{money(invoice.total, invoice.currency)} {invoice.currency}"

    @display(description="Sending")  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_sending(self, invoice: Invoice) -> str:
        """How far on its way through Stripe, and why no further."""
        return services.sending_in_words(invoice)

    def get_form(self, request: HttpRequest, obj: Invoice | None = None, **kwargs: Any) -> Any:
        """The question for new drafts; an invoice that is there is only looked at."""
        return DraftForm if obj is None else super().get_form(request, obj, **kwargs)

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """The tenants that were selected in their own list."""
        return {"tenants": [part for part in request.GET.get("tenants", "").split(",") if part.isdecimal()]}

    def get_fields(self, request: HttpRequest, obj: Invoice | None = None) -> list[str]:
        """The question's fields, or everything about the invoice."""
        if obj is None:
            return ["tenants", "window", "days"]
        apart = {"id": "", "particulars": "", "total": "shown_total"}  # The papers show the particulars.
        fields = [apart.get(field.name, field.name) for field in Invoice._meta.fields]
        return [*self.paper_fields, "shown_sending", *filter(None, fields)]

    def get_readonly_fields(self, request: HttpRequest, obj: Invoice | None = None) -> list[str]:
        """What is computed."""
        return [] if obj is None else [*self.paper_fields, "shown_sending", "shown_total"]

    def get_inlines(self, request: HttpRequest, obj: Invoice | None = None) -> list[Any]:
        """Lines, once there is an invoice."""
        return [] if obj is None else self.inlines

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one; its status is moved by actions."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: it is voided instead."""
        return False

    def has_move_permission(self, request: HttpRequest) -> bool:
        """Whoever may change invoices may move them."""
        return request.user.has_perm("billing.change_invoice")

    def save_model(self, request: HttpRequest, obj: Invoice, form: DraftForm, change: bool) -> None:
        """A draft for each tenant that was chosen; where there is none at all, the first reason why."""
        now = timezone.now()
        start, end = form.bounds(now)
        ids = [tenant.pk for tenant in form.cleaned_data["tenants"]]
        drafts = services.create_invoices(tenant_ids=ids, start=start, end=end, created_by=actor_of(request), now=now)
        if not drafts.invoices:
            raise drafts.refusals[0]
        obj.pk = drafts.invoices[0].pk
        report(request, f"{len(drafts.invoices)} drafts were made.", drafts.refusals)

    def response_add(self, request: HttpRequest, obj: Invoice, post_url_continue: str | None = None) -> HttpResponse:
        """To the list, where the drafts are."""
        return redirect("admin:billing_invoice_changelist")

    @admin.action(description="Finalise: number and freeze", permissions=["move"])
    def finalise(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> None:
        """Drafts become open."""
        self._move(request, invoices, InvoiceStatus.OPEN)

    @admin.action(description="Send through Stripe", permissions=["move"])
    def send(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> None:
        """For those that were finalised while Stripe could not take them."""
        ids = [invoice.pk for invoice in invoices]
        queued = services.send_invoices(invoice_ids=ids, actor=actor_of(request), now=timezone.now())
        report(request, f"{len(queued.invoices)} invoices are on their way to Stripe.", queued.refusals)

    @admin.action(description="Mark as paid", permissions=["move"])
    def mark_paid(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> None:
        """The money has come."""
        self._move(request, invoices, InvoiceStatus.PAID)

    @admin.action(description="Mark as uncollectible", permissions=["move"])
    def mark_uncollectible(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> None:
        """The money will not come."""
        self._move(request, invoices, InvoiceStatus.UNCOLLECTIBLE)

    @admin.action(description="Void: release its seconds", permissions=["move"])
    def void(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> None:
        """The seconds may be billed again."""
        self._move(request, invoices, InvoiceStatus.VOID)

    def _move(self, request: HttpRequest, invoices: QuerySet[Invoice], to: InvoiceStatus) -> None:
        ids = [invoice.pk for invoice in invoices]
        moved = services.move_invoices(invoice_ids=ids, to=to, actor=actor_of(request), now=timezone.now())
        report(request, f"{len(moved.invoices)} invoices are {to.label.lower()}.", moved.refusals)


@action_on(Tenant, description="Create invoices for the last days or the last month", permission="billing.add_invoice")
def create_invoices(tenants_admin: Any, request: HttpRequest, tenants: QuerySet[Tenant]) -> HttpResponse | None:
    """To the question which days, with these tenants chosen."""
    chosen = ",".join(str(pk) for pk in tenants.order_by("pk").values_list("pk", flat=True))
    return redirect(f"{reverse('admin:billing_invoice_add')}?{urlencode({'tenants': chosen})}")


@admin.register(InvoiceLine)
class InvoiceLineAdmin(ReadOnlyAdmin):
    """GPU time of one model at one rate."""

    list_display = ["invoice", "gpu_model", "price_per_gpu_hour", "billed_seconds", "amount"]
    list_filter = ["gpu_model"]
    list_select_related = ["invoice"]


@admin.register(BilledRange)
class BilledRangeAdmin(ReadOnlyAdmin):
    """Which seconds of which allocation stand on which line."""

    list_display = ["allocation", "line", shown_during, "released_at"]
    list_select_related = ["allocation", "line"]
    show_full_result_count = False


@admin.register(StripeEvent)
class StripeEventAdmin(ReadOnlyAdmin):
    """What Stripe told us."""

    list_display = ["stripe_id", "type", "invoice", "outcome", "created_at", "received_at"]
    list_select_related = ["invoice"]
    list_filter = ["type"]
    search_fields = ["stripe_id"]


@admin.register(OutboxMessage)
class OutboxMessageAdmin(ReadOnlyAdmin):
    """What Stripe must hear of. A dead letter says why, and can be tried again."""

    list_display = ["__str__", "status", "attempts", "next_attempt_at", "last_error", "result"]
    list_filter = ["status", "step"]
    list_select_related = ["invoice"]
    search_fields = ["invoice__number", "invoice__stripe_invoice_id"]
    actions = ["retry"]

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whoever may change steps may try them again."""
        return request.user.has_perm("billing.change_outboxmessage")

    @admin.action(description="Try dead letters again", permissions=["retry"])
    def retry(self, request: HttpRequest, messages: QuerySet[OutboxMessage]) -> None:
        """After what they were refused for is mended."""
        ids = [message.pk for message in messages]
        try:
            revived = services.retry_steps(message_ids=ids, actor=actor_of(request), now=timezone.now())
            report(request, f"{revived} steps will be tried again.", [])
        except DomainError as refusal:
            report(request, "Nothing was changed.", [refusal])


@admin.register(StripeCustomer)
class StripeCustomerAdmin(ReadOnlyAdmin):
    """Who each tenant is at Stripe."""

    list_display = ["tenant", "stripe_id", "created_at"]
    list_select_related = ["tenant"]
    search_fields = ["tenant__name", "stripe_id"]


@admin.register(StripeDifference)
class StripeDifferenceAdmin(ReadOnlyAdmin):
    """What Stripe and we do not agree on. Nothing mends it silently."""

    list_display = ["invoice", "stripe_invoice_id", "what", "ours", "theirs", "found_at", "last_seen_at", "gone_at"]
    list_filter = ["what", ("gone_at", admin.EmptyFieldListFilter)]
    list_select_related = ["invoice"]
    search_fields = ["stripe_invoice_id", "invoice__number"]
