"""What finalised invoices should say by the rates that are known now, and what the seconds of a credit are worth.

An invoice bills the price that was locked in when an allocation started. A rate that is recorded later, and is valid
from before that start, makes another price the due one. The rules:

- The due rate of an allocation is the one that would have been locked in at its start, had every rate of today been
  known: the tenant's own, then its plan's, then the list price; then the latest ``valid_from``; then the one recorded
  last. The plan is the one that the locked rate is for; where the locked rate is for no plan, a plan's rate counts only
  if it is for the tenant's present plan and was recorded after the start, so that a change of plan reprices nothing.
- A rate that finance declined to bring to an invoice is passed over there, as if it had not been recorded.
- All time of one GPU model that is due at one rate is a line, by the pricing function, as on an invoice made anew.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from django.db import connection

from billing.pricing import Price, Stretch, Terms, billed_seconds, price

DUE = """
    SELECT invoice.id, billed.id, line.gpu_model, allocation.id, allocation.job_id, allocation.gpu_id,
           lower(allocation.during), lower(billed.during), upper(billed.during),
           locked.id, line.price_per_gpu_hour, invoice.currency, locked.minimum_seconds, locked.increment_seconds,
           due.id, CASE due.id WHEN locked.id THEN line.price_per_gpu_hour ELSE due.price_per_gpu_hour END,
           invoice.currency, due.minimum_seconds, due.increment_seconds
      FROM billing_invoice AS invoice
      JOIN tenants_tenant AS tenant ON tenant.id = invoice.tenant_id
      JOIN billing_invoiceline AS line ON line.invoice_id = invoice.id
      JOIN billing_rate AS locked ON locked.id = line.rate_id
      JOIN billing_billedrange AS billed ON billed.line_id = line.id AND billed.released_at IS NULL
      JOIN jobs_allocation AS allocation ON allocation.id = billed.allocation_id
     CROSS JOIN LATERAL (
           SELECT rate.*
             FROM billing_rate AS rate
            WHERE rate.id = locked.id
               OR rate.gpu_model = line.gpu_model
              AND rate.currency = invoice.currency
              AND rate.valid_from <= lower(allocation.during)
              AND (rate.tenant_id = invoice.tenant_id
                   OR rate.tenant_id IS NULL
                      AND (rate.plan_tier IN ('', locked.plan_tier)
                           OR locked.plan_tier = '' AND rate.plan_tier = tenant.plan_tier
                              AND rate.recorded_at > lower(allocation.during)))
              AND NOT EXISTS (SELECT FROM billing_creditnote AS note
                               WHERE note.invoice_id = invoice.id AND note.origin = 'rate'
                                 AND note.status = 'declined' AND rate.id = ANY (note.rate_ids))
            ORDER BY rate.tenant_id IS NULL, rate.plan_tier = '',
                     rate.valid_from DESC, rate.recorded_at DESC, rate.id DESC
            LIMIT 1
           ) AS due
     WHERE invoice.id = ANY (%(invoices)s)
     ORDER BY invoice.id, line.gpu_model, billed.id
"""

# The finalised invoices with time that a rate may be due for. What is due exactly, ``DUE`` says.
TOUCHED = """
    SELECT DISTINCT invoice.id
      FROM billing_rate AS added
      JOIN billing_invoiceline AS line ON line.gpu_model = added.gpu_model
      JOIN billing_rate AS locked ON locked.id = line.rate_id
      JOIN billing_invoice AS invoice ON invoice.id = line.invoice_id
      JOIN tenants_tenant AS tenant ON tenant.id = invoice.tenant_id
      JOIN billing_billedrange AS billed ON billed.line_id = line.id
      JOIN jobs_allocation AS allocation ON allocation.id = billed.allocation_id
     WHERE added.id = %(rate)s
       AND invoice.status IN ('open', 'paid', 'uncollectible')
       AND invoice.currency = added.currency
       AND upper(invoice.period) > added.valid_from
       AND lower(allocation.during) >= added.valid_from
       AND (added.tenant_id = invoice.tenant_id
            OR added.tenant_id IS NULL AND added.plan_tier IN ('', locked.plan_tier, tenant.plan_tier))
