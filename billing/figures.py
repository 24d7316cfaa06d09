"""The figures of a window: what was billed, corrected, paid and is still open, by tenant and by model."""

from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.db.models import Count, DecimalField, Q, QuerySet, Sum, Value
from django.db.models.functions import Coalesce

from billing.ledger import unbilled_lines
from billing.models import CreditNote, Invoice, InvoiceLine, InvoiceStatus, NoteKind
from billing.pricing import MICROSECONDS
from billing.queries import DEFAULT_CURRENCY, InvoiceReport, list_invoices, note_sums, sum_of_issued
from jobs import ledger
from jobs.ledger import By, Scope
from tenants.callers import Caller
from tenants.models import Tenant


@dataclass(slots=True)
class Figures:
    """Money of one currency: ``billed``, ``credited``, ``debited``, ``paid`` and ``uncollectible`` are of invoices
    finalised in the window; ``draft``, ``open`` and ``overdue`` (a part of open) are of all that stand so now, with the
    debit notes that came after an invoice was paid; ``unbilled`` is sold time of the window that no invoice holds."""

    billed: Decimal = Decimal(0)
    credited: Decimal = Decimal(0)
    debited: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)
    uncollectible: Decimal = Decimal(0)
    draft: Decimal = Decimal(0)
    open: Decimal = Decimal(0)
    overdue: Decimal = Decimal(0)
    unbilled: Decimal = Decimal(0)

    def add(self, other: "Figures") -> None:
        """Add the other's figures to these."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


@dataclass(frozen=True, slots=True)
class Summary:
    """What a window earned, in one currency. ``currencies`` are all that tenants have invoices or unbilled time in."""

    start: datetime
    end: datetime
    currency: str
    currencies: tuple[str, ...]
    total: Figures
    by_tenant: dict[int, Figures]
    by_model: dict[str, Figures]
    unpriced_gpu_seconds: Decimal


def summarise(caller: Caller, *, start: datetime, end: datetime, currency: str | None = None) -> Summary:
    """The figures of ``[start, end)``, of the caller's tenant or of all; ``end`` is now.

    ``currency`` is the tenant's own when None, or USD for callers without a tenant. A model's figures are its lines
    (``billed``) and its unbilled time. Overdue invoices are judged at ``end``.
    """
    tenant_ids = None if caller.tenant_id is None else [caller.tenant_id]
    tenant = Tenant.objects.filter(pk__in=tenant_ids or []).first()
    currency = currency or (tenant.currency if tenant else DEFAULT_CURRENCY)
    lines = unbilled_lines(start=start, end=end, tenant_ids=tenant_ids)
    invoices = list_invoices(caller).order_by()
    codes = {*invoices.values_list("currency", flat=True).distinct(), *(line.terms.currency for line in lines)}
    by_tenant = _invoice_figures(invoices.filter(currency=currency), start, end)
    by_model = _line_figures(invoices.filter(currency=currency), start, end)
    for line in lines:
        if line.terms.currency == currency:
            by_tenant.setdefault(line.owner_id, Figures()).unbilled += line.price.amount
            by_model.setdefault(line.gpu_model, Figures()).unbilled += line.price.amount
    total = Figures()
    for figures in by_tenant.values():
        total.add(figures)
    unpriced = _unpriced_seconds(Scope(start, end), tenant_ids)
    return Summary(start, end, currency, tuple(sorted(codes)), total, by_tenant, by_model, unpriced)


def _invoice_figures(invoices: QuerySet[Invoice], start: datetime, end: datetime) -> dict[int, Figures]:
    """One query: each invoice with what notes did to it, summed up by tenant."""
    long_ago = end - timedelta(days=settings.INVOICE_DUE_DAYS)
    late = sum_of_issued("credit_notes__", kind=NoteKind.DEBIT, settled_at=None, decided_at__lt=long_ago)
    by_tenant: dict[int, Figures] = {}
    sums = note_sums("credit_notes__")
    rows = invoices.exclude(status=InvoiceStatus.VOID).annotate(
        credited=sums["credited"], debited=sums["debited"], owed=sums["owed"], late=late
    )
    for invoice in rows:
        figures = by_tenant.setdefault(invoice.tenant_id, Figures())
        report = InvoiceReport(invoice, invoice.credited, invoice.debited, invoice.owed)
        figures.add(_figures_of(report, invoice.late, start, end))
    return by_tenant


def _figures_of(report: InvoiceReport, late: Decimal, start: datetime, end: datetime) -> Figures:
    """``late`` is the part of what is owed on a paid invoice that has been so for longer than invoices may be."""
    invoice = report.invoice
    figures = Figures(open=report.amount_due)
    if invoice.status == InvoiceStatus.DRAFT:
        figures.draft = invoice.total
    if invoice.status == InvoiceStatus.PAID:
        figures.overdue = late
    elif invoice.due_at is not None and invoice.due_at < end:
        figures.overdue = report.amount_due
    if invoice.finalised_at is not None and start <= invoice.finalised_at < end:
        figures.billed, figures.credited, figures.debited = invoice.total, report.credited, report.debited
        if invoice.status == InvoiceStatus.PAID:
            figures.paid = report.balance - report.owed
        if invoice.status == InvoiceStatus.UNCOLLECTIBLE:
            figures.uncollectible = report.balance
    return figures


def _line_figures(invoices: QuerySet[Invoice], start: datetime, end: datetime) -> dict[str, Figures]:
    finalised = invoices.exclude(status=InvoiceStatus.VOID).filter(finalised_at__gte=start, finalised_at__lt=end)
    lines = InvoiceLine.objects.filter(invoice__in=finalised).order_by()
    return {model: Figures(billed=billed) for model, billed in lines.values_list("gpu_model").annotate(Sum("amount"))}


def _unpriced_seconds(scope: Scope, tenant_ids: list[int] | None) -> Decimal:
    """GPU-seconds of tenants that started without a rate in force, and so are on no invoice."""
    sold = ledger.sales(scope, [By.TENANT, By.RATE], tenants=tenant_ids)
    held = sum(row.held for row in sold if row.tenant_id is not None and row.price_per_gpu_hour is None)
    return Decimal(held) / MICROSECONDS


@dataclass(frozen=True, slots=True)
class ListSum:
    """What some invoices of one currency come to: those that are drafts, those that are finalised and not void, and
    what is to be paid of these now, with their notes."""

    currency: str
    invoices: int
    drafts: Decimal
    finalised: Decimal
    due: Decimal


def sum_up(invoices: QuerySet[Invoice]) -> list[ListSum]:
    """The sums of these invoices by currency, in two queries however many they are."""
    chosen = Invoice.objects.filter(pk__in=invoices.order_by().values("pk")).order_by()
    by_currency = chosen.values_list("currency").annotate(
        count=Count("pk"),
        drafts=_total(Q(status=InvoiceStatus.DRAFT)),
        finalised=_total(~Q(status__in=[InvoiceStatus.DRAFT, InvoiceStatus.VOID])),
        open=_total(Q(status=InvoiceStatus.OPEN)),
    )
    is_open, is_paid = Q(invoice__status=InvoiceStatus.OPEN), Q(invoice__status=InvoiceStatus.PAID)
    notes = CreditNote.objects.filter(is_open | is_paid, invoice__in=chosen.values("pk")).order_by()
    by_notes = notes.values_list("invoice__currency").annotate(
        change=sum_of_issued("", kind=NoteKind.DEBIT, settled_at=None)
        - sum_of_issued("", kind=NoteKind.CREDIT, invoice__status=InvoiceStatus.OPEN)
    )
    changes = dict(by_notes)
    return [
        ListSum(currency, count, drafts, finalised, open_ + changes.get(currency, Decimal(0)))
        for currency, count, drafts, finalised, open_ in by_currency.order_by("currency")
    ]


def _total(condition: Q) -> Any:
    nothing = Value(Decimal(0), DecimalField(max_digits=18, decimal_places=3))
    return Coalesce(Sum("total", filter=condition), nothing)
