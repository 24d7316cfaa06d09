"""What is owed, by how long it has been due."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

from billing.models import Invoice, InvoiceStatus
from billing.queries import describe_invoices
from tenants.models import Tenant

# Days past the due date up to which an amount stands in a column; the last column has no end.
AGES: Sequence[tuple[str, int | None]] = (
    ("Not due yet", 0),
    ("1–30 days", 30),
    ("31–60 days", 60),
    ("61–90 days", 90),
    ("Older", None),
)


@dataclass(slots=True)
class Owed:
    """What one tenant owes: an amount for each of ``AGES``."""

    tenant: Tenant
    amounts: list[Decimal] = field(default_factory=lambda: [Decimal(0)] * len(AGES))

    @property
    def total(self) -> Decimal:
        """All of it."""
        return sum(self.amounts, Decimal(0))


def aged_receivables(currency: str, *, now: datetime) -> list[Owed]:
    """What is due on open invoices, with their notes, by tenant; who owes most comes first. Two queries."""
    invoices = Invoice.objects.filter(status=InvoiceStatus.OPEN, currency=currency).select_related("tenant")
    owed: dict[int, Owed] = {}
    for report in describe_invoices(invoices.order_by("pk")):
        invoice = report.invoice
        row = owed.setdefault(invoice.tenant_id, Owed(invoice.tenant))
        row.amounts[_column(now - (invoice.due_at or now))] += report.amount_due
    return sorted(owed.values(), key=lambda row: (-row.total, row.tenant.name))


def _column(late: timedelta) -> int:
    ends = [days for _, days in AGES if days is not None]
    return sum(late > timedelta(days=days) for days in ends)