"""


@dataclass(frozen=True, slots=True)
class DuePiece:
    """Billed time of one allocation: at which rate it was billed, and at which it is due."""

    invoice_id: int
    billed_id: int
    gpu_model: str
    allocation_id: int
    job_id: int
    gpu_id: int
    stretch: Stretch
    locked_id: int
    locked: Terms
    rate_id: int
    terms: Terms

    def part(self, start: datetime, end: datetime) -> "DuePiece":
        """The same with only ``[start, end)`` of its time."""
        return replace(self, stretch=replace(self.stretch, start=start, end=end))


@dataclass(frozen=True, slots=True)
class DueLine:
    """Time of one GPU model at one rate, with its price."""

    gpu_model: str
    rate_id: int
    terms: Terms
    price: Price


def touched_invoices(rate_id: int) -> list[int]:
    """The ids of the finalised invoices that a new rate may have something to say about; one query."""
    with connection.cursor() as cursor:
        cursor.execute(TOUCHED, {"rate": rate_id})
        return [invoice_id for (invoice_id,) in cursor.fetchall()]


def due_pieces(invoice_ids: Collection[int]) -> dict[int, list[DuePiece]]:
    """The time that each of these invoices holds, in a fixed order; one query."""
    with connection.cursor() as cursor:
        cursor.execute(DUE, {"invoices": list(invoice_ids)})
        pieces = [_piece(row) for row in cursor.fetchall()]
    return {key: list(group) for key, group in groupby(pieces, key=lambda piece: piece.invoice_id)}


def due_lines(pieces: Iterable[DuePiece], percent: int = 100) -> list[DueLine]:
    """The pieces as lines at their due rates, each rounded once; with ``percent``, that share of each."""
    groups: dict[tuple[str, int, Terms], list[Stretch]] = {}
    for piece in pieces:
        groups.setdefault((piece.gpu_model, piece.rate_id, piece.terms), []).append(piece.stretch)
    return [DueLine(*key, price(stretches, key[2], percent)) for key, stretches in sorted(groups.items(), key=_by_rate)]


def amount_due(pieces: Iterable[DuePiece], percent: int = 100) -> Decimal:
    """The sum of the pieces' lines."""
    return sum((line.price.amount for line in due_lines(pieces, percent)), Decimal(0))


def shown_terms(rate_id: int, terms: Terms) -> dict[str, Any]:
    """A rate as evidence names it."""
    return {
        "rate_id": rate_id,
        "price_per_gpu_hour": str(terms.price_per_gpu_hour),
        "minimum_seconds": terms.minimum_seconds,
        "increment_seconds": terms.increment_seconds,
    }


def shown_lines(lines: Iterable[DueLine]) -> list[dict[str, Any]]:
    """Lines as evidence names them."""
    return [
        {
            "gpu_model": line.gpu_model,
            **shown_terms(line.rate_id, line.terms),
            "billed_seconds": line.price.billed_seconds,
            "amount": str(line.price.amount),
        }
        for line in lines
    ]


def shown_pieces(pieces: Iterable[DuePiece]) -> list[dict[str, Any]]:
    """Time as evidence names it: whose, which GPU's, from when until when, what it bills and at which rate."""
    return [
        {
            "allocation_id": piece.allocation_id,
            "job_id": piece.job_id,
            "gpu_id": piece.gpu_id,
            "gpu_model": piece.gpu_model,
            "from": piece.stretch.start.isoformat(),
            "to": piece.stretch.end.isoformat(),
            "billed_seconds": billed_seconds(piece.stretch, piece.terms),
            "rate_id": piece.rate_id,
            "price_per_gpu_hour": str(piece.terms.price_per_gpu_hour),
        }
        for piece in pieces
    ]


def shown_changes(pieces: Sequence[DuePiece]) -> list[dict[str, Any]]:
    """The pieces that are due at another rate than they were billed at, by old and new rate, as evidence."""
    groups: dict[tuple[str, int, int], list[DuePiece]] = {}
    for piece in pieces:
        if piece.rate_id != piece.locked_id:
            groups.setdefault((piece.gpu_model, piece.locked_id, piece.rate_id), []).append(piece)
    return [_shown_change(group) for _, group in sorted(groups.items())]


def _shown_change(group: list[DuePiece]) -> dict[str, Any]:
    first = group[0]
    return {
        "gpu_model": first.gpu_model,
        "billed": {
            **shown_terms(first.locked_id, first.locked),
            "billed_seconds": price((piece.stretch for piece in group), first.locked).billed_seconds,
        },
        "due": {
            **shown_terms(first.rate_id, first.terms),
            "billed_seconds": price((piece.stretch for piece in group), first.terms).billed_seconds,
        },
        "held_seconds": str(sum((piece.stretch.held_seconds for piece in group), Decimal(0))),
        "allocation_ids": sorted({piece.allocation_id for piece in group}),
    }


def _by_rate(group: tuple[tuple[str, int, Terms], list[Stretch]]) -> tuple[str, int]:
    return group[0][:2]


def _piece(row: tuple[Any, ...]) -> DuePiece:
    invoice_id, billed_id, model, allocation_id, job_id, gpu_id, began, start, end, locked_id, *rest = row
    return DuePiece(
        invoice_id,
        billed_id,
        model,
        allocation_id,
        job_id,
        gpu_id,
        Stretch(began, start, end),
        locked_id,
        Terms(*rest[:4]),
        rest[4],
        Terms(*rest[5:]),
    )
