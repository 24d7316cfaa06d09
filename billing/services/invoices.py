"""Making invoices of unbilled time, and moving them through their life."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal

import structlog
from django.conf import settings
from django.db import transaction
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Max

from billing.ledger import MeteredLine, unbilled_lines
from billing.models import BilledRange, CreditNoteStatus, Invoice, InvoiceEvent, InvoiceLine, InvoiceStatus
from billing.proofs import proof_of
from billing.queries import number_of, particulars_of
from billing.services.corrections import refresh_notes
from billing.services.notes import withdraw
from billing.services.sending import queue_invoice, queue_status, why_not_sendable
from gpufleet.common.errors import Conflict, DomainError, NotFound
from gpufleet.common.failpoints import reach
from gpufleet.common.locks import lock_name, lock_rows
from jobs.models import Allocation
from tenants.models import Tenant

logger = structlog.stdlib.get_logger(__name__)

# Whoever presses the button a moment after a colleague finds only the moment that running jobs have gone on for.
# That alone is not worth an invoice: it stays for the next one.
TOO_YOUNG = timedelta(seconds=5)

INVOICE_MOVES: dict[str, tuple[str, ...]] = {
    InvoiceStatus.DRAFT: (InvoiceStatus.OPEN, InvoiceStatus.VOID),
    InvoiceStatus.OPEN: (InvoiceStatus.PAID, InvoiceStatus.VOID, InvoiceStatus.UNCOLLECTIBLE),
    InvoiceStatus.UNCOLLECTIBLE: (InvoiceStatus.PAID, InvoiceStatus.VOID),
    InvoiceStatus.PAID: (),
    InvoiceStatus.VOID: (),
}


@dataclass(slots=True)
class Outcome:
    """What came of many invoices at once: those that were made or moved, and why the others were not, by the id of the
    tenant or the invoice that was asked for."""

    invoices: list[Invoice] = field(default_factory=list)
    refusals: dict[int, DomainError] = field(default_factory=dict)


class NothingToBill(Conflict):
    """Every sold and priced second of the window stands on an invoice already, or there is none."""

    code = "nothing_to_bill"


class IllegalInvoiceMove(Conflict):
    """The invoice's status does not allow it; ``legal`` names the moves that it allows."""

    code = "illegal_move"


class UnbilledTimeChanged(Conflict):
    """Somebody billed, or the ledger went on, since the preview that was agreed to; ``total`` is what it is now."""

    code = "unbilled_time_changed"


@dataclass(frozen=True, slots=True)
class Preview:
    """The lines that an invoice would have; none where there is nothing to bill."""

    tenant: Tenant
    lines: list[MeteredLine]

    @property
    def currency(self) -> str:
        """Of the lines; without any, the tenant's."""
        return self.lines[0].terms.currency if self.lines else self.tenant.currency

    @property
    def total(self) -> Decimal:
        """The invoice's, exactly."""
        return sum((line.price.amount for line in self.lines), Decimal(0))


@transaction.atomic
def create_invoice(
    *,
    tenant_id: int,
    start: datetime,
    end: datetime,
    created_by: str,
    now: datetime,
    expected_total: Decimal | None = None,
) -> Invoice:
    """A draft of exactly the tenant's sold and priced seconds in ``[start, end)`` that no invoice holds yet.

    What still runs is billed up to ``end`` or ``now``, and goes on with the next invoice. An invoice is in one
    currency: the tenant's, or else another one that seconds were sold in before it changed. ``expected_total`` is what
    a preview of the same window said, if the draft may say nothing else.
    Raises ``NotFound`` for an unknown tenant, ``NothingToBill`` and ``UnbilledTimeChanged``.
    """
    tenant = lock_rows(Tenant.objects.all(), [tenant_id]).get(tenant_id)
    if tenant is None:
        raise NotFound
    _hold_what_runs(tenant_id)
    preview = preview_invoice(tenant, start=start, end=end, now=now)
    if expected_total is not None and preview.total != expected_total:
        detail = f"The unbilled time has changed since the preview: it comes to {preview.total} {preview.currency} now."
        raise UnbilledTimeChanged(detail, total=str(preview.total))
    invoice = Invoice.objects.create(
        tenant=tenant,
        currency=preview.currency,
        period=DateTimeTZRange(start, min(end, now)),
        total=preview.total,
        created_at=now,
        created_by=created_by,
    )
    _write_lines(invoice, preview.lines)
    logger.info("invoice drafted", invoice_id=invoice.pk, tenant_id=tenant_id, total=str(invoice.total))
    return invoice


