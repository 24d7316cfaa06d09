"""What gathers under one cause of leakage: its time, its worth, and the rows behind it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from heapq import nlargest

from billing.models import Rate
from clusters.models import GPU
from dashboard.queries.causes import Cause
from dashboard.queries.prices import Tally, amount_of
from tenants.models import Tenant

ROWS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Behind:
    """Who a row behind a cause is about: a GPU, a tenant's time at a rate, a job, or an invoice."""

    gpu_id: int | None = None
    tenant_id: int | None = None
    gpu_model: str | None = None
    rate_id: int | None = None
    invoice_id: int | None = None
    job_id: int | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One of the rows behind a cause, with its time in microseconds and what it is worth. ``label`` is for people."""

    about: Behind
    microseconds: int
    amount: Decimal
    node_id: int | None = None
    cluster_id: int | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Loss:
    """One cause: its time in microseconds, its amount, and the largest of the ``rows_total`` rows behind it.

    ``unvalued`` is the part of the time that has no price.
    """

    cause: Cause
    microseconds: int
    unvalued: int
    amount: Decimal
    rows: list[Row]
    rows_total: int

    @property
    def other_microseconds(self) -> int:
        """The time of the rows that are not shown."""
        return self.microseconds - sum(row.microseconds for row in self.rows)

    @property
    def other_amount(self) -> Decimal:
        """The amount of the rows that are not shown, with what rounding the shown ones made: all add up exactly."""
        return self.amount - sum((row.amount for row in self.rows), Decimal(0))


@dataclass(slots=True)
class Bucket:
    """What gathers under one cause. ``others``: rows that are counted and not kept."""

    total: Tally = field(default_factory=Tally)
    rows: dict[Behind, Tally] = field(default_factory=dict)
    others: int = 0

    def add(self, about: Behind, microseconds: int, millionths: int | None) -> None:
        """Add time at a price in millionths per GPU-hour to the total and to its row."""
        self.total.add(microseconds, millionths)
        self.rows.setdefault(about, Tally()).add(microseconds, millionths)


Buckets = dict[Cause, Bucket]


def loss_of(cause: Cause, bucket: Bucket, currency: str, *, most: int = ROWS_SHOWN) -> Loss:
    """The cause as it is shown, its largest rows first."""
    largest = nlargest(most, bucket.rows.items(), key=lambda item: (item[1].worth, item[1].microseconds))
    rows = [Row(about, tally.microseconds, amount_of(tally.worth, currency)) for about, tally in largest]
    total = bucket.total
    amount = amount_of(total.worth, currency)
    return Loss(cause, total.microseconds, total.unvalued, amount, rows, len(bucket.rows) + bucket.others)


def named(losses: Iterable[Loss]) -> list[Loss]:
    """The same losses with the names of what their rows are about. Three queries for all of them."""
    losses = list(losses)
    abouts = [row.about for loss in losses for row in loss.rows]
    gpus = GPU.objects.select_related("node").in_bulk(_ids(about.gpu_id for about in abouts))
    tenants = Tenant.objects.in_bulk(_ids(about.tenant_id for about in abouts))
    rates = Rate.objects.in_bulk(_ids(about.rate_id for about in abouts))
    return [
        replace(loss, rows=[_named_row(loss.cause, row, gpus, tenants, rates) for row in loss.rows]) for loss in losses
    ]


def _named_row(
    cause: Cause, row: Row, gpus: Mapping[int, GPU], tenants: Mapping[int, Tenant], rates: Mapping[int, Rate]
) -> Row:
    about = row.about
    if about.gpu_id is not None:
        gpu = gpus[about.gpu_id]
        about = replace(about, gpu_model=gpu.model)
        label = f"{gpu.node.hostname}, GPU {gpu.gpu_index}"
        return replace(row, about=about, node_id=gpu.node_id, cluster_id=gpu.node.cluster_id, label=label)
    parts = [tenants[about.tenant_id].name if about.tenant_id else "no tenant", row.label, about.gpu_model or ""]
    if cause is Cause.BELOW_LIST and about.rate_id is not None:
        parts.append(rates[about.rate_id].reason or "no reason given")
    return replace(row, label=": ".join(part for part in parts if part))


def _ids(ids: Iterable[int | None]) -> list[int]:
    return sorted({one for one in ids if one is not None})
