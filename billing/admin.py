"""Rates, invoices and the outbox in the operator's console."""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, cast

from django.conf import settings
from django.contrib import admin, messages
from django.db.models import Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.decorators import display

from billing import credit_admin, services, stripe_admin  # noqa: F401  # Django looks for admin.py alone.
from billing.drafts_admin import DraftsAdmin
from billing.figures import ListSum, sum_up
from billing.models import (
    BilledRange,
    CreditNote,
    Invoice,
    InvoiceEvent,
    InvoiceLine,
    InvoiceStatus,
    OutboxStatus,
    Rate,
)
from billing.moves_admin import SEND, EventInline, MovesAdmin
from billing.papers_admin import PapersAdmin
from billing.queries import describe_invoices
from billing.serializers import grouped_money
from gpufleet.common.admin import (
    ReadOnlyAdmin,
    ServiceAdmin,
    action_on,
    actor_of,
    asked_once,
    shown_during,
    shown_price,
)
from gpufleet.common.query import LARGEST_ID
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
    list_display = ["gpu_model", shown_price, "plan_tier", "tenant", "valid_from", "recorded_by"]
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


@admin.display(description="GPU-hours billed", ordering="billed_seconds")
def shown_hours(line: InvoiceLine) -> str:
    """As the preview has them."""
    return f"{line.billed_seconds / Decimal(3600):,.4f}"


class LineInline(TabularInline):  # type: ignore[misc]  # unfold is untyped
    """The invoice's lines. A draft is voided and made again, so nobody edits one."""

    model = InvoiceLine
    fields = ["gpu_model", shown_price, "shown_period", "shown_held", "shown_billed", shown_hours, "shown_amount"]
    readonly_fields = fields
    extra = 0
    can_delete = False
    hide_title = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the ledger makes the lines."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the ledger makes the lines."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[InvoiceLine]:
        """With the invoice, whose currency each amount is in."""
        rows: QuerySet[InvoiceLine] = super().get_queryset(request)
        return rows.select_related("invoice")

    @admin.display(description="From – to (UTC)")
    def shown_period(self, line: InvoiceLine) -> str:
        """To the second."""
        return _shown_range(line.period)

    @admin.display(description="Held, seconds")
    def shown_held(self, line: InvoiceLine) -> str:
        """Exactly, with thousands apart."""
        return f"{line.held_seconds:,}"

    @admin.display(description="Billed, seconds")
    def shown_billed(self, line: InvoiceLine) -> str:
        """After the rate's minimum and increment."""
        return f"{line.billed_seconds:,}"

    @admin.display(description="Amount")
    def shown_amount(self, line: InvoiceLine) -> str:
        """With the currency's decimals."""
        return f"{grouped_money(line.amount, line.invoice.currency)} {line.invoice.currency}"


class NoteInline(TabularInline):  # type: ignore[misc]  # unfold is untyped
    """The invoice's credit and debit notes; they are proposed and decided on pages of their own."""

    model = CreditNote
    fields = ["number", "kind", "status", "shown_amount", "reason", "created_at"]
    readonly_fields = fields
    extra = 0
    can_delete = False
    show_change_link = True

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody does it here."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one."""
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[CreditNote]:
        """With the invoice, whose currency each amount is in."""
        rows: QuerySet[CreditNote] = super().get_queryset(request)
        return rows.select_related("invoice")

    @admin.display(description="Amount")
    def shown_amount(self, note: CreditNote) -> str:
        """With the currency's decimals."""
        return f"{grouped_money(note.amount, note.invoice.currency)} {note.invoice.currency}"


class OverdueFilter(admin.SimpleListFilter):
    """Open invoices by whether their due date has passed."""

    title = "overdue"
    parameter_name = "overdue"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """One choice beside all."""
        return [("yes", "Overdue")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Invoice]) -> QuerySet[Invoice]:
        """As the summary judges it."""
        late = queryset.filter(status=InvoiceStatus.OPEN, due_at__lt=timezone.now())
        return late if self.value() == "yes" else queryset


MOVED_BY = {
    "finalise": InvoiceStatus.OPEN,
    "mark_paid": InvoiceStatus.PAID,
    "mark_uncollectible": InvoiceStatus.UNCOLLECTIBLE,
    "void": InvoiceStatus.VOID,
}


