"""The proof of an invoice: every allocation behind every line, to the second, and the digest of it all."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import astuple, dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from billing.models import BilledRange, Invoice
from billing.pricing import Stretch, Terms, billed_seconds


@dataclass(frozen=True, slots=True)
class ProofRow:
    """One allocation's time behind one line, with what the pricing function makes of it."""

    line_id: int
    allocation_id: int
    job_id: int
    job_name: str
    gpu_id: int
    gpu_model: str
    start: datetime
    end: datetime
    held_seconds: Decimal
    billed_seconds: int
    rate_id: int
    price_per_gpu_hour: Decimal


@dataclass(frozen=True, slots=True)
class Proof:
    """Every allocation behind every line. ``sha256`` is computed now; the invoice holds the one of its issue."""

    invoice: Invoice
    rows: tuple[ProofRow, ...]
    sha256: str

    @property
    def matches(self) -> bool | None:
        """Whether the ledger still says what it said when the invoice was finalised; None for a draft."""
        return self.sha256 == self.invoice.proof_sha256 if self.invoice.proof_sha256 else None


def proof_of(invoice: Invoice) -> Proof:
    """Every allocation behind every line of the invoice, in a fixed order, and the digest of it all."""
    ranges = BilledRange.objects.filter(line__invoice=invoice).select_related("line__rate", "allocation__job")
    rows = tuple(_proof_row(billed) for billed in ranges.order_by("line_id", "allocation_id", "during"))
    return Proof(invoice, rows, _digest(invoice, rows))


def _proof_row(billed: BilledRange) -> ProofRow:
    line, rate, allocation = billed.line, billed.line.rate, billed.allocation
    terms = Terms(line.price_per_gpu_hour, rate.currency, rate.minimum_seconds, rate.increment_seconds)
    stretch = Stretch(allocation.during.lower, billed.during.lower, billed.during.upper)
    return ProofRow(
        line_id=line.pk,
        allocation_id=allocation.pk,
        job_id=allocation.job_id,
        job_name=allocation.job.name,
        gpu_id=allocation.gpu_id,
        gpu_model=line.gpu_model,
        start=stretch.start,
        end=stretch.end,
        held_seconds=stretch.held_seconds,
        billed_seconds=billed_seconds(stretch, terms),
        rate_id=rate.pk,
        price_per_gpu_hour=line.price_per_gpu_hour,
    )


def _digest(invoice: Invoice, rows: Iterable[ProofRow]) -> str:
    """SHA-256 of lines of JSON: the invoice, its lines, its rows without the jobs' names. All values are strings."""
    head = [invoice.pk, invoice.tenant_id, invoice.currency, invoice.total]
    columns = ("pk", "gpu_model", "rate_id", "price_per_gpu_hour", "held_seconds", "billed_seconds", "amount")
    nameless = (astuple(replace(row, job_name="")) for row in rows)
    parts: list[Iterable[Any]] = [head, *invoice.lines.order_by("pk").values_list(*columns), *nameless]
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(json.dumps([_canonical(value) for value in part]).encode() + b"\n")
    return sha256.hexdigest()


def _canonical(value: Any) -> str:
    if isinstance(value, Decimal):
        return f"{value:.6f}"
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else str(value)
