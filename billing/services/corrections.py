"""Rate corrections: notes that bring finalised invoices to what they should say by the rates that are known now.

The rule. An invoice always bills the price that was locked in at the start; it is never edited, and time that is not
on a finalised invoice keeps that price until it is. A rate that is recorded late is reflected exactly once, by a note:
when it is recorded for invoices that are finalised by then, and for all others (drafts, and time that was not billed
yet) when they are finalised. What a note proposes is

    should = price of all the invoice's time at its due rates - due price of the seconds that issued notes credit
    is     = total + issued rate corrections - issued notes that credit seconds
    difference = should - is        (above zero: a debit note; below: a credit note, of at most what is left to credit)

so that it is priced against what was billed and what was corrected already, in whatever order and however often rates
are recorded. A credit of seconds (a window's or a service-level rule's) gives back their due price, so that a second
that was credited is not paid again by a correction, nor the other way round. An amount that a person chose stays as it
was chosen. The due rates are defined in ``billing.repricing``. Time that was sold without any price is no matter for a
note: a late rate prices it, and the next invoice bills it.

Whatever changes these figures (a rate, a decision, the finalisation) computes the invoice's drafts anew. A draft with
another outcome is withdrawn and replaced, never edited, so that nobody issues what they have not seen.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import structlog
from django.db import transaction
from django.db.models import Prefetch

from billing.models import CreditedRange, CreditNote, CreditNoteStatus, Invoice, NoteKind, NoteOrigin
from billing.repricing import (
    DuePiece,
    amount_due,
    due_lines,
    due_pieces,
    shown_changes,
    shown_lines,
    touched_invoices,
)
from billing.services.notes import (
    BILLING,
    CREDITABLE,
    OF_SECONDS,
    credit_seconds,
    ground_of,
    left_to_credit,
    signed,
    withdraw,
)
from gpufleet.common.locks import lock_name, lock_rows

logger = structlog.stdlib.get_logger(__name__)

OVERTAKEN = "The figures have changed; a draft that was computed later says what is due now."


@dataclass(frozen=True, slots=True)
class Correction:
    """What a rate correction would say of an invoice. ``rate_ids`` are the late rates that it is the first to bring."""

    kind: NoteKind
    amount: Decimal
    rate_ids: tuple[int, ...]

    def is_said_by(self, note: CreditNote) -> bool:
        """Whether the note proposes the very same."""
        return (note.kind, note.amount, tuple(note.rate_ids)) == (self.kind, self.amount, self.rate_ids)


@transaction.atomic
def correct_invoices(*, rate_id: int, now: datetime) -> None:
    """Draft notes for what a rate changes on finalised invoices. Doing it again changes nothing.

    No invoice is finalised meanwhile: it would miss a rate that is not committed yet, and this would miss the invoice.
    """
    lock_name("billing.invoice-number")
    invoices = lock_rows(Invoice.objects.all(), touched_invoices(rate_id))
    refresh_notes([invoice for invoice in invoices.values() if invoice.status in CREDITABLE], now=now)


def refresh_notes(invoices: Sequence[Invoice], *, now: datetime) -> None:
    """Compute the drafts of these invoices anew. They are finalised, and locked by the caller; three queries read."""
    ids = [invoice.pk for invoice in invoices]
    pieces = due_pieces(ids)
    notes: dict[int, list[CreditNote]] = {pk: [] for pk in ids}
    ranges = Prefetch("credited_ranges", CreditedRange.objects.filter(released_at__isnull=True))
    known = CreditNote.objects.filter(invoice_id__in=ids).exclude(status=CreditNoteStatus.WITHDRAWN)
    for note in known.order_by("pk").select_related("service_level").prefetch_related(ranges):
        notes[note.invoice_id].append(note)
    for invoice in invoices:
        _Account(invoice, pieces.get(invoice.pk, []), notes[invoice.pk], now).refresh()


class _Account:
    """One invoice with its time at the due rates and its notes, oldest first."""

    def __init__(self, invoice: Invoice, pieces: list[DuePiece], notes: list[CreditNote], now: datetime) -> None:
        self.invoice, self.pieces, self.notes, self.now = invoice, pieces, notes, now
        self.by_range = {piece.billed_id: piece for piece in pieces}
        self.left = left_to_credit(invoice, notes)

    def refresh(self) -> None:
        """The drafts that credit seconds first, then the rate correction."""
        for note in self._with(CreditNoteStatus.DRAFT, *OF_SECONDS):
            self._refresh_seconds(note)
        self._propose(self._correction())

    def _with(self, status: CreditNoteStatus, *origins: NoteOrigin) -> list[CreditNote]:
        return [note for note in self.notes if note.status == status and note.origin in origins]

    def _seconds_of(self, note: CreditNote) -> list[DuePiece]:
        return [
            self.by_range[row.billed_range_id].part(row.during.lower, row.during.upper)
            for row in note.credited_ranges.all()
        ]

    def _refresh_seconds(self, note: CreditNote) -> None:
        pieces = self._seconds_of(note)
        if min(amount_due(pieces, note.percent), self.left) != note.amount:
            withdraw(note, reason=OVERTAKEN, now=self.now)
            credit_seconds(self.invoice, pieces, ground_of(note), left=self.left, now=self.now)

    def _correction(self) -> Correction | None:
        """What is to be proposed; None when the invoice says what it should, or no rate ever changed its price."""
        issued = self._with(CreditNoteStatus.ISSUED, NoteOrigin.RATE)
        late = {piece.rate_id for piece in self.pieces if piece.rate_id != piece.locked_id}
        if not late and not self._with(CreditNoteStatus.ISSUED, NoteOrigin.RATE, *OF_SECONDS):
            return None
        difference = self._should_be() - self._is()
        kind = NoteKind.DEBIT if difference > 0 else NoteKind.CREDIT
        amount = difference if difference > 0 else min(-difference, self.left)
        rates = sorted(late.difference(*(note.rate_ids for note in issued)))
        return Correction(kind, amount, tuple(rates)) if amount > 0 else None

    def _should_be(self) -> Decimal:
        credits_ = self._with(CreditNoteStatus.ISSUED, *OF_SECONDS)
        return amount_due(self.pieces) - sum(
            (amount_due(self._seconds_of(note), note.percent) for note in credits_), Decimal(0)
        )

    def _is(self) -> Decimal:
        counted = self._with(CreditNoteStatus.ISSUED, NoteOrigin.RATE, *OF_SECONDS)
        return self.invoice.total + sum((signed(note) for note in counted), Decimal(0))

    def _propose(self, correction: Correction | None) -> None:
        """Replace the draft unless it says the same. What finance declined last is not proposed again."""
        drafts = self._with(CreditNoteStatus.DRAFT, NoteOrigin.RATE)
        if correction is not None and any(correction.is_said_by(draft) for draft in drafts):
            return
        for draft in drafts:
            withdraw(draft, reason=OVERTAKEN, now=self.now)
        declined = self._with(CreditNoteStatus.DECLINED, NoteOrigin.RATE)[-1:]
        if correction is not None and not any(correction.is_said_by(note) for note in declined):
            self._write(correction)

    def _write(self, correction: Correction) -> None:
        note = CreditNote.objects.create(
            invoice=self.invoice,
            kind=correction.kind,
            origin=NoteOrigin.RATE,
            amount=correction.amount,
            rate_ids=list(correction.rate_ids),
            reason=_reason(self.pieces, self.invoice.currency),
            evidence=self._evidence(),
            created_by=BILLING,
            created_at=self.now,
        )
        logger.info("rate correction drafted", credit_note_id=note.pk, invoice_id=self.invoice.pk, kind=note.kind)

    def _evidence(self) -> dict[str, Any]:
        credits_ = self._with(CreditNoteStatus.ISSUED, *OF_SECONDS)
        corrections = self._with(CreditNoteStatus.ISSUED, NoteOrigin.RATE)
        return {
            "changes": shown_changes(self.pieces),
            "due_lines": shown_lines(due_lines(self.pieces)),
            "should_be": str(self._should_be()),
            "is": str(self._is()),
            "total": str(self.invoice.total),
            "left_to_credit": str(self.left),
            "earlier_corrections": [{"note_id": note.pk, "amount": str(signed(note))} for note in corrections],
            "credited_seconds": [
                {
                    "note_id": note.pk,
                    "amount": str(note.amount),
                    "due": str(amount_due(self._seconds_of(note), note.percent)),
                }
                for note in credits_
            ],
        }


def _reason(pieces: Iterable[DuePiece], currency: str) -> str:
    changes = {
        (piece.gpu_model, piece.locked.price_per_gpu_hour, piece.terms.price_per_gpu_hour, piece.rate_id)
        for piece in pieces
        if piece.rate_id != piece.locked_id
    }
    parts = [f"{model} {old} to {new} {currency}/GPU-hour (rate {rate})" for model, old, new, rate in sorted(changes)]
    return f"Rates recorded after the time was sold: {'; '.join(parts) or 'none is due any more'}"[:500]
