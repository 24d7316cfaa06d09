"""Money that was earned and is not here yet: time that no invoice holds, invoices past due, and failed syncs."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from heapq import nlargest

from django.db.models import Q

from billing.models import Invoice, InvoiceStatus, OutboxMessage, OutboxStatus
from billing.queries import InvoiceReport, describe_invoices, minor_unit_of, number_of
from dashboard.queries.billed import billed_time
from dashboard.queries.causes import UNBILLED_AFTER, UNBILLED_SINCE, Cause
from dashboard.queries.losses import ROWS_SHOWN, Behind, Bucket, Loss, Row
from dashboard.queries.prices import Tally, amount_of, in_millionths
from jobs import ledger
from jobs.ledger import By, Scope


def unbilled(currency: str, *, now: datetime) -> Bucket:
    """Sold and priced, minus what stands on invoices, by tenant; of time that is older than billing needs."""
    start, end = now - UNBILLED_SINCE, now - UNBILLED_AFTER
    tallies: defaultdict[int, Tally] = defaultdict(Tally)
    for row in ledger.sales(Scope(start, end), [By.TENANT, By.RATE]):
        if row.tenant_id is not None and row.price_per_gpu_hour is not None and row.currency == currency:
            tallies[row.tenant_id].add(row.held, in_millionths(row.price_per_gpu_hour))
    for billed in billed_time(currency, start=start, end=end, by_day=False):
        tally = tallies[billed.tenant_id]
        tally.microseconds -= billed.microseconds
        tally.worth -= billed.worth
    bucket = Bucket()
    for tenant_id, tally in tallies.items():
        if tally.microseconds:
            bucket.rows[Behind(tenant_id=tenant_id)] = tally
            bucket.total.microseconds += tally.microseconds
            bucket.total.worth += tally.worth
    return bucket


def overdue(currency: str, *, now: datetime, most: int = ROWS_SHOWN) -> Loss:
    """What is due on open invoices past their date."""
    invoices = Invoice.objects.filter(status=InvoiceStatus.OPEN, due_at__lt=now, currency=currency)
    reports = describe_invoices(invoices.order_by("pk"))
    labels = {
        report.invoice.pk: f"Invoice {number_of(report.invoice)}, due {report.invoice.due_at:%Y-%m-%d}"
        for report in reports
    }
    return _of_invoices(Cause.OVERDUE, reports, labels, currency, most)


def failed_syncs(currency: str, *, most: int = ROWS_SHOWN) -> Loss:
    """What is due on invoices of which a step to Stripe is a dead letter, or was tried in vain and waits."""
    failed = Q(status=OutboxStatus.DEAD) | Q(status=OutboxStatus.PENDING, attempts__gt=0)
    messages = OutboxMessage.objects.filter(failed, invoice__currency=currency).order_by("pk")
    said: dict[int, str] = {}
    for invoice_id, step, attempts, error in messages.values_list("invoice_id", "step", "attempts", "last_error"):
        # What comes first holds the others back.
        said.setdefault(
            invoice_id, f"{step}, tried {attempts} time{'' if attempts == 1 else 's'}: {error}".rstrip(": ")
        )
    reports = describe_invoices(Invoice.objects.filter(pk__in=said).order_by("pk"))
    labels = {
        report.invoice.pk: f"Invoice {number_of(report.invoice)}: {said[report.invoice.pk]}" for report in reports
    }
    return _of_invoices(Cause.FAILED_SYNC, reports, labels, currency, most)


def _of_invoices(
    cause: Cause, reports: Iterable[InvoiceReport], labels: dict[int, str], currency: str, most: int
) -> Loss:
    reports, unit = list(reports), minor_unit_of(currency)
    largest = nlargest(most, reports, key=lambda report: report.amount_due)
    rows = [
        Row(
            Behind(tenant_id=report.invoice.tenant_id, invoice_id=report.invoice.pk),
            0,
            report.amount_due.quantize(unit),
            label=labels[report.invoice.pk],
        )
        for report in largest
    ]
    amount = sum((report.amount_due for report in reports), amount_of(0, currency))
    return Loss(cause, 0, 0, Decimal(amount).quantize(unit), rows, len(reports))
