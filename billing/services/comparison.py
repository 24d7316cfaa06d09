"""The nightly comparison with Stripe: it lists what the two do not agree on, and mends nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from django.db import transaction

from billing.gateway import Gateway, RemoteInvoice, units_of
from billing.models import Invoice, InvoiceStatus, OutboxMessage, OutboxStatus, OutboxStep, StripeDifference

logger = structlog.stdlib.get_logger(__name__)

LOOK_BACK = timedelta(days=90)
# What was sent a moment ago may be on its way; it is compared tomorrow.
SETTLED_AFTER = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that the two say differently about one invoice."""

    stripe_invoice_id: str
    invoice_id: int | None
    what: str
    ours: str
    theirs: str


def compare_with_stripe(gateway: Gateway, *, now: datetime) -> int:
    """Compare the invoices that went to Stripe in the last 90 days. Returns how many differences there are now.

    Raises ``GatewayError`` when Stripe can't be read; what was known stays as it is.
    """
    since = now - LOOK_BACK
    sent = {invoice.stripe_invoice_id: invoice for invoice in _sent_invoices(since, now)}
    theirs = {remote.stripe_id: remote for remote in gateway.list_invoices(since=since - SETTLED_AFTER)}
    missing = [stripe_id for stripe_id in sent if stripe_id not in theirs]
    theirs.update((found.stripe_id, found) for found in map(gateway.get_invoice, missing) if found is not None)
    differences = [*_of_ours(sent, theirs), *_of_theirs(theirs)]
    _record(differences, now)
    logger.info("compared with Stripe", invoices=len(sent), differences=len(differences))
    return len(differences)


def _sent_invoices(since: datetime, now: datetime) -> list[Invoice]:
    """Those that Stripe should have by now, and of which nothing is on its way."""
    unfinished = OutboxMessage.objects.exclude(status=OutboxStatus.DONE).values("invoice")
    sent = Invoice.objects.exclude(stripe_invoice_id="").filter(finalised_at__gte=since)
    fresh = OutboxMessage.objects.filter(done_at__gt=now - SETTLED_AFTER).values("invoice")
    return list(sent.exclude(pk__in=unfinished).exclude(pk__in=fresh))


def _of_ours(sent: dict[str, Invoice], theirs: dict[str, RemoteInvoice]) -> Iterator[Difference]:
    for stripe_id, invoice in sent.items():
        remote = theirs.get(stripe_id)
        for what, mine, other in _pairs(invoice, remote):
            if mine != other:
                yield Difference(stripe_id, invoice.pk, what, mine, other)


def _pairs(invoice: Invoice, remote: RemoteInvoice | None) -> list[tuple[str, str, str]]:
    """What is compared, as we have it and as they have it. A void invoice may be a draft that was deleted there."""
    status = str(invoice.status)
    if remote is None:
        return [("status", status, "void" if status == InvoiceStatus.VOID else "missing")]
    total = f"{units_of(invoice.total, invoice.currency)} {invoice.currency}"
    return [("status", status, remote.status), ("total", total, f"{remote.total} {remote.currency}")]


def _of_theirs(theirs: dict[str, RemoteInvoice]) -> Iterator[Difference]:
    """Invoices at Stripe that carry a reference of ours, and that ours do not know: a second one, or a stray."""
    carrying = [remote for remote in theirs.values() if remote.reference is not None]
    messages = OutboxMessage.objects.filter(
        step=OutboxStep.CREATE, reference__in=[remote.reference for remote in carrying]
    ).select_related("invoice")
    invoices = {message.reference: message.invoice for message in messages if message.status == OutboxStatus.DONE}
    on_their_way = {message.reference for message in messages if message.status != OutboxStatus.DONE}
    for remote in carrying:
        if remote.reference is None or remote.reference in on_their_way:
            continue
        invoice = invoices.get(remote.reference)
        known = "no such invoice" if invoice is None else invoice.stripe_invoice_id or "never sent"
        if known != remote.stripe_id:
            yield Difference(remote.stripe_id, invoice.pk if invoice else None, "identity", known, remote.stripe_id)


@transaction.atomic
def _record(differences: list[Difference], now: datetime) -> None:
    open_ = {(row.stripe_invoice_id, row.what): row for row in StripeDifference.objects.filter(gone_at__isnull=True)}
    for difference in differences:
        row = open_.pop((difference.stripe_invoice_id, difference.what), None)
        row = row or StripeDifference(
            stripe_invoice_id=difference.stripe_invoice_id,
            invoice_id=difference.invoice_id,
            what=difference.what,
            found_at=now,
        )
        row.ours, row.theirs, row.last_seen_at = difference.ours, difference.theirs, now
        row.save()
    gone = [row.pk for row in open_.values()]
    StripeDifference.objects.filter(pk__in=gone).update(gone_at=now)
