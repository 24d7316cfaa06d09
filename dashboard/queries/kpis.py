"""The few figures that say how the fleet does."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from django.db import connection

from clusters.models import GPU
from dashboard.queries.leakage import lost_in
from dashboard.queries.prices import amount_of, in_millionths, per_hour
from gpufleet.common.snapshots import snapshot
from jobs.ledger import Account

# Nearest rank, so that each figure is a wait that a job really had.
QUEUE_WAIT = """
    SELECT count(*),
           percentile_disc(0.5) WITHIN GROUP (ORDER BY started_at - submitted_at),
           percentile_disc(0.95) WITHIN GROUP (ORDER BY started_at - submitted_at)
      FROM jobs_job
     WHERE started_at >= %(start)s AND started_at < %(end)s
"""


@dataclass(frozen=True, slots=True)
class QueueWait:
    """How long the jobs that started in the window had waited since their submission, in seconds."""

    jobs: int
    p50: float | None
    p95: float | None


@dataclass(frozen=True, slots=True)
class Period:
    """A window's figures. Revenue is metered time at its locked prices."""

    start: datetime
    end: datetime
    account: Account
    revenue: Decimal
    revenue_per_gpu_hour: Decimal | None
    revenue_per_sold_gpu_hour: Decimal | None
    leakage: Decimal
    queue_wait: QueueWait

    def share(self, microseconds: int) -> float:
        """A part of the registered time, 0 to 1 with six decimals; 0 where nothing was registered."""
        registered = self.account.registered
        return round(microseconds / registered, 6) if registered else 0.0


@dataclass(frozen=True, slots=True)
class Kpis:
    """The figures of the window, and of the one of the same length before it. ``gpus`` are in service now."""

    currency: str
    gpus: int
    now: Period
    before: Period

    @property
    def start(self) -> datetime:
        """Where the window begins."""
        return self.now.start

    @property
    def end(self) -> datetime:
        """Where it ends."""
        return self.now.end


def kpis(currency: str, *, start: datetime, end: datetime) -> Kpis:
    """The figures of ``[start, end)`` in one currency; ``end`` is now. A fixed number of queries, of one instant."""
    with snapshot():
        return Kpis(
            currency=currency,
            gpus=GPU.objects.filter(retired_at__isnull=True).count(),
            now=_figures(currency, start, end),
            before=_figures(currency, start - (end - start), start),
        )


def _figures(currency: str, start: datetime, end: datetime) -> Period:
    lost = lost_in(currency, start=start, end=end, most=0)
    priced = [row for row in lost.sold if row.price_per_gpu_hour is not None and row.currency == currency]
    metered = sum(row.held * in_millionths(row.price_per_gpu_hour or Decimal(0)) for row in priced)
    return Period(
        start=start,
        end=end,
        account=lost.account,
        revenue=amount_of(metered, currency),
        revenue_per_gpu_hour=per_hour(metered, lost.account.registered),
        revenue_per_sold_gpu_hour=per_hour(metered, sum(row.held for row in priced)),
        leakage=lost.amount(currency),
        queue_wait=queue_wait(start=start, end=end),
    )


def change(now: Decimal | None, before: Decimal | None) -> float | None:
    """By what part a figure has grown: 0.25 is a quarter more. None where there is nothing to compare it with."""
    return round(float(now / before - 1), 6) if now is not None and before else None


def queue_wait(*, start: datetime, end: datetime) -> QueueWait:
    """The waits of the jobs that started in ``[start, end)``. One query."""
    with connection.cursor() as cursor:
        cursor.execute(QUEUE_WAIT, {"start": start, "end": end})
        jobs, *waits = cursor.fetchone()
    p50, p95 = (None if wait is None else wait.total_seconds() for wait in waits)
    return QueueWait(jobs, p50, p95)
