"""Sold time as lines: what no invoice holds yet, and what whole jobs have held.

All readings make the same ``MeteredLine`` and are priced by the same function, so that a preview equals its invoice.
Windows are half-open, in UTC.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from itertools import groupby
from typing import Any

from django.db import connection

from billing.pricing import Price, Stretch, Terms, price

# An allocation's part in the window, minus what stands on invoices that are not void. Without a rate there is no price
# and so nothing to bill; the unpriced seconds are counted apart.
UNBILLED = """
    SELECT allocation.tenant_id, rate.gpu_model, rate.id, allocation.price_per_gpu_hour, allocation.currency,
           rate.minimum_seconds, rate.increment_seconds,
           allocation.id, lower(allocation.during), lower(piece), upper(piece),
           EXISTS (SELECT FROM billing_billedrange AS before
                    WHERE before.allocation_id = allocation.id AND before.released_at IS NULL
                      AND upper(before.during) = lower(piece))
      FROM jobs_allocation AS allocation
      JOIN billing_rate AS rate ON rate.id = allocation.rate_id
     CROSS JOIN LATERAL (
           SELECT coalesce(range_agg(billed.during), '{}') AS done
             FROM billing_billedrange AS billed
            WHERE billed.allocation_id = allocation.id AND billed.released_at IS NULL
              AND billed.during && tstzrange(%(start)s, %(end)s)
           ) AS billed
     CROSS JOIN LATERAL unnest(
           tstzmultirange(allocation.during * tstzrange(%(start)s, %(end)s)) - billed.done
           ) AS piece
     WHERE allocation.during && tstzrange(%(start)s, %(end)s)
       AND allocation.tenant_id IS NOT NULL
       AND (%(tenants)s::bigint[] IS NULL OR allocation.tenant_id = ANY (%(tenants)s))
     ORDER BY 1, 2, 3, 4, 5, allocation.id, lower(piece)
"""

# The same columns for whole jobs up to now, with the job in the tenant's place.
OF_JOBS = """
    SELECT allocation.job_id, rate.gpu_model, rate.id, allocation.price_per_gpu_hour, allocation.currency,
           rate.minimum_seconds, rate.increment_seconds,
           allocation.id, lower(allocation.during), lower(allocation.during),
           least(coalesce(upper(allocation.during), %(now)s), %(now)s), false
      FROM jobs_allocation AS allocation
      JOIN billing_rate AS rate ON rate.id = allocation.rate_id
     WHERE allocation.job_id = ANY (%(jobs)s) AND lower(allocation.during) < %(now)s
     ORDER BY 1, 2, 3, 4, 5, allocation.id
"""

# All that a tenant held in the window with a price, cut at UTC midnights, with the day in the tenant's place.
OF_TENANT = """
    SELECT day::date, gpu.model, rate.id, allocation.price_per_gpu_hour, allocation.currency,
           rate.minimum_seconds, rate.increment_seconds,
           allocation.id, lower(allocation.during), lower(piece), upper(piece)
      FROM jobs_allocation AS allocation
      JOIN clusters_gpu AS gpu ON gpu.id = allocation.gpu_id
      JOIN billing_rate AS rate ON rate.id = allocation.rate_id
     CROSS JOIN LATERAL (SELECT allocation.during * tstzrange(%(start)s, %(end)s) AS held) AS clipped
     CROSS JOIN LATERAL generate_series(
           date_trunc('day', lower(held), 'UTC') AT TIME ZONE 'UTC', upper(held) AT TIME ZONE 'UTC', '1 day') AS day
     CROSS JOIN LATERAL (
           SELECT held * tstzrange(day AT TIME ZONE 'UTC', (day + interval '1 day') AT TIME ZONE 'UTC') AS piece
           ) AS cut
     WHERE allocation.tenant_id = %(tenant)s
       AND allocation.during && tstzrange(%(start)s, %(end)s)
       AND NOT isempty(piece)
     ORDER BY gpu.model, rate.id, day, allocation.id
"""


@dataclass(frozen=True, slots=True)
class Piece:
    """Time of one allocation. ``continues``: it starts where a billed range of the same allocation ends."""

    allocation_id: int
    stretch: Stretch
    continues: bool


@dataclass(frozen=True, slots=True)
class MeteredLine:
    """One tenant's (or job's) time of one GPU model at one rate, with its price."""

    owner_id: int
    gpu_model: str
    rate_id: int
    terms: Terms
    pieces: tuple[Piece, ...]
    price: Price

    @property
    def held_seconds(self) -> Decimal:
        """GPU-seconds, as the ledger has them."""
        return sum((piece.stretch.held_seconds for piece in self.pieces), Decimal(0))

    @property
    def period(self) -> tuple[datetime, datetime]:
        """From the first to the last instant of its pieces."""
        stretches = [piece.stretch for piece in self.pieces]
        return min(stretch.start for stretch in stretches), max(stretch.end for stretch in stretches)


@dataclass(frozen=True, slots=True)
class UsedPiece:
    """Priced time of one allocation within one UTC day."""

    day: date
    gpu_model: str
    terms: Terms
    stretch: Stretch


def used_pieces(*, tenant_id: int, start: datetime, end: datetime) -> list[UsedPiece]:
    """All that a tenant held in the window with a price, billed or not, cut at UTC midnights; one query."""
    rows = _rows(OF_TENANT, {"tenant": tenant_id, "start": start, "end": end})
    return [
        UsedPiece(day, model, Terms(*terms), Stretch(began, low, high))
        for day, model, _, *terms, _, began, low, high in rows
    ]


def unbilled_lines(*, start: datetime, end: datetime, tenant_ids: Collection[int] | None = None) -> list[MeteredLine]:
    """The sold and priced time in the window that no invoice holds, of these tenants or of all; one query."""
    tenants = None if tenant_ids is None else list(tenant_ids)
    return _lines(_rows(UNBILLED, {"start": start, "end": end, "tenants": tenants}))


def job_lines(*, job_ids: Collection[int], now: datetime) -> list[MeteredLine]:
    """All that these jobs have held with a price up to ``now``, billed or not; one query."""
    return _lines(_rows(OF_JOBS, {"jobs": list(job_ids), "now": now}))


def _rows(sql: str, parameters: dict[str, Any]) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        rows: list[tuple[Any, ...]] = cursor.fetchall()
    return rows


def _lines(rows: Iterable[tuple[Any, ...]]) -> list[MeteredLine]:
    return [_line(key, group) for key, group in groupby(rows, key=lambda row: row[:7])]


def _line(key: tuple[Any, ...], rows: Iterable[tuple[Any, ...]]) -> MeteredLine:
    owner_id, gpu_model, rate_id, *figures = key
    terms = Terms(*figures)
    pieces = tuple(
        Piece(allocation_id, Stretch(began, start, end), continues)
        for *_, allocation_id, began, start, end, continues in rows
    )
    return MeteredLine(owner_id, gpu_model, rate_id, terms, pieces, price((p.stretch for p in pieces), terms))
