"""What Stripe tells us: each event is stored once, and moves our invoice if the move is legal from where it stands.

Stripe sends events in any order and more than once. None of ours needs another to have come before: our own invoice has
been open since before Stripe heard of it, and an event that arrives late finds its move made, or made impossible.
"""

from datetime import datetime

import structlog
from django.db import transaction

from billing.gateway import RemoteEvent, RemoteInvoice
from billing.models import Invoice, InvoiceStatus, OutboxMessage, OutboxStep, StripeEvent
from billing.services.invoices import IllegalInvoiceMove, move_invoice

logger = structlog.stdlib.get_logger(__name__)

MOVES = {
    "invoice.paid": InvoiceStatus.PAID,
    "invoice.voided": InvoiceStatus.VOID,
    "invoice.marked_uncollectible": InvoiceStatus.UNCOLLECTIBLE,
}


@transaction.atomic
def handle_event(event: RemoteEvent, *, now: datetime) -> StripeEvent:
    """Store a verified event and do what it says, or find that it was done before."""
    invoice = _ours(event.invoice)
    row, new = StripeEvent.objects.get_or_create(
        stripe_id=event.stripe_id,
        defaults={
            "type": event.type[:100],
            "payload": event.payload,
            "invoice": invoice,
            "created_at": event.created_at,
            "received_at": now,
        },
    )
    if new:
        row.outcome = _apply(event, invoice, now)
        row.save(update_fields=["outcome"])
        logger.info("stripe event", type=event.type, stripe_id=event.stripe_id, outcome=row.outcome)
    return row


def _ours(remote: RemoteInvoice | None) -> Invoice | None:
    """By our reference, which Stripe had before we had Stripe's id."""
    if remote is None or remote.reference is None:
        return None
    created = OutboxMessage.objects.filter(step=OutboxStep.CREATE, reference=remote.reference)
    return Invoice.objects.filter(outbox__in=created).first()


def _apply(event: RemoteEvent, invoice: Invoice | None, now: datetime) -> str:
    to = MOVES.get(event.type)
    if invoice is None:
        return "not about an invoice of ours"
    if to is None:
        return "changes nothing here"
    try:
        with transaction.atomic():
            move_invoice(invoice_id=invoice.pk, to=to, actor="stripe", now=now, tell_stripe=False)
    except IllegalInvoiceMove as refusal:
        return "known already" if refusal.data["current"] == to else refusal.detail[:500]
    return f"the invoice is {to}"