def preview_invoice(tenant: Tenant, *, start: datetime, end: datetime, now: datetime) -> Preview:
    """What ``create_invoice`` would make, changing nothing. Raises ``NothingToBill``."""
    (preview,) = preview_invoices([tenant], start=start, end=end, now=now)
    if not preview.lines:
        raise NothingToBill("There is no sold and priced GPU time in this window that no invoice holds yet.")
    return preview


def preview_invoices(tenants: Collection[Tenant], *, start: datetime, end: datetime, now: datetime) -> list[Preview]:
    """What ``create_invoice`` would make for each of these tenants, in their order; one query for all."""
    until, ids = min(end, now), [tenant.pk for tenant in tenants]
    lines: dict[int, list[MeteredLine]] = {tenant_id: [] for tenant_id in ids}
    for line in unbilled_lines(tenant_ids=ids, start=start, end=until) if start < until else []:
        lines[line.owner_id].append(line)
    return [Preview(tenant, _billable(lines[tenant.pk], tenant.currency, now)) for tenant in tenants]


def _hold_what_runs(tenant_id: int) -> None:
    """Whoever ends a job while it is billed either was first, and then its end is what is billed up to, or waits, and
    then finds on the invoice how long the time was sold. Locked in the order in which a job's own are."""
    running = Allocation.objects.filter(tenant_id=tenant_id, during__upper_inf=True).order_by("pk")
    list(running.select_for_update(no_key=True).values_list("pk"))


def create_invoices(
    *, expected_totals: Mapping[int, Decimal | None], start: datetime, end: datetime, created_by: str, now: datetime
) -> Outcome:
    """A draft for each of these tenants, as ``create_invoice`` makes it; one that is refused stops no other.

    ``expected_totals`` is, by tenant, what a preview of the window said, or None for whatever there is.
    """
    drafts = Outcome()
    for tenant_id, expected in sorted(expected_totals.items()):
        try:
            made = create_invoice(
                tenant_id=tenant_id, start=start, end=end, created_by=created_by, now=now, expected_total=expected
            )
            drafts.invoices.append(made)
        except DomainError as refusal:
            drafts.refusals[tenant_id] = refusal
    return drafts


def move_invoices(*, invoice_ids: Collection[int], to: str, actor: str, now: datetime, reason: str = "") -> Outcome:
    """Move each of these invoices, as ``move_invoice`` does; one that is refused stops no other."""
    moved = Outcome()
    for invoice_id in sorted(invoice_ids):
        try:
            moved.invoices.append(move_invoice(invoice_id=invoice_id, to=to, actor=actor, now=now, reason=reason))
        except DomainError as refusal:
            moved.refusals[invoice_id] = refusal
    return moved


@transaction.atomic
def move_invoice(
    *, invoice_id: int, to: str, actor: str, now: datetime, reason: str = "", tell_stripe: bool = True
) -> Invoice:
    """Move an invoice to another status, put it on record, and what Stripe must hear of it into the outbox.

    ``open`` finalises a draft: it gets the next number without a gap, freezes, and is sent if it can be; what rates
    that were recorded late change on it becomes a draft note. ``void`` releases its seconds. Raises ``NotFound`` and
    ``IllegalInvoiceMove``.
    """
    invoice = lock_rows(Invoice.objects.all(), [invoice_id]).get(invoice_id)
    if invoice is None:
        raise NotFound
    legal = INVOICE_MOVES[invoice.status]
    if to not in legal:
        detail = f"This invoice is {invoice.status}; it can't become {to}."
        raise IllegalInvoiceMove(detail, current=invoice.status, legal=list(legal))
    before = invoice.status
    EFFECTS[to](invoice, now)
    InvoiceEvent.objects.create(invoice=invoice, at=now, from_status=before, to_status=to, actor=actor, reason=reason)
    reach("invoice.moving")
    if tell_stripe:
        _tell_stripe(invoice, now)
    transaction.on_commit(lambda: reach("invoice.moved"))
    logger.info("invoice moved", invoice_id=invoice.pk, number=invoice.number, to=to, actor=actor)
    return invoice


