"""Credit notes: what corrects a finalised invoice, which itself never changes."""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Max, Sum

from billing.ledger import billed_lines
from billing.models import CreditNote, CreditNoteStatus, Invoice, InvoiceStatus
from billing.pricing import minor_unit
from billing.services.sending import queue_credit
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_name, lock_rows

logger = structlog.stdlib.get_logger(__name__)

CREDITABLE = (InvoiceStatus.OPEN, InvoiceStatus.PAID, InvoiceStatus.UNCOLLECTIBLE)


class InvoiceNotFinalised(Conflict):
    """A draft is voided and made again, and a void invoice owes nothing: neither takes a credit note."""

    code = "invoice_not_finalised"


class CreditTooLarge(Conflict):
    """The issued credit notes of an invoice would exceed its total; ``available`` is what is left."""

    code = "credit_too_large"


class CreditNoteDecided(Conflict):
    """The credit note was issued or declined before."""

    code = "credit_note_decided"


@transaction.atomic
def draft_credit_note(
    *,
    invoice_id: int,
    amount: Decimal,
    reason: str,
    created_by: str,
    now: datetime,
    evidence: Mapping[str, Any] | None = None,
) -> CreditNote:
    """Propose to give back ``amount``, in the invoice's currency; it counts once it is issued.

    Raises ``NotFound``, ``InvoiceNotFinalised``, ``CreditTooLarge``, and ``InvalidInput`` for an amount that is not
    positive or finer than the currency's minor unit.
    """
    invoice = _lock_invoice(invoice_id)
    _check_amount(invoice, amount)
    _check_available(invoice, amount)
    note = CreditNote.objects.create(
        invoice=invoice,
        amount=amount,
        reason=reason,
        evidence=dict(evidence or {}),
        created_by=created_by,
        created_at=now,
    )
    logger.info("credit note drafted", credit_note_id=note.pk, invoice_id=invoice_id, amount=str(amount))
    return note


@transaction.atomic
def credit_window(
    *, invoice_id: int, start: datetime, end: datetime, reason: str, created_by: str, now: datetime
) -> CreditNote:
    """Propose to give back what the invoice billed for ``[start, end)``, by the function that priced the invoice.

    The allocations behind it are the note's evidence. Raises what ``draft_credit_note`` raises; a window in which the
    invoice billed nothing is an ``InvalidInput``, as is any amount of zero.
    """
    lines = billed_lines(invoice_id=invoice_id, start=start, end=end)
    evidence = {
        "from": start.isoformat(),
        "to": end.isoformat(),
        "lines": [
            {
                "gpu_model": line.gpu_model,
                "rate_id": line.rate_id,
                "billed_seconds": line.price.billed_seconds,
                "amount": str(line.price.amount),
                "allocation_ids": sorted({piece.allocation_id for piece in line.pieces}),
            }
            for line in lines
        ],
    }
    amount = sum((line.price.amount for line in lines), Decimal(0))
    return draft_credit_note(
        invoice_id=invoice_id, amount=amount, reason=reason, created_by=created_by, now=now, evidence=evidence
    )


@transaction.atomic
def issue_credit_note(*, credit_note_id: int, actor: str, now: datetime) -> CreditNote:
    """Give the money back: the note gets the next number without a gap, and freezes.

    Raises ``NotFound``, ``CreditNoteDecided``, ``InvoiceNotFinalised`` and ``CreditTooLarge``.
    """
    note = _lock_note(credit_note_id)
    _check_available(note.invoice, note.amount)
    lock_name("billing.credit-note-number")
    last: int | None = CreditNote.objects.aggregate(last=Max("number"))["last"]
    note.number = (last or 0) + 1
    _decide(note, CreditNoteStatus.ISSUED, actor, now)
    queue_credit(note, now)
    return note


@transaction.atomic
def decline_credit_note(*, credit_note_id: int, actor: str, now: datetime) -> CreditNote:
    """Decide against a proposed credit. Raises ``NotFound`` and ``CreditNoteDecided``."""
    return _decide(_lock_note(credit_note_id), CreditNoteStatus.DECLINED, actor, now)


def _decide(note: CreditNote, status: CreditNoteStatus, actor: str, now: datetime) -> CreditNote:
    note.status = status
    note.decided_at = now
    note.decided_by = actor
    note.save(update_fields=["status", "number", "decided_at", "decided_by"])
    logger.info("credit note decided", credit_note_id=note.pk, number=note.number, status=status, actor=actor)
    return note


def _lock_invoice(invoice_id: int) -> Invoice:
    invoice = lock_rows(Invoice.objects.all(), [invoice_id]).get(invoice_id)
    if invoice is None:
        raise NotFound
    return invoice


def _lock_note(credit_note_id: int) -> CreditNote:
    """The invoice is locked before its note, as everywhere, so that two notes of it are decided one by one."""
    known = CreditNote.objects.filter(pk=credit_note_id).first()
    if known is None:
        raise NotFound
    invoice = _lock_invoice(known.invoice_id)
    note = lock_rows(CreditNote.objects.all(), [credit_note_id])[credit_note_id]
    if note.status != CreditNoteStatus.DRAFT:
        raise CreditNoteDecided(f"This credit note is {note.status} already.", current=note.status)
    note.invoice = invoice
    return note


def _check_amount(invoice: Invoice, amount: Decimal) -> None:
    unit = minor_unit(invoice.currency)
    if not amount.is_finite() or amount <= 0 or amount > invoice.total or amount % unit:
        detail = f"The amount is a multiple of {unit} {invoice.currency}, above 0, at most the invoice's total."
        raise InvalidInput(FieldProblem("#/amount", "invalid_amount", detail))


def _check_available(invoice: Invoice, amount: Decimal) -> None:
    if invoice.status not in CREDITABLE:
        raise InvoiceNotFinalised(f"This invoice is {invoice.status}; only a finalised one takes a credit note.")
    issued = invoice.credit_notes.filter(status=CreditNoteStatus.ISSUED).aggregate(sum=Sum("amount"))["sum"]
    available = invoice.total - (issued or Decimal(0))
    if amount > available:
        detail = f"Of this invoice {available} {invoice.currency} is left to credit."
        raise CreditTooLarge(detail, available=str(available))
