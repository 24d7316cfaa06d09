"""Credit notes: what corrects a finalised invoice, which itself never changes."""

from datetime import datetime
from decimal import Decimal

import structlog
from django.db import transaction
from django.db.models import Max

from billing.models import CreditNote, CreditNoteStatus, Invoice, NoteKind, NoteOrigin
from billing.repricing import due_pieces
from billing.services.corrections import refresh_notes
from billing.services.notes import (
    CREDITABLE,
    Ground,
    credit_seconds,
    decide,
    left_to_credit,
    lock_invoice,
    not_credited,
)
from billing.services.sending import queue_credit
from gpufleet.common.currencies import minor_unit
from gpufleet.common.errors import Conflict, FieldProblem, InvalidInput, NotFound
from gpufleet.common.locks import lock_name, lock_rows

logger = structlog.stdlib.get_logger(__name__)


class InvoiceNotFinalised(Conflict):
    """A draft is voided and made again, and a void invoice owes nothing: neither takes a credit note."""

    code = "invoice_not_finalised"


class CreditTooLarge(Conflict):
    """The issued credit notes of an invoice would exceed its total; ``available`` is what is left."""

    code = "credit_too_large"


class CreditNoteDecided(Conflict):
    """The credit note was issued, declined or withdrawn before."""

    code = "credit_note_decided"


class NothingToCredit(Conflict):
    """The invoice billed nothing in the window that no other note gives back already."""

    code = "nothing_to_credit"


class NotOwed(Conflict):
    """Only an issued debit note that was not settled yet is settled."""

    code = "not_owed"


@transaction.atomic
def draft_credit_note(*, invoice_id: int, amount: Decimal, reason: str, created_by: str, now: datetime) -> CreditNote:
    """Propose to give back ``amount``, in the invoice's currency; it counts once it is issued.

    Raises ``NotFound``, ``InvoiceNotFinalised``, ``CreditTooLarge``, and ``InvalidInput`` for an amount that is not
    positive or finer than the currency's minor unit.
    """
    invoice = lock_invoice(invoice_id)
    _check_amount(invoice, amount)
    _check_finalised(invoice)
    _check_left(invoice, amount)
    note = CreditNote.objects.create(
        invoice=invoice,
        amount=amount,
        reason=reason,
        created_by=created_by,
        created_at=now,
    )
    logger.info("credit note drafted", credit_note_id=note.pk, invoice_id=invoice_id, amount=str(amount))
    return note


@transaction.atomic
def credit_window(
    *, invoice_id: int, start: datetime, end: datetime, reason: str, created_by: str, now: datetime
) -> CreditNote:
    """Propose to give back what is due for ``[start, end)``, by the function that priced the invoice.

    Seconds that another note gives back already are left out. The allocations behind the rest are the note's evidence.
    Raises ``NotFound``, ``InvoiceNotFinalised`` and ``NothingToCredit``.
    """
    invoice = lock_invoice(invoice_id)
    _check_finalised(invoice)
    wanted = [
        piece.part(max(piece.stretch.start, start), min(piece.stretch.end, end))
        for piece in due_pieces([invoice_id]).get(invoice_id, [])
        if max(piece.stretch.start, start) < min(piece.stretch.end, end)
    ]
    context = {"from": start.isoformat(), "to": end.isoformat()}
    ground = Ground(NoteOrigin.WINDOW, 100, reason, context, created_by)
    pieces = not_credited(wanted)
    note = credit_seconds(invoice, pieces, ground, left=left_to_credit(invoice), now=now)
    if note is None:
        raise NothingToCredit("This invoice billed nothing in this window that no other note gives back already.")
    return note