def _tell_stripe(invoice: Invoice, now: datetime) -> None:
    if invoice.status != InvoiceStatus.OPEN:
        queue_status(invoice, now)
    elif not why_not_sendable(invoice):
        queue_invoice(invoice, now)


def _too_young(line: MeteredLine, now: datetime) -> bool:
    return all(piece.continues and piece.stretch.start > now - TOO_YOUNG for piece in line.pieces)


def _billable(lines: Sequence[MeteredLine], preferred: str, now: datetime) -> list[MeteredLine]:
    """The lines of one currency, the preferred one if there are any; none where all are too young."""
    if all(_too_young(line, now) for line in lines):
        return []
    chosen = min((line.terms.currency for line in lines), key=lambda code: (code != preferred, code))
    return [line for line in lines if line.terms.currency == chosen]


def _write_lines(invoice: Invoice, lines: Sequence[MeteredLine]) -> None:
    rows = InvoiceLine.objects.bulk_create(
        InvoiceLine(
            invoice=invoice,
            gpu_model=line.gpu_model,
            rate_id=line.rate_id,
            price_per_gpu_hour=line.terms.price_per_gpu_hour,
            period=DateTimeTZRange(*line.period),
            held_seconds=line.held_seconds,
            billed_seconds=line.price.billed_seconds,
            amount=line.price.amount,
        )
        for line in lines
    )
    ranges = (
        BilledRange(
            line=row,
            allocation_id=piece.allocation_id,
            during=DateTimeTZRange(piece.stretch.start, piece.stretch.end),
        )
        for row, line in zip(rows, lines, strict=True)
        for piece in line.pieces
    )
    BilledRange.objects.bulk_create(ranges, batch_size=5_000)


def _finalise(invoice: Invoice, now: datetime) -> None:
    lock_name("billing.invoice-number")
    last: int | None = Invoice.objects.aggregate(last=Max("number"))["last"]
    invoice.number = (last or 0) + 1
    invoice.proof_sha256 = proof_of(invoice).sha256
    invoice.particulars = {"number": number_of(invoice), **particulars_of(invoice.tenant)}
    invoice.status = InvoiceStatus.OPEN
    invoice.finalised_at = now
    invoice.due_at = now + timedelta(days=settings.INVOICE_DUE_DAYS)
    invoice.save()
    refresh_notes([invoice], now=now)


def _void(invoice: Invoice, now: datetime) -> None:
    if invoice.credit_notes.filter(status=CreditNoteStatus.ISSUED).exists():
        detail = "Credit notes were issued on this invoice; voiding it would give their money back twice."
        raise IllegalInvoiceMove(detail, current=invoice.status, legal=[])
    for draft in invoice.credit_notes.filter(status=CreditNoteStatus.DRAFT):
        withdraw(draft, reason="The invoice is void.", now=now)
    _settle(InvoiceStatus.VOID)(invoice, now)
    BilledRange.objects.filter(line__invoice=invoice).update(released_at=now)


def _settle(status: InvoiceStatus) -> Callable[[Invoice, datetime], None]:
    def settle(invoice: Invoice, now: datetime) -> None:
        invoice.status = status
        invoice.settled_at = now
        invoice.save(update_fields=["status", "settled_at"])

    return settle


EFFECTS: dict[str, Callable[[Invoice, datetime], None]] = {
    InvoiceStatus.OPEN: _finalise,
    InvoiceStatus.VOID: _void,
    InvoiceStatus.PAID: _settle(InvoiceStatus.PAID),
    InvoiceStatus.UNCOLLECTIBLE: _settle(InvoiceStatus.UNCOLLECTIBLE),
}