@admin.register(Invoice)
class InvoiceAdmin(PapersAdmin, DraftsAdmin, MovesAdmin):
    """What tenants owe. Adding makes drafts of what is unbilled; actions move them; nobody edits one."""

    list_before_template = "admin/billing/invoice/sums.html"

    list_display = ["__str__", "tenant", "shown_status", "shown_total", "shown_period", "created_at", "due_at"]
    list_filter = ["status", OverdueFilter, "currency", "created_at", "tenant"]
    list_select_related = ["tenant"]
    search_fields = ["tenant__name", "stripe_invoice_id", "proof_sha256"]
    actions = ["finalise", "send", "credit", "mark_paid", "mark_uncollectible", "void"]
    inlines = [LineInline, NoteInline, EventInline]

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
        return f"{grouped_money(invoice.total, invoice.currency)} {invoice.currency}"

    @display(description="Due")  # type: ignore[untyped-decorator]  # unfold is untyped
    @asked_once
    def shown_due(self, invoice: Invoice) -> str:
        """What is still to be paid, with its notes."""
        (described,) = describe_invoices([invoice])
        return f"{grouped_money(described.amount_due, invoice.currency)} {invoice.currency}"

    @display(description="Period (UTC)")  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_period(self, invoice: Invoice) -> str:
        """The window that was asked for."""
        return _shown_range(invoice.period)

    @display(description="Sending")  # type: ignore[untyped-decorator]  # unfold is untyped
    @asked_once
    def shown_sending(self, invoice: Invoice) -> str:
        """How far on its way through Stripe, and why no further."""
        return services.sending_in_words(invoice)

    def get_fieldsets(self, request: HttpRequest, obj: Invoice | None = None) -> Any:
        """Its papers, what it is about, and the rest."""
        shown = [*self.paper_fields, "shown_sending", "tenant", "status", "shown_total", "shown_due"]
        kept = ["proof_sha256", "stripe_invoice_id", "particulars"]
        return [
            (None, {"fields": [*shown, "shown_period", "finalised_at", "due_at", "settled_at"]}),
            ("As it was made and finalised", {"fields": ["created_at", "created_by", "number", *kept]}),
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: Invoice | None = None) -> list[str]:
        """What is computed."""
        return [*self.paper_fields, "shown_sending", "shown_total", "shown_due", "shown_period"]

    def get_search_results(self, request: HttpRequest, queryset: QuerySet[Invoice], search_term: str) -> Any:
        """A number is an invoice's whole number, as the row has it or as it stands on paper."""
        number = search_term.strip().removeprefix(settings.INVOICE_NUMBER_PREFIX)
        if number.isdecimal() and int(number) <= LARGEST_ID:
            return queryset.filter(Q(number=int(number)) | Q(tenant__name__icontains=number)), False
        return super().get_search_results(request, queryset, search_term)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """With the sums of all that the filters leave, not of the one page alone."""
        response: HttpResponse = super().changelist_view(request, extra_context)
        context = getattr(response, "context_data", None) or {}
        if "cl" in context:
            context["sums"] = _sums_table(sum_up(context["cl"].queryset))
        return response

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one; its status is moved by actions."""
        return False

    def applies(self, action: str, row: Invoice) -> bool:
        """The legal moves; sending, of what is open and not at Stripe or stuck; crediting, of what is finalised."""
        if action == "send":
            stuck = row.outbox.filter(status=OutboxStatus.DEAD)
            return row.status == InvoiceStatus.OPEN and (not row.stripe_invoice_id or stuck.exists())
        if action == "credit":
            return row.status in services.CREDITABLE
        return MOVED_BY.get(action) in services.INVOICE_MOVES[row.status]

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: it is voided instead."""
        return False

    @admin.action(description="Finalise: number and freeze", permissions=["move"])
    def finalise(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> HttpResponse:
        """Drafts become open."""
        return self.ask_to_move(request, invoices.values_list("pk", flat=True), InvoiceStatus.OPEN)

    @admin.action(description="Send through Stripe", permissions=["move"])
    def send(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> HttpResponse:
        """For those that were finalised while Stripe could not take them."""
        return self.ask_to_move(request, invoices.values_list("pk", flat=True), SEND)

    def has_credit_permission(self, request: HttpRequest) -> bool:
        """Whoever may add credit notes."""
        return request.user.has_perm("billing.add_creditnote")

    @admin.action(description="Credit: draft a note", permissions=["credit"])
    def credit(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> HttpResponse:
        """To the form of a note about the invoice; each note has an amount and a reason of its own."""
        if len(invoices) > 1:
            messages.error(request, "A credit note is about one invoice: choose one.")
            return redirect("admin:billing_invoice_changelist")
        return redirect(f"{reverse('admin:billing_creditnote_add')}?invoice={invoices[0].pk}")

    @admin.action(description="Mark as paid", permissions=["move"])
    def mark_paid(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> HttpResponse:
        """The money has come."""
        return self.ask_to_move(request, invoices.values_list("pk", flat=True), InvoiceStatus.PAID)

    @admin.action(description="Mark as uncollectible", permissions=["move"])
    def mark_uncollectible(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> HttpResponse:
        """The money will not come."""
        return self.ask_to_move(request, invoices.values_list("pk", flat=True), InvoiceStatus.UNCOLLECTIBLE)

    @admin.action(description="Void: release its seconds", permissions=["move"])
    def void(self, request: HttpRequest, invoices: QuerySet[Invoice]) -> HttpResponse:
        """The seconds may be billed again."""
        return self.ask_to_move(request, invoices.values_list("pk", flat=True), InvoiceStatus.VOID)


@action_on(Tenant, description="Create invoices", permission="billing.add_invoice")
def create_invoices(tenants_admin: Any, request: HttpRequest, tenants: QuerySet[Tenant]) -> HttpResponse:
    """To the question which days, with these tenants chosen."""
    invoices = cast(InvoiceAdmin, admin.site.get_model_admin(Invoice))
    return invoices.ask_for_drafts(request, list(tenants.order_by("name")))


def _shown_range(period: Any) -> str:
    return f"{period.lower:%Y-%m-%d %H:%M:%S} – {period.upper:%Y-%m-%d %H:%M:%S}"


def _sums_table(sums: Iterable[ListSum]) -> dict[str, Any]:
    rows = [
        [one.currency, f"{one.invoices:,}"]
        + [grouped_money(amount, one.currency) for amount in (one.drafts, one.finalised, one.due)]
        for one in sums
    ]
    return {"headers": ["Currency", "Invoices", "Drafts", "Finalised", "Due"], "rows": rows}


@admin.register(InvoiceLine)
class InvoiceLineAdmin(ReadOnlyAdmin):
    """GPU time of one model at one rate."""

    list_display = ["invoice", "gpu_model", shown_price, shown_hours, "shown_amount"]
    fields = [
        "invoice",
        "gpu_model",
        "rate",
        shown_price,
        "shown_period",
        "held_seconds",
        "billed_seconds",
        "shown_amount",
    ]
    readonly_fields = [shown_price, "shown_period", "shown_amount"]
    list_filter = ["gpu_model"]
    list_select_related = ["invoice"]

    @admin.display(description="From – to (UTC)")
    def shown_period(self, line: InvoiceLine) -> str:
        """To the second."""
        return _shown_range(line.period)

    @admin.display(description="Amount", ordering="amount")
    def shown_amount(self, line: InvoiceLine) -> str:
        """With the currency's decimals."""
        return f"{grouped_money(line.amount, line.invoice.currency)} {line.invoice.currency}"


@admin.register(InvoiceEvent)
class InvoiceEventAdmin(ReadOnlyAdmin):
    """Every move of every invoice."""

    list_display = ["at", "invoice", "from_status", "to_status", "actor", "reason"]
    list_filter = ["to_status", "at"]
    list_select_related = ["invoice"]
    search_fields = ["invoice__number", "actor"]


@admin.register(BilledRange)
class BilledRangeAdmin(ReadOnlyAdmin):
    """Which seconds of which allocation stand on which line."""

    list_display = ["allocation", "line", shown_during, "released_at"]
    list_select_related = ["allocation", "line"]
    show_full_result_count = False
