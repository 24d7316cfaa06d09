"""An invoice's page: what differs from the invoice before it, before somebody finalises or sends it."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from django.db.models import Sum
from django.http import HttpRequest

from billing.models import Invoice, InvoiceLine, InvoiceStatus
from billing.queries import minor_unit_of
from gpufleet.common.panels import Panel, panel_on

Figures = tuple[Decimal, Decimal]  # GPU-hours and an amount.
NOTHING: Figures = (Decimal(0), Decimal(0))


@dataclass(frozen=True, slots=True)
class Compared:
    """A GPU model, or all: GPU-hours and amounts then and now. ``change``: in percent, where there is a then."""

    name: str
    hours_before: Decimal
    hours: Decimal
    before: Decimal
    amount: Decimal
    change: Decimal | None


@dataclass(frozen=True, slots=True)
class InvoicePanel:
    """``before``: the tenant's latest invoice of a period that ended earlier, in the same currency, void ones apart."""

    invoice: Invoice
    before: Invoice | None
    rows: list[Compared]
    total: Compared | None


@panel_on(Invoice)
def invoice_panel(request: HttpRequest, invoice: Invoice) -> Panel:
    """Two queries."""
    # By their ends: "the last 30 days" may well begin before the week that was billed last.
    earlier = Invoice.objects.filter(
        tenant_id=invoice.tenant_id, currency=invoice.currency, period__endswith__lt=invoice.period.upper
    ).exclude(status=InvoiceStatus.VOID)
    before = earlier.order_by("-period__endswith", "-pk").first()
    if before is None:
        return Panel("dashboard/pages/invoice.html", InvoicePanel(invoice, None, [], None))
    lines = _lines([before.pk, invoice.pk])
    then, now = lines.get(before.pk, {}), lines.get(invoice.pk, {})
    rows = [
        _compared(model, then.get(model, NOTHING), now.get(model, NOTHING), invoice.currency)
        for model in sorted({*then, *now})
    ]
    total = _compared("Together", _sum(then.values()), _sum(now.values()), invoice.currency)
    return Panel("dashboard/pages/invoice.html", InvoicePanel(invoice, before, rows, total))


def _lines(invoice_ids: Iterable[int]) -> dict[int, dict[str, Figures]]:
    """By invoice and model."""
    found: dict[int, dict[str, Figures]] = {}
    rows = (
        InvoiceLine.objects.filter(invoice_id__in=list(invoice_ids)).order_by().values_list("invoice_id", "gpu_model")
    )
    for invoice_id, model, seconds, amount in rows.annotate(seconds=Sum("billed_seconds"), sum=Sum("amount")):
        found.setdefault(invoice_id, {})[model] = (Decimal(seconds) / 3600, amount)
    return found


def _compared(name: str, then: Figures, now: Figures, currency: str) -> Compared:
    unit = minor_unit_of(currency)
    change = round(100 * (now[1] / then[1] - 1), 1) if then[1] else None
    return Compared(name, then[0], now[0], then[1].quantize(unit), now[1].quantize(unit), change)


def _sum(figures: Iterable[Figures]) -> Figures:
    hours, amounts = zip(NOTHING, *figures, strict=True)
    return sum(hours, Decimal(0)), sum(amounts, Decimal(0))
