"""What the services of credit and debit notes share: locks, what is left to credit, and notes that credit seconds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from django.db.backends.postgresql.psycopg_any import DateTimeTZRange
from django.db.models import Q

from billing.models import (
    CreditedRange,
    CreditNote,
    CreditNoteStatus,
    Invoice,
    InvoiceStatus,
    NoteKind,
    NoteOrigin,
    ServiceLevel,
)
from billing.repricing import DuePiece, amount_due, due_lines, shown_lines, shown_pieces
from gpufleet.common.errors import NotFound
from gpufleet.common.locks import lock_rows

logger = structlog.stdlib.get_logger(__name__)

CREDITABLE = (InvoiceStatus.OPEN, InvoiceStatus.PAID, InvoiceStatus.UNCOLLECTIBLE)
# Notes that give seconds back, whose worth follows from the rates. Theirs are the credited ranges.
OF_SECONDS = (NoteOrigin.WINDOW, NoteOrigin.SERVICE_LEVEL)
# Who decides where no person does.
BILLING = "billing"


@dataclass(frozen=True, slots=True)
class Ground:
    """Why a share of some seconds is given back. ``context`` is the part of the evidence that no price changes."""

    origin: NoteOrigin
    percent: int
    reason: str
    context: Mapping[str, Any]
    created_by: str
    service_level: ServiceLevel | None = None
    fault_id: int | None = None


def lock_invoice(invoice_id: int) -> Invoice:
    """The invoice, locked. Raises ``NotFound``."""
    invoice = lock_rows(Invoice.objects.all(), [invoice_id]).get(invoice_id)
    if invoice is None:
        raise NotFound
    return invoice


def left_to_credit(invoice: Invoice, notes: Iterable[CreditNote] | None = None) -> Decimal:
    """What the invoice and its issued debit notes billed, minus its issued credit notes; a query without ``notes``."""
    known = invoice.credit_notes.filter(status=CreditNoteStatus.ISSUED) if notes is None else notes
    return invoice.total + sum((signed(note) for note in known if note.status == CreditNoteStatus.ISSUED), Decimal(0))


def signed(note: CreditNote) -> Decimal:
    """What the note adds to its invoice: a credit note takes off."""
    return note.amount if note.kind == NoteKind.DEBIT else -note.amount


def credit_seconds(
    invoice: Invoice, pieces: Sequence[DuePiece], ground: Ground, *, left: Decimal, now: datetime
) -> CreditNote | None:
    """Draft a note of a share of the due price of these seconds, at most ``left``; None when that is nothing.

    The seconds are nobody else's: the database refuses to credit one twice. The invoice is locked by the caller.
    """
    worth = amount_due(pieces, ground.percent)
    amount = min(worth, left)
    if amount <= 0:
        return None
    note = CreditNote.objects.create(
        invoice=invoice,
        origin=ground.origin,
        amount=amount,
        percent=ground.percent,
        reason=ground.reason,
        evidence={**ground.context, **_priced(pieces, ground.percent, worth, left)},
        service_level=ground.service_level,
        fault_id=ground.fault_id,
        created_by=ground.created_by,
        created_at=now,
    )
    CreditedRange.objects.bulk_create(
        CreditedRange(
            note=note,
            billed_range_id=piece.billed_id,
            during=DateTimeTZRange(piece.stretch.start, piece.stretch.end),
        )
        for piece in pieces
    )
    logger.info("credit note drafted", credit_note_id=note.pk, invoice_id=invoice.pk, amount=str(amount))
    return note


def _priced(pieces: Sequence[DuePiece], percent: int, worth: Decimal, left: Decimal) -> dict[str, Any]:
    evidence: dict[str, Any] = {
        "percent": percent,
        "lines": shown_lines(due_lines(pieces, percent)),
        "pieces": shown_pieces(pieces),
    }
    if worth > left:
        evidence |= {"worth": str(worth), "left_to_credit": str(left)}
    return evidence


def not_credited(pieces: Sequence[DuePiece], *, nor_declined: bool = False) -> list[DuePiece]:
    """The pieces without the seconds that drafts or issued notes give back; one query.

    With ``nor_declined`` also without those that finance declined to give back under a service-level rule.
    """
    wanted = Q(released_at__isnull=True)
    if nor_declined:
        wanted |= Q(note__status=CreditNoteStatus.DECLINED, note__origin=NoteOrigin.SERVICE_LEVEL)
    taken: dict[int, list[tuple[datetime, datetime]]] = {}
    ids = {piece.billed_id for piece in pieces}
    for row in CreditedRange.objects.filter(wanted, billed_range_id__in=ids).order_by("during"):
        taken.setdefault(row.billed_range_id, []).append((row.during.lower, row.during.upper))
    return [rest for piece in pieces for rest in _without(piece, taken.get(piece.billed_id, []))]


def _without(piece: DuePiece, spans: Sequence[tuple[datetime, datetime]]) -> list[DuePiece]:
    """What is left of the piece outside the spans, which are half-open and in the order of their starts."""
    rest, start = [], piece.stretch.start
    for low, high in spans:
        rest.append((start, min(low, piece.stretch.end)))
        start = max(start, high)
    rest.append((start, piece.stretch.end))
    return [piece.part(low, high) for low, high in rest if low < high]


def ground_of(note: CreditNote) -> Ground:
    """Why the note gives its seconds back, so that it can be drafted again at another price."""
    priced = {"percent", "lines", "pieces", "worth", "left_to_credit"}
    return Ground(
        origin=NoteOrigin(note.origin),
        percent=note.percent,
        reason=note.reason,
        context={name: value for name, value in note.evidence.items() if name not in priced},
        created_by=note.created_by,
        service_level=note.service_level,
        fault_id=note.fault_id,
    )


def decide(note: CreditNote, status: CreditNoteStatus, *, actor: str, reason: str, now: datetime) -> None:
    """Write the end of a draft. One that is declined or withdrawn lets go of its seconds."""
    note.status = status
    note.decided_at = now
    note.decided_by = actor
    note.decision_reason = reason
    note.save(update_fields=["status", "number", "decided_at", "decided_by", "decision_reason"])
    if status != CreditNoteStatus.ISSUED:
        note.credited_ranges.update(released_at=now)
    logger.info("credit note decided", credit_note_id=note.pk, number=note.number, status=status, actor=actor)


def withdraw(note: CreditNote, *, reason: str, now: datetime) -> None:
    """Take back a computed draft, which another computation has overtaken."""
    decide(note, CreditNoteStatus.WITHDRAWN, actor=BILLING, reason=reason, now=now)