@transaction.atomic
def issue_credit_note(*, credit_note_id: int, actor: str, now: datetime, reason: str = "") -> CreditNote:
    """Make the note count: it gets the next number without a gap, and freezes.

    Raises ``NotFound``, ``CreditNoteDecided``, ``InvoiceNotFinalised`` and ``CreditTooLarge``.
    """
    note = _lock_note(credit_note_id)
    _check_finalised(note.invoice)
    if note.kind == NoteKind.CREDIT:
        _check_left(note.invoice, note.amount)
    lock_name("billing.credit-note-number")
    last: int | None = CreditNote.objects.aggregate(last=Max("number"))["last"]
    note.number = (last or 0) + 1
    decide(note, CreditNoteStatus.ISSUED, actor=actor, reason=reason, now=now)
    if note.kind == NoteKind.CREDIT:  # Stripe knows no debit notes: what they ask for is settled by hand.
        queue_credit(note, now)
    refresh_notes([note.invoice], now=now)
    return note


@transaction.atomic
def decline_credit_note(*, credit_note_id: int, actor: str, now: datetime, reason: str) -> CreditNote:
    """Decide against a proposed note, for a reason. Raises ``NotFound``, ``CreditNoteDecided`` and ``InvalidInput``."""
    if not reason.strip():
        raise InvalidInput(FieldProblem("#/reason", "required", "A note is declined for a reason; say which."))
    note = _lock_note(credit_note_id)
    decide(note, CreditNoteStatus.DECLINED, actor=actor, reason=reason, now=now)
    if note.invoice.status in CREDITABLE:
        refresh_notes([note.invoice], now=now)
    return note


def decide_credit_note(*, credit_note_id: int, to: str, actor: str, now: datetime, reason: str = "") -> CreditNote:
    """Issue (``issued``) or decline (anything else) a draft; raises what these two raise."""
    decision = issue_credit_note if to == CreditNoteStatus.ISSUED else decline_credit_note
    return decision(credit_note_id=credit_note_id, actor=actor, now=now, reason=reason)


@transaction.atomic
def settle_debit_note(*, credit_note_id: int, actor: str, now: datetime) -> CreditNote:
    """Say that an issued debit note was paid. It is a bill of its own: paying its invoice does not pay it.

    Raises ``NotFound`` and ``NotOwed``.
    """
    note = lock_rows(CreditNote.objects.all(), [credit_note_id]).get(credit_note_id)
    if note is None:
        raise NotFound
    if note.kind != NoteKind.DEBIT or note.status != CreditNoteStatus.ISSUED or note.settled_at is not None:
        raise NotOwed("Only an issued debit note that was not settled yet can be settled.", current=note.status)
    note.settled_at = now
    note.save(update_fields=["settled_at"])
    logger.info("debit note settled", credit_note_id=note.pk, actor=actor)
    return note


def _lock_note(credit_note_id: int) -> CreditNote:
    """The invoice is locked before its note, as everywhere, so that two notes of it are decided one by one."""
    known = CreditNote.objects.filter(pk=credit_note_id).first()
    if known is None:
        raise NotFound
    invoice = lock_invoice(known.invoice_id)
    note = lock_rows(CreditNote.objects.all(), [credit_note_id])[credit_note_id]
    if note.status != CreditNoteStatus.DRAFT:
        raise CreditNoteDecided(f"This note is {note.status} already.", current=note.status)
    note.invoice = invoice
    return note


def _check_amount(invoice: Invoice, amount: Decimal) -> None:
    unit = minor_unit(invoice.currency)
    if not amount.is_finite() or amount <= 0 or amount > invoice.total or amount % unit:
        detail = f"The amount is a multiple of {unit} {invoice.currency}, above 0, at most the invoice's total."
        raise InvalidInput(FieldProblem("#/amount", "invalid_amount", detail))


def _check_finalised(invoice: Invoice) -> None:
    if invoice.status not in CREDITABLE:
        raise InvoiceNotFinalised(f"This invoice is {invoice.status}; only a finalised one takes a credit note.")


def _check_left(invoice: Invoice, amount: Decimal) -> None:
    available = left_to_credit(invoice)
    if amount > available:
        left = available.quantize(minor_unit(invoice.currency))
        detail = f"Of this invoice {left:,} {invoice.currency} is left to credit."
        raise CreditTooLarge(detail, available=str(available))
