"""What Stripe must hear of, written into the outbox in the transaction of its cause. Sending it is ``outbox``'s."""

from collections.abc import Collection
from datetime import datetime
from uuid import UUID, uuid4

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet

from billing.gateway import MOST_LINES, NotPayable, units_of
from billing.models import (
    CreditNote,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    OutboxMessage,
    OutboxStatus,
    OutboxStep,
    StripeCustomer,
)
from gpufleet.common.errors import Conflict, NotFound
from gpufleet.common.locks import lock_rows

logger = structlog.stdlib.get_logger(__name__)

# Of a later status Stripe hears by these steps, if it heard of the invoice at all.
STEP_OF_STATUS = {
    InvoiceStatus.PAID: OutboxStep.PAY,
    InvoiceStatus.UNCOLLECTIBLE: OutboxStep.WRITE_OFF,
    InvoiceStatus.VOID: OutboxStep.VOID,
}


class NotSendable(Conflict):
    """The invoice can't go through Stripe; the sentence says why."""

    code = "not_sendable"


class NothingToRetry(Conflict):
    """The step is not a dead letter."""

    code = "nothing_to_retry"


@transaction.atomic
def send_invoice(*, invoice_id: int, actor: str, now: datetime) -> Invoice:
    """Put an open invoice on its way to Stripe. What Stripe refused is tried again; what is on its way stays as it is.

    Raises ``NotFound`` and ``NotSendable``.
    """
    invoice = lock_rows(Invoice.objects.all(), [invoice_id]).get(invoice_id)
    if invoice is None:
        raise NotFound
    hindrance = why_not_sendable(invoice)
    if hindrance:
        raise NotSendable(hindrance)
    queue_invoice(invoice, now)
    _revive(OutboxMessage.objects.filter(invoice=invoice), now)
    logger.info("invoice queued for Stripe", invoice_id=invoice.pk, actor=actor)
    return invoice


def why_not_sendable(invoice: Invoice) -> str:
    """Why the invoice can't go through Stripe, as a sentence; empty when it can."""
    if not settings.STRIPE_API_KEY:
        return "Stripe is not set up: there is no STRIPE_API_KEY."
    if invoice.status != InvoiceStatus.OPEN:
        return f"Only an open invoice is sent; this one is {invoice.status}."
    if not invoice.tenant.contact_email:
        return "The tenant has no contact e-mail to send it to."
    if invoice.total == 0:
        return "There is nothing to pay."
    return _why_not_payable(invoice, list(invoice.lines.all()))


def sending_in_words(invoice: Invoice) -> str:
    """How far the invoice is on its way through Stripe, and why no further: a sentence for a person."""
    unfinished = invoice.outbox.exclude(status=OutboxStatus.DONE).order_by("pk").first()
    if unfinished is not None:
        step = OutboxStep(unfinished.step).label
        if unfinished.status == OutboxStatus.DEAD:
            return f"Failed at “{step}”: {unfinished.last_error}"
        waits = f" ({unfinished.last_error})" if unfinished.last_error else ""
        return f"On its way; next: “{step}”{waits}"
    if invoice.stripe_invoice_id:
        return f"Sent as {invoice.stripe_invoice_id}."
    hindrance = why_not_sendable(invoice) if invoice.status == InvoiceStatus.OPEN else ""
    return f"Not sent. {hindrance}".strip()


def queue_invoice(invoice: Invoice, now: datetime) -> None:
    """Write the steps of sending: customer, invoice, a line each, finalise, send. Written twice, they stand once."""
    customer, _ = StripeCustomer.objects.get_or_create(
        tenant=invoice.tenant, defaults={"reference": uuid4(), "created_at": now}
    )
    steps = [
        _step(invoice, OutboxStep.CUSTOMER, now, reference=customer.reference),
        _step(invoice, OutboxStep.CREATE, now),
        *(_step(invoice, OutboxStep.ITEM, now, line=line) for line in invoice.lines.order_by("pk")),
        _step(invoice, OutboxStep.FINALISE, now),
        _step(invoice, OutboxStep.SEND, now),
    ]
    OutboxMessage.objects.bulk_create(steps, ignore_conflicts=True)


def queue_status(invoice: Invoice, now: datetime) -> None:
    """Write the step that tells Stripe of the invoice's new status, if Stripe heard of it at all.

    A void invoice is sent no further: what is dead gets another try, which finds that there is nothing left to do.
    """
    messages = OutboxMessage.objects.filter(invoice=invoice)
    if not messages.exists():
        return
    step = _step(invoice, STEP_OF_STATUS[InvoiceStatus(invoice.status)], now)
    OutboxMessage.objects.bulk_create([step], ignore_conflicts=True)
    if invoice.status == InvoiceStatus.VOID:
        _revive(messages, now)


def queue_credit(note: CreditNote, now: datetime) -> None:
    """Write the step that tells Stripe of an issued credit note, if Stripe heard of its invoice at all."""
    if OutboxMessage.objects.filter(invoice=note.invoice).exists():
        step = _step(note.invoice, OutboxStep.CREDIT, now, credit_note=note)
        OutboxMessage.objects.bulk_create([step], ignore_conflicts=True)


@transaction.atomic
def retry_steps(*, message_ids: Collection[int], actor: str, now: datetime) -> int:
    """Give dead letters their tries back. Returns how many there were; raises ``NothingToRetry`` when none."""
    revived = _revive(OutboxMessage.objects.filter(pk__in=message_ids), now)
    if not revived:
        raise NothingToRetry("None of these steps is a dead letter.")
    logger.info("outbox steps revived", steps=revived, actor=actor)
    return revived


def _revive(messages: QuerySet[OutboxMessage], now: datetime) -> int:
    """What was refused stays refused under its key, and what was given up may have acted: hence ``uncertain``."""
    dead = messages.filter(status=OutboxStatus.DEAD)
    return dead.update(status=OutboxStatus.PENDING, attempts=0, uncertain=True, next_attempt_at=now)


def _why_not_payable(invoice: Invoice, lines: list[InvoiceLine]) -> str:
    if len(lines) > MOST_LINES:
        return f"Stripe takes at most {MOST_LINES} lines on an invoice; this one has {len(lines)}."
    try:
        for line in lines:
            units_of(line.amount, invoice.currency)
    except NotPayable as refusal:
        return str(refusal)
    return ""


def _step(
    invoice: Invoice,
    step: OutboxStep,
    now: datetime,
    *,
    reference: UUID | None = None,
    line: InvoiceLine | None = None,
    credit_note: CreditNote | None = None,
) -> OutboxMessage:
    return OutboxMessage(
        invoice=invoice,
        step=step,
        line=line,
        credit_note=credit_note,
        reference=reference or uuid4(),
        key_made_at=now,
        next_attempt_at=now,
        created_at=now,
    )
